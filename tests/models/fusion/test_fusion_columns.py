"""Tables of any make become columns, and what the columns hold is told."""

from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest
from PIL import Image
from pyarrow import feather

from regard.errors import UserError
from regard.models.fusion import Classes, Number
from regard.models.fusion.columns import columns_of, infer, kinds_of
from regard.models.fusion.splitting import split

EXPECTED = {"word": ["a", None, "c"], "size": [1.5, None, 3.0], "count": [2, 3, 5], "open": [True, False, True]}


def test_a_data_frame_an_arrow_table_and_plain_python_give_the_same_columns() -> None:
    frame = pandas.DataFrame(
        {"word": ["a", None, "c"], "size": [1.5, np.nan, 3.0], "count": [2, 3, 5], "open": [True, False, True]}
    )
    rows = [{name: EXPECTED[name][row] for name in EXPECTED} for row in range(3)]
    for table in (frame, pyarrow.table(EXPECTED), EXPECTED, rows, frame.convert_dtypes()):
        found = columns_of(table)
        assert found == EXPECTED
        assert [type(value) for value in found["open"]] == [bool] * 3
        assert [type(value) for value in found["count"]] == [int] * 3


def test_a_column_whose_name_is_no_text_keeps_its_values() -> None:
    expected = {"0": [1.5, None], "word": ["a", "b"]}
    frame = pandas.DataFrame({0: [1.5, None], "word": ["a", "b"]})
    for table in (frame, {0: [1.5, None], "word": ["a", "b"]}, [{0: 1.5, "word": "a"}, {"word": "b"}]):
        assert columns_of(table) == expected


def test_blank_text_and_everything_that_means_nothing_is_missing() -> None:
    values = ["", "  ", float("nan"), np.float32("nan"), pandas.NA, pandas.NaT, None, np.int64(4), "x"]
    assert columns_of({"any": values})["any"] == [None] * 7 + [4, "x"]


def test_columns_of_numbers_in_a_csv_file_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\ufeffname,size,count,mixed\n"a, b",1.5,2,3\nc,,3,x\n', encoding="utf-8")
    found = columns_of(path)
    assert found == {"name": ["a, b", "c"], "size": [1.5, None], "count": [2, 3], "mixed": ["3", "x"]}
    assert isinstance(found["count"][0], int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "has no row"),
        ("a,b\n1,2,3\n", "more values than names"),
        ("a,b,a\n1,2,3\n", r"t.csv has two columns of one name \('a'\)"),
        (None, "cannot be read as CSV"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        columns_of(path)


def test_what_is_no_table_is_refused(unchecked_shapes: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a int is no table: give a pandas data frame"):
        columns_of(5)
    with pytest.raises(UserError, match=r"columns differ in length \({'a': 2, 'b': 1}\)"):
        columns_of({"a": [1, 2], "b": [3]})
    twice = pyarrow.table([[1], [2]], names=["a", "a"])
    feather.write_feather(twice, tmp_path / "t.arrow")
    for table in (pandas.DataFrame([[1, 2]], columns=["a", "a"]), twice, tmp_path / "t.arrow"):
        with pytest.raises(UserError, match=r"two columns of one name \('a'\)"):
            columns_of(table)
    for table in ({1: [2], "1": [3]}, [{1: 2, "1": 3}], [{1: 2}, {"1": 3}]):
        with pytest.raises(UserError, match=r"the table has two columns of one name \('1'\)"):
            columns_of(table)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, 3], "number"),
        ([True, False, True], "category"),
        (["a.PNG", "b/c.jpg"], "image"),
        (["a.wav", "b.flac"], "audio"),
        (["a.mp4", "b.gif"], "video"),
        (["folder", "folder"], "video"),
        (["red", "light blue"] * 10, "category"),
        (["red", "blue", "green", "pink", "cyan"], "text"),  # nothing occurs again
        (["a sentence of five words", "another one"] * 10, "text"),
        ([np.zeros((2, 2), np.uint8), Image.new("RGB", (3, 3))], "image"),
        (["red", 3] * 10, "category"),
    ],
)
def test_what_a_column_holds_is_told_from_its_values(tmp_path: Path, values: list, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    assert infer("any", values, tmp_path) == kind


def test_a_column_of_times_is_refused(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"when": pandas.to_datetime(["2020-01-01", None]), "label": [0, 1]})
    with pytest.raises(UserError, match="column 'when' holds a Timestamp, which is neither text"):
        kinds_of(columns_of(frame), "label", None, tmp_path)


