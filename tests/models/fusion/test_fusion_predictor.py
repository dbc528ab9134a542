"""A table of every kind of column in, a predictor out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from fusion_making import RATE, table
from torch import nn

from regard.errors import UserError
from regard.models.fusion import Classes, Predictor, fit, fusions, training
from regard.models.fusion.encoders import AudioEncoder, ImageEncoder, TabularEncoder, TextEncoder

Table = dict[str, list[Any]]

OPTIONS = {"photo": {"size": 8}, "clip": {"size": 8, "frames": 3}, "noise": {"rate": RATE, "mels": 8}}
MODALITIES = ["note", "photo", "noise", "clip", "tabular"]
FLAT = ["size", "colour"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def columns(folder: Path) -> Table:
    return table(folder)


@pytest.fixture(scope="module")
def predictor(folder: Path, columns: Table) -> Predictor:
    return quick(columns, folder, epochs=8)


def quick(columns: Any, folder: Path | None, /, **options: Any) -> Predictor:
    given = {"width": 8, "epochs": 2, "batch": 8, "encoder_options": OPTIONS, "say": lambda line: None}
    return fit(columns, folder=folder, **{**given, **options})


def some(columns: Table, *names: str, rows: int | None = None) -> Table:
    return {name: columns[name][:rows] for name in (*names, "label")}


def test_it_learns_from_every_kind_of_column(predictor: Predictor, columns: Table, folder: Path) -> None:
    assert predictor.kinds == {
        "note": "text",
        "photo": "image",
        "noise": "audio",
        "clip": "video",
        "size": "number",
        "colour": "category",
    }
    assert predictor.modalities == MODALITIES
    assert isinstance(predictor.outcome, Classes)
    assert predictor.outcome.labels == ["bad", "good"]
    found = predictor.evaluate(columns, folder=folder)
    assert found["accuracy"] > 0.9
    assert found["rows"] == 36
    assert found["most_common"] == 0.5
    probability = predictor.predict_proba(columns, folder=folder)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
    labels = predictor.predict(columns, folder=folder)
    assert labels == [predictor.outcome.labels[index] for index in probability.argmax(1)]
    accuracy = np.mean([a == b for a, b in zip(labels, columns["label"], strict=True)])
    assert abs(found["accuracy"] - accuracy) < 1e-6
    truth = [predictor.outcome.labels.index(label) for label in columns["label"]]
    assert abs(found["loss"] + np.log(probability[range(36), truth]).mean()) < 1e-4


def test_it_is_the_same_from_a_data_frame_an_arrow_table_and_the_same_seed(columns: Table, folder: Path) -> None:
    given = some(columns, "note", *FLAT)
    state = torch.get_rng_state()
    first = quick(given, folder, encoder_options=None).predict_proba(given)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's chance is touched
    for same in (pandas.DataFrame(given), pyarrow.table(given)):
        np.testing.assert_array_equal(quick(same, folder, encoder_options=None).predict_proba(same), first)
    other = quick(given, folder, encoder_options=None, seed=1).predict_proba(given)
    assert not np.allclose(other, first)


@pytest.mark.slow
@pytest.mark.parametrize("name", fusions)
def test_every_fusion_trains_is_kept_and_predicts_without_a_modality(
    name: str, columns: Table, folder: Path, tmp_path: Path
) -> None:
    given = some(columns, "note", "photo", *FLAT)
    fitted = quick(given, folder, fusion=name, epochs=1, encoder_options={"photo": {"size": 8}})
    again = Predictor.load(fitted.save(tmp_path / "kept"))
    without = {"folder": folder, "without": ["photo"]}
    for arguments in ({"folder": folder}, without):
        expected = fitted.predict_proba(given, **arguments)
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(again.predict_proba(given, **arguments), expected)
    assert not np.allclose(fitted.predict_proba(given, **without), fitted.predict_proba(given, folder=folder))


def test_what_is_kept_is_json_and_safetensors_alone(
    predictor: Predictor, columns: Table, folder: Path, tmp_path: Path
) -> None:
    predictor.save(tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["predictor.json", "weights.safetensors"]
    again = Predictor.load(tmp_path / "kept")
    assert again.kinds == predictor.kinds
    assert again.history == predictor.history
    np.testing.assert_array_equal(
        again.predict_proba(columns, folder=folder), predictor.predict_proba(columns, folder=folder)
    )
    about = json.loads((tmp_path / "kept" / "predictor.json").read_text())
    (tmp_path / "kept" / "predictor.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(UserError, match="is of format 99, expected 3"):
        Predictor.load(tmp_path / "kept")
    with pytest.raises(UserError, match=r"cannot be read .* that Predictor.save has written"):
        Predictor.load(tmp_path)


def test_vocabulary_and_statistics_come_from_the_training_part_alone(columns: Table, folder: Path) -> None:
    seen: list[int] = []
    given = {**columns, "note": [f"word{row}" for row in range(36)], "size": [float(2**row) for row in range(36)]}
    kinds = {"note": "text", "size": "number", "colour": "category", "noise": "audio"}
    given["colour"] = [f"shade{row}" for row in range(36)]
    fitted = quick(given, folder, columns=kinds, encoder_options={"noise": OPTIONS["noise"]}, fusion="stacking")
    text, sound, tabular = fitted.encoders
    assert isinstance(text, TextEncoder)
    assert isinstance(sound, AudioEncoder)
    assert isinstance(tabular, TabularEncoder)
    seen = sorted(int(word.removeprefix("word")) for word in text.vocabulary)
    assert 20 <= len(seen) <= 28  # 70 per cent: the rest stops training, or settles the stack
    assert sorted(tabular.categories["colour"]) == sorted(f"shade{row}" for row in seen)
    sizes = np.array([2.0**row for row in seen])
    np.testing.assert_allclose(tabular.numbers["size"], (sizes.mean(), sizes.std()))
    assert sound.samples == 150 + max(seen)  # the longest clip
    bands = []
    for row in seen:
        waves, lengths = sound.batch([sound.read(folder / columns["noise"][row])])
        bands.append(sound.spectrogram(waves)[0, :, : sound.frames(lengths)[0]])
    torch.testing.assert_close(sound.mean, torch.cat(bands, 1).mean(1), rtol=1e-4, atol=1e-4)


def test_a_modality_that_is_missing_has_no_influence(predictor: Predictor, columns: Table, folder: Path) -> None:
    empty = {**columns, "photo": [None] * 36, "size": [None] * 36, "colour": [None] * 36}
    expected = predictor.predict_proba(empty, folder=folder)
    without = ["photo", *FLAT]
    left_out = {name: values for name, values in columns.items() if name not in without}
    for given, gone in ((columns, without), (left_out, without), (columns, ["photo", "tabular"])):
        np.testing.assert_array_equal(predictor.predict_proba(given, folder=folder, without=gone), expected)
    nothing = predictor.predict_proba({"label": ["good"] * 2}, without=list(predictor.kinds))
    assert np.isfinite(nothing).all()
    assert (nothing[0] == nothing[1]).all()
    # Which rows lack it is a matter of these rows alone.
    half = {**columns, "photo": [None if row % 3 else name for row, name in enumerate(columns["photo"])]}
    mixed = predictor.predict_proba(half, folder=folder)
    whole = predictor.predict_proba(columns, folder=folder)
    np.testing.assert_allclose(mixed[::3], whole[::3], rtol=1e-4)
    assert not np.allclose(mixed[1::3], whole[1::3])


def test_unknown_words_and_categories_and_missing_numbers_are_predicted_from(predictor: Predictor) -> None:
    given = {"note": ["zzz qqq", None], "size": [None, 3.0], "colour": ["green", None]}
    found = predictor.predict_proba(given, without=["photo", "noise", "clip"])
    assert np.isfinite(found).all()
    assert found.shape == (2, 2)


@pytest.mark.slow
def test_a_column_that_tells_nothing_and_had_no_gaps_can_be_left_out() -> None:
    random = np.random.default_rng(0)

    def drawn(rows: int) -> Table:
        x, y, noise, other = random.normal(size=(4, rows))
        numbers = {"x": x.tolist(), "y": y.tolist(), "noise": noise.tolist(), "other": other.tolist()}
        letters = {name: random.choice(list("pqrs"), rows).tolist() for name in ("letter", "mark")}
        return {**numbers, **letters, "label": np.where(x + y / 2 > 0, "above", "below").tolist()}

    training, test = drawn(300), drawn(1000)
    fitted = quick(training, None, encoder_options=None, fusion="bottleneck", width=16, epochs=12, batch=32, seed=1)
    whole, *less = fitted.evaluate_each(test, [[], ["noise"], ["other"], ["letter"], ["mark"]])
    assert whole["accuracy"] > 0.9
    assert min(each["accuracy"] for each in less) > whole["accuracy"] - 0.03


def test_every_file_is_read_once_however_much_is_left_out(
    predictor: Predictor, columns: Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    withouts = [["photo"], [], ["size"], ["photo", "note"], ["tabular"]]
    alone = [predictor.evaluate(columns, folder=folder, without=gone) for gone in withouts]
    read: list[Path] = []
    original = ImageEncoder.read
    monkeypatch.setattr(ImageEncoder, "read", lambda self, value: (read.append(value), original(self, value))[1])
    assert predictor.evaluate_each(columns, withouts, folder=folder) == alone
    assert sorted(path.name for path in read) == sorted(columns["photo"])
    read.clear()
    with pytest.raises(UserError, match=r"without=\['foto'\]: choose among"):
        predictor.evaluate_each(columns, [[], ["foto"]], folder=folder)
    assert not read


def test_what_cannot_be_read_counts_as_missing_and_is_said_once(
    predictor: Predictor, columns: Table, folder: Path
) -> None:
    changes = {"photo": ["none.png", *columns["photo"][1:35], "no.png"], "size": ["wide", *columns["size"][1:]]}
    broken = {**columns, **changes}
    missing = {**columns, "photo": [None, *columns["photo"][1:35], None]}
    missing |= {name: [None, *columns[name][1:]] for name in FLAT}
    withouts = [[], ["photo"], ["note"], ["photo", "note"]]
    said: list[str] = []
    assert predictor.evaluate_each(broken, withouts, folder=folder, skip_bad=True, say=said.append) == [
        predictor.evaluate(missing, folder=folder, without=gone) for gone in withouts
    ]
    assert said == [
        f"photo cannot be read in 2 of 36 rows, where it counts as missing: row 0 (counted from 0), column 'photo': "
        f"there is no file {folder / 'none.png'}",
        "tabular cannot be read in 1 of 36 rows, where it counts as missing: row 0 (counted from 0): column 'size' "
        "holds 'wide', expected a number; or give it the kind 'category'",
    ]


def test_robustness_goes_from_the_accuracy_to_that_without(
    predictor: Predictor, columns: Table, folder: Path, tmp_path: Path
) -> None:
    found = predictor.robustness(columns, folder=folder, levels=(0.0, 0.5, 1.0))
    assert found.modalities == MODALITIES
    assert found.rows == 36
    assert (found.measure, found.baseline, found.known) == ("accuracy", "the most common class", 0.5)
    whole = predictor.evaluate(columns, folder=folder)["accuracy"]
    for name in MODALITIES:
        curve = found.curve(name, "dropped")
        assert list(curve) == [0.0, 0.5, 1.0]
        assert curve[0.0] == whole == found.curve(name, "noisy")[0.0]
        assert curve[1.0] == predictor.evaluate(columns, folder=folder, without=[name])["accuracy"]
    again = predictor.robustness(columns, folder=folder, levels=(0.0, 0.5, 1.0))
    assert again == found
    text = str(found)
    assert text.count("dropped") == text.count("noisy") == 5
    assert len(found.as_rows()) == len(pandas.DataFrame(found.as_rows())) == 30
    picture = found.plot(tmp_path / "curve.svg").read_text()
    assert picture.count("<polyline") == 10
    assert ">tabular<" in picture
    from xml.etree import ElementTree

    ElementTree.fromstring(picture)
    with pytest.raises(UserError, match="levels="):
        predictor.robustness(columns, folder=folder, levels=(2.0,))


def test_all_noise_leaves_nothing_of_the_only_modality(columns: Table, folder: Path) -> None:
    given = some(columns, "photo")
    fitted = quick(given, folder, columns=["photo"], encoder_options={"photo": {"size": 8}}, epochs=8)
    found = fitted.robustness(given, folder=folder, levels=(0.0, 1.0))
    assert found.curve("photo", "noisy")[0.0] == 1.0
    assert found.curve("photo", "noisy")[1.0] < 0.8


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("photo", "none.png", r"row 5 \(counted from 0\), column 'photo': there is no file .*none.png"),
        ("photo", "broken.png", r"row 5 .*, column 'photo': cannot identify image file"),
        ("noise", "broken.wav", r"row 5 .*, column 'noise': file does not start with RIFF"),
        ("clip", "none", r"row 5 .*, column 'clip': there is no file or folder"),
        ("size", "wide", r"row 5 \(counted from 0\): column 'size' holds 'wide', expected a number"),
        ("label", None, r"row 5 .*, column 'label': is empty"),
    ],
)
def test_a_bad_cell_is_named_or_its_row_left_out(
    column: str, value: str | None, message: str, columns: Table, folder: Path
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.wav").write_bytes(b"no sound")
    given = some(columns, "note", *([column] if column != "label" else []))
    given[column] = [*given[column][:5], value, *given[column][6:]]
    kinds = {"note": "text"} if column == "label" else {"note": "text", column: KINDS[column]}
    options = {name: OPTIONS[name] for name in kinds if name in OPTIONS}
    with pytest.raises(UserError, match=message + ".*skip_bad=True"):
        quick(given, folder, columns=kinds, encoder_options=options)
    said: list[str] = []
    fitted = quick(given, folder, columns=kinds, encoder_options=options, skip_bad=True, epochs=1, say=said.append)
    assert any(line.startswith("left out 1 rows: row 5") for line in said)
    if column == "label":
        return
    with pytest.raises(UserError, match=message):
        fitted.predict(given, folder=folder)
    found = fitted.predict_proba(given, folder=folder, skip_bad=True)
    missing = {**given, column: [*given[column][:5], None, *given[column][6:]]}
    np.testing.assert_array_equal(found, fitted.predict_proba(missing, folder=folder))


KINDS = {"photo": "image", "noise": "audio", "clip": "video", "size": "number"}


def test_what_cannot_be_fitted_is_refused(columns: Table, folder: Path) -> None:
    given = some(columns, "size")
    for change, message in (
        ({"target": "mark"}, "there is no column 'mark' to predict: the table has size, label; choose one as"),
        ({"fusion": "blend"}, "there is no fusion 'blend': choose one of concatenation, gated"),
        ({"encoder_options": {"size": {}}}, r"encoder_options names \['size'\]"),
        ({"held_out": 0.0}, "held_out=0.0"),
    ):
        with pytest.raises(UserError, match=message):
            quick(given, folder, **{"encoder_options": None, **change})
    for labels, message in (
        (["same"] * 36, "has 1 distinct value"),
        (["a", 3] * 18, "holds int, str, expected text, integers or booleans"),
    ):
        with pytest.raises(UserError, match=message):
            quick({**given, "label": labels}, folder, encoder_options=None)
    with pytest.raises(UserError, match="a column is named 'tabular'"):
        quick({**given, "tabular": columns["note"]}, folder, encoder_options=None)


def test_a_table_that_does_not_fit_the_predictor_is_refused(predictor: Predictor, columns: Table, folder: Path) -> None:
    less = {name: values for name, values in columns.items() if name != "photo"}
    with pytest.raises(UserError, match=r"no column 'photo', .* or say without=\['photo'\]"):
        predictor.predict(less, folder=folder)
    with pytest.raises(
        UserError, match=r"without=\['foto'\]: choose among note, photo, noise, clip, size, colour, tabular$"
    ):
        predictor.predict(columns, folder=folder, without=["foto"])
    with pytest.raises(UserError, match=r"row 1 .* 'fair' is none of the classes"):
        predictor.evaluate({**columns, "label": ["bad", "fair"] * 18}, folder=folder)
    with pytest.raises(UserError, match="no column 'label' to compare with"):
        predictor.evaluate({"note": ["a"]}, folder=folder)


def test_what_answers_only_once_it_has_settled_has_no_score_before(columns: Table, folder: Path) -> None:
    for fusion, scored in (("stacking", False), ("vote", True)):
        said: list[str] = []
        fitted = quick(some(columns, *FLAT), folder, encoder_options=None, fusion=fusion, say=said.append)
        assert all(("held_out_score" in epoch) == scored for epoch in fitted.history.epochs)
        assert len(epochs := [line for line in said if line.startswith("epoch")]) == 2
        assert all(("accuracy" in line) == scored for line in epochs)


def test_another_seed_holds_out_other_rows_of_numbers_too(columns: Table, folder: Path) -> None:
    given = {"note": [f"word{row}" for row in range(36)], "label": [0.5 + row for row in range(36)]}
    learned = [
        set(quick(given, folder, columns={"note": "text"}, encoder_options=None, epochs=1, seed=seed)
            .encoders[0].settings["vocabulary"])
        for seed in range(3)
    ]  # fmt: skip
    assert learned[0] != learned[1] != learned[2] != learned[0]


class Stop(Exception):
    pass


def test_a_training_that_was_broken_off_goes_on_as_if_it_had_not_been(
    columns: Table, folder: Path, tmp_path: Path
) -> None:
    given = some(columns, "note", *FLAT)
    options = {"encoder_options": None, "epochs": 4, "fusion": "gradient_blending", "fusion_options": {"period": 2}}
    whole = quick(given, folder, **options)
    checkpoint = tmp_path / "training.safetensors"

    def say(line: str) -> None:
        if line.startswith("epoch 4"):
            raise Stop

    with pytest.raises(Stop):
        quick(given, folder, checkpoint=checkpoint, say=say, **options)
    said: list[str] = []
    resumed = quick(given, folder, checkpoint=checkpoint, say=said.append, **options)
    assert any("going on after epoch 3" in line for line in said)
    assert resumed.history == whole.history
    np.testing.assert_array_equal(resumed.predict_proba(given), whole.predict_proba(given))
    with pytest.raises(UserError, match="is of other data or settings"):
        quick(given, folder, checkpoint=checkpoint, **{**options, "seed": 1})
    checkpoint.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"cannot be read .* remove it"):
        quick(given, folder, checkpoint=checkpoint, **options)


def test_training_stops_where_the_held_out_part_gets_no_better_and_keeps_the_best(columns: Table, folder: Path) -> None:
    random = np.random.default_rng(0)
    given = {"size": random.normal(size=36).tolist(), "label": columns["label"]}  # there is nothing to learn
    fitted = quick(given, folder, encoder_options=None, epochs=60, patience=3, learning_rate=0.02)
    losses = [epoch["held_out_loss"] for epoch in fitted.history.epochs]
    assert fitted.history.best == [int(np.argmin(losses))]
    assert fitted.history.lowest == [min(losses)]
    assert len(losses) == fitted.history.best[0] + 1 + 3 < 60


def test_modalities_that_are_apart_keep_their_own_best_epochs(
    columns: Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    noise = ["".join(random.choice(list("abc"), 3)) for _ in range(36)]  # there is nothing to learn from
    given = {"note": noise, "size": columns["size"], "label": columns["label"]}
    states: list[dict[str, torch.Tensor]] = []
    original = training.measure

    def measure(model: Any, examples: Any) -> Any:
        states.append(training.weights_of(model))
        return original(model, examples)

    monkeypatch.setattr(training, "measure", measure)
    kinds = {"note": "text", "size": "number"}
    options = {"columns": kinds, "encoder_options": None, "learning_rate": 0.02, "epochs": 12, "patience": 12}
    fitted = quick(given, folder, fusion="vote", **options)
    parts = [
        ("encoders.0.", "fusion.pools.0.", "fusion.heads.0."),
        ("encoders.1.", "fusion.pools.1.", "fusion.heads.1."),
    ]
    assert fitted.history.best[0] != fitted.history.best[1]
    for begins, epoch in zip(parts, fitted.history.best, strict=True):
        for name, value in fitted.model.state_dict().items():
            if name.startswith(begins):
                assert torch.equal(value, states[epoch][name])


def test_a_training_that_diverges_says_so(columns: Table, folder: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) after epoch \d: choose a lower learning_rate"):
        quick(some(columns, "size"), folder, encoder_options=None, learning_rate=1e30)


def test_cells_are_read_again_when_there_is_no_memory_to_keep_them(columns: Table, folder: Path) -> None:
    given = some(columns, "photo", rows=20)
    options = {"columns": ["photo"], "encoder_options": {"photo": {"size": 8}}}
    kept = quick(given, folder, **options).predict_proba(given, folder=folder)
    again = quick(given, folder, memory=0.0, **options).predict_proba(given, folder=folder)
    np.testing.assert_array_equal(kept, again)


def test_paths_of_a_csv_file_begin_where_it_lies(columns: Table, folder: Path) -> None:
    pandas.DataFrame(some(columns, "photo")).to_csv(folder / "table.csv", index=False)
    options = {"columns": ["photo"], "encoder_options": {"photo": {"size": 8}}}
    fitted = quick(folder / "table.csv", None, **options)
    found = fitted.predict_proba(folder / "table.csv")
    np.testing.assert_array_equal(found, fitted.predict_proba(some(columns, "photo"), folder=folder))


def test_the_attention_of_a_fitted_fusion_can_be_watched(columns: Table, folder: Path) -> None:
    from regard import watch
    from regard.models.fusion.model import collate

    given = some(columns, "note", *FLAT)
    fitted = quick(given, folder, encoder_options=None, epochs=1, fusion="bottleneck")
    cells = fitted._cells(given, folder, (), False)
    readers = dict(zip(fitted.model.names, fitted.encoders, strict=True))
    batch = collate(readers, [{name: column[0] for name, column in cells.items()}], None)
    with watch(fitted.model) as watched:
        fitted.model(batch)
    assert isinstance(fitted.model, nn.Module)
    assert len(watched.maps) == 6  # two modalities in three layers


@pytest.mark.parametrize("target", ["label", "size"])
def test_the_attention_of_a_fusion_is_ablated(columns: Table, folder: Path, target: str) -> None:
    """Also of a number; and a fusion without attention has nothing to ablate."""
    names = ("note", "colour", target) if target != "label" else ("note", "colour", "size", "label")
    given = {name: columns[name] for name in names}
    options = {"target": target, "epochs": 1, "encoder_options": {}}
    made = quick(given, folder, fusion="cross_attention", **options)
    report = made.evaluate(given, folder=folder)
    found = made.ablate(given, folder=folder)
    assert list(found) == ["removed", "mean", "resampled"]
    removed = found["removed"]
    assert removed is not None
    measure, change = ("accuracy", "changed") if target == "label" else ("r_squared", "mean_change")
    assert removed[measure] - report[measure] == pytest.approx(removed["difference"], abs=1e-5)
    low, high = removed["interval"]
    assert low <= removed["difference"] <= high
    assert removed[change] >= 0
    assert made.evaluate(given, folder=folder) == report
    plain = quick(given, folder, fusion="concatenation", **options)
    assert plain.ablate(given, folder=folder) == {"removed": None, "mean": None, "resampled": None}
