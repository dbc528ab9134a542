"""What a prediction rests on, and the program that a predictor is exported as."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fusion_making import RATE, table
from torch.export import Dim

from regard.errors import UserError
from regard.models.fusion import Predictor, fit, fusions
from regard.watching import NoMapError

OPTIONS = {
    "note": {"length": 5},
    "photo": {"size": 8},
    "clip": {"size": 8, "frames": 3},
    "noise": {"rate": RATE, "mels": 8},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def columns(folder: Path) -> dict[str, list[Any]]:
    return table(folder)


@pytest.fixture(scope="module")
def predictor(folder: Path, columns: dict[str, list[Any]]) -> Predictor:
    return fit(
        columns, folder=folder, fusion="bottleneck", width=8, epochs=2, batch=8, encoder_options=OPTIONS,
        say=lambda line: None,
    )  # fmt: skip


def test_modalities_are_explained_by_what_is_said_without_them(
    predictor: Predictor, columns: dict[str, list[Any]], folder: Path
) -> None:
    found = predictor.explain(columns, 3, folder=folder)
    row = {name: values[3:4] for name, values in columns.items()}
    assert [found.prediction] == predictor.predict(row, folder=folder)
    chosen = ["bad", "good"].index(found.prediction)
    said = predictor.predict_proba(row, folder=folder)[0, chosen]
    assert found.said == pytest.approx(said, abs=1e-5)
    assert list(found.modalities) == predictor.modalities
    for name, less in found.modalities.items():
        without = predictor.predict_proba(row, folder=folder, without=[name])[0, chosen]
        assert less == pytest.approx(said - without, abs=1e-5)
    assert found.prediction in str(found).splitlines()[0]


def test_parts_have_names_and_a_modality_of_one_part_is_that_part(
    predictor: Predictor, columns: dict[str, list[Any]], folder: Path
) -> None:
    found = predictor.explain(columns, 3, folder=folder)
    names = {name: [part for part, _ in parts] for name, parts in found.parts.items()}
    assert names["note"] == ["the", "sun", "shone", "on", "us"]
    assert names["photo"][:5] == [
        "row 1, column 1",
        "row 1, column 2",
        "row 1, column 3",
        "row 1, column 4",
        "row 2, column 1",
    ]
    assert len(names["photo"]) == 16
    assert names["noise"][:2] == ["0.00 s", "0.04 s"]
    assert names["clip"] == ["frame 1", "frame 2", "frame 3"]
    assert names["tabular"] == ["size", "colour"]
    only = predictor.explain({**columns, "note": ["zzz"] * 36}, 3, folder=folder)
    ((name, less),) = only.parts["note"]
    assert name == "?"
    assert less == pytest.approx(only.modalities["note"], abs=1e-6)


def test_attention_is_watched_where_there_is_any(
    predictor: Predictor, columns: dict[str, list[Any]], folder: Path
) -> None:
    found = predictor.explain(columns, 3, folder=folder)
    assert len(found.maps) == 15  # five modalities in three layers
    assert all(one.values.shape[0] == 1 for one in found.maps)  # this row alone
    plain = fit({name: columns[name] for name in ("size", "colour", "label")}, width=8, epochs=1, say=lambda line: None)
    with pytest.raises(NoMapError, match="has no attention"):
        _ = plain.explain(columns, 0).maps


def test_what_is_missing_is_no_part_of_an_explanation(
    predictor: Predictor, columns: dict[str, list[Any]], folder: Path
) -> None:
    given = {**columns, "photo": [None] * 36}
    assert list(predictor.explain(given, 0, folder=folder).modalities) == ["note", "noise", "clip", "tabular"]
    nothing = {name: [None] for name in columns}
    for wrong, row, message in ((columns, 36, "row 36 .* which has 36"), (nothing, 0, "nothing in any column")):
        with pytest.raises(UserError, match=message):
            predictor.explain(wrong, row, folder=folder)


def test_of_a_long_table_some_rows_are_exported_with_and_each_modality_is_among_them(
    predictor: Predictor, columns: dict[str, list[Any]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("regard.models.fusion.predictor.export", lambda model, path, *tensors: given.extend(tensors))
    monkeypatch.setattr(predictor, "batch", 5)
    predictor.export(tmp_path / "x.pt2", {**columns, "photo": [None] * 23 + columns["photo"][23:]}, folder=folder)
    inputs, present = given
    assert present["photo"].tolist() == [False] * 5 + [True]
    assert torch.equal(inputs["photo"][0][5], predictor.encoders[1].read(folder / columns["photo"][23]))
    assert present["note"].tolist() == [True] * 6


def test_what_the_exporter_stumbles_over_is_said_in_one_line(
    predictor: Predictor, columns: dict[str, list[Any]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no\nway")

    monkeypatch.setattr(torch.export, "export", stumble)
    with pytest.raises(UserError, match=r"fusion 'bottleneck' cannot be exported \(no way\): choose"):
        predictor.export(tmp_path / "x.pt2", columns, folder=folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_predictor_on_a_gpu_is_exported_for_the_cpu_and_stays_where_it_is(
    columns: dict[str, list[Any]], tmp_path: Path
) -> None:
    given = {name: columns[name] for name in ("size", "label")}
    fitted = fit(given, width=8, epochs=1, device="cuda", say=lambda line: None)
    program = torch.export.load(fitted.export(tmp_path / "x.pt2", given)).module()
    probability = program(*fitted.tensors(given)).softmax(1).detach().numpy()
    np.testing.assert_allclose(probability, fitted.predict_proba(given), atol=1e-4)
    assert next(fitted.model.parameters()).device.type == "cuda"


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize("name", fusions)
def test_every_fusion_can_be_exported_for_any_number_of_rows(name: str) -> None:
    fusion = fusions[name]({"a": 5, "b": 3}, 4, 12).eval()
    tokens = {"a": torch.randn(3, 7, 5), "b": torch.randn(3, 2, 3)}
    masks = {each: torch.ones(x.shape[:2], dtype=torch.bool) for each, x in tokens.items()}
    present = {"a": torch.tensor([True, False, True]), "b": torch.tensor([False, True, True])}
    rows = {each: {0: Dim("rows")} for each in tokens}
    program = torch.export.export(fusion, (tokens, masks, present), dynamic_shapes=(rows, rows, rows)).module()
    for count in (3, 2):
        given = tuple({each: x[:count] for each, x in part.items()} for part in (tokens, masks, present))
        torch.testing.assert_close(program(*given), fusion(*given))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_an_exported_predictor_says_what_the_predictor_says(
    predictor: Predictor, columns: dict[str, list[Any]], folder: Path, tmp_path: Path
) -> None:
    before = [weight for module in predictor.model.modules() for weight in getattr(module, "_flat_weights", ())]
    path = predictor.export(tmp_path / "fusion.pt2", columns, folder=folder)
    after = [weight for module in predictor.model.modules() for weight in getattr(module, "_flat_weights", ())]
    assert all(one is other for one, other in zip(before, after, strict=True))  # the exporter touched a copy alone
    program = torch.export.load(path).module()
    other = {**columns, "photo": [None, *columns["photo"][1:]], "note": ["sun", None, *columns["note"][2:]]}
    other = {name: values[:5] for name, values in other.items()}
    outputs = program(*predictor.tensors(other, folder=folder))
    expected = predictor.predict_proba(other, folder=folder)
    np.testing.assert_allclose(outputs.softmax(1).detach().numpy(), expected, atol=1e-5)
    with pytest.raises(UserError, match=r"end its name in \.pt2"):
        predictor.export(tmp_path / "fusion.onnx", columns, folder=folder)
    with pytest.raises(UserError, match="no row has photo"):
        predictor.export(tmp_path / "other.pt2", {**columns, "photo": [None] * 36}, folder=folder)
    with pytest.raises(UserError, match="2 rows are too few"):
        predictor.export(tmp_path / "other.pt2", {name: each[:2] for name, each in columns.items()}, folder=folder)
    assert [each.name for each in tmp_path.iterdir()] == ["fusion.pt2"]