def test_kinds_can_be_given_and_columns_left_out(tmp_path: Path) -> None:
    columns = {"a": [1, 2], "b": ["x y", None], "c": [3, 4], "label": [0, 1]}
    assert kinds_of(columns, "label", None, tmp_path) == {"a": "number", "b": "category", "c": "number"}
    assert kinds_of(columns, "label", ["c"], tmp_path) == {"c": "number"}
    assert kinds_of(columns, "label", {"a": "category", "b": None}, tmp_path) == {"a": "category", "b": "category"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["z"], "there is no column 'z': the table has a, empty, label"),
        (["label"], "'label' is the target"),
        ({"a": "smell"}, "kind 'smell': choose one of text, image"),
        (["empty"], "column 'empty' has no value in any row"),
        ([], "no column beside the target 'label'"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(tmp_path: Path, wanted: object, message: str) -> None:
    columns = {"a": [1, 2], "empty": [None, None], "label": [0, 1]}
    with pytest.raises(UserError, match=message):
        kinds_of(columns, "label", wanted, tmp_path)  # pyright: ignore[reportArgumentType]


def test_a_split_is_of_all_rows_and_keeps_the_classes_shares() -> None:
    labels = [0] * 60 + [-1] * 5 + [1] * 20 + [2] * 20
    rows = [row for row in range(105) if labels[row] >= 0]
    parts = split(rows, labels, (0.2, 0.1), seed=3)
    assert sorted(row for part in parts for row in part) == rows
    counts = [[sum(labels[row] == label for row in part) for label in range(3)] for part in parts]
    assert [sum(count) for count in counts] == [70, 20, 10]
    for (of_0, of_1, of_2), total in zip(counts, (70, 20, 10), strict=True):
        assert abs(of_0 - 0.6 * total) <= 1
        assert abs(of_1 - 0.2 * total) <= 1
        assert abs(of_2 - 0.2 * total) <= 1
    assert split(rows, labels, (0.2, 0.1), seed=3) == parts
    assert split(rows, labels, (0.2, 0.1), seed=4) != parts


def test_numbers_that_never_occur_twice_are_split_otherwise_by_another_seed() -> None:
    labels = [float(7 * row % 101) for row in range(100)] + [None]
    strata = Number.strata(labels)
    order = sorted(range(100), key=lambda row: labels[row])
    assert [strata[row] for row in order] == [tenth for tenth in range(10) for _ in range(10)]
    assert strata[100] is None
    parts = {seed: split(range(100), strata, (0.2, 0.1), seed) for seed in range(5)}
    assert len({tuple(test) for _, test, _ in parts.values()}) == 5
    for training, test, other in parts.values():
        for part, count in ((training, 7), (test, 2), (other, 1)):
            found = [sum(strata[row] == tenth for row in part) for tenth in range(10)]
            assert max(abs(each - count) for each in found) <= 1
    assert Classes.strata(["b", None, "a"]) == ["b", None, "a"]


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.9, 0.15), (1.0, 0.0), (-0.5, 0.0)])
def test_a_split_that_leaves_nothing_is_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="held_out="):
        split(range(20), [0] * 20, shares, 0)
    with pytest.raises(UserError, match="1 rows that can be read are too few"):
        split(range(1), [0], (0.1, 0.0), 0)
