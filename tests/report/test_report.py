import json
from html.parser import HTMLParser
from itertools import pairwise
from math import dist, hypot
from pathlib import Path

import pytest
import synthetic_run as synthetic

from regard.errors import UserError
from regard.report import charts, page, write_report
from regard.watching import colour


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, the text, and the rows of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.cell = False
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self.open.append(tag)
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("th", "td")
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            return
        self.words.append(data)
        if self.cell:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def row(page: Page, name: str, table: int = 0) -> list[str]:
    rows = ([cell.strip() for cell in cells] for cells in page.tables[table])
    return next(cells for cells in rows if cells and cells[0].startswith(name))


def test_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes")
    page = read(folder)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, value)
    written = (folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in written
    assert "https://" not in written
    assert "@import" not in written
    assert "default-src 'none'" in written
    assert len(written.encode()) < 1_000_000
    for name in synthetic.SCENES:
        assert name in page.text
    for example in json.loads((folder / "examples.json").read_text()):
        assert example["question"] in page.text
        assert any(image["src"] == example["picture"] for image in page.all("img"))
    assert "not proof of cause" in page.text
    assert "Not finished" not in page.text
    assert "learning_rate" in page.text


def test_numbers_of_the_table_are_the_results(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes", seeds=(0, 1))
    page = read(folder)
    results = json.loads((folder / "results.json").read_text())
    for name in synthetic.SCENES:
        of = [result for result in results if result["attention"] == name]
        cells = row(page, name)
        for cell, key in zip(cells[1:6], ("overall", *synthetic.FAMILIES), strict=True):
            values = [result["accuracy"][key] for result in of]
            assert cell.startswith(f"{sum(values) / 2:.3f}")
            assert f"{min(values):.3f}–{max(values):.3f}" in cell
        pointing = of[0]["pointing"]
        assert cells[6].startswith("–" if pointing is None else f"{pointing:.3f}")
        assert cells[7] == f"{of[0]['parameters']:,}"
        assert cells[10] == f"{of[0]['train_seconds']:.1f}"


def test_summary_names_the_best(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes")
    results = json.loads((folder / "results.json").read_text())
    for result in results:
        best = result["attention"] == "dot"
        result["accuracy"]["overall"] = 0.9 if best else 0.5
        result["interval"]["overall"] = [0.88, 0.92] if best else [0.48, 0.52]
    (folder / "results.json").write_text(json.dumps(results))
    page = read(folder)
    said = "dot is highest, with 90.0 % (95 % interval 88.0 to 92.0) of the test questions right."
    assert said in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "(best)" in row(page, "dot")[1]
    results[-1]["accuracy"]["overall"] = 0.9001
    (folder / "results.json").write_text(json.dumps(results))
    assert "hard and dot are level, with 90.0" in read(folder).text


def test_summary_says_what_can_be_had_without_looking(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes")
    results = json.loads((folder / "results.json").read_text())
    assert "Baseline" not in read(folder).text
    known = {"always yes": {"count": 0.1, "overall": 0.25}, "counting": {"count": 1.0, "overall": 0.625}}
    for shortcuts, says in [
        (dict([*known.items()][:1]), "Baseline: always yes, 25.0 %."),
        (known, "Baselines: always yes, 25.0 %; counting, 62.5 %."),
    ]:
        results[0]["shortcuts"] = shortcuts
        (folder / "results.json").write_text(json.dumps(results))
        assert says in read(folder).text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_variant_s_note_stands_under_the_table(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes", seeds=(0, 1))
    results = json.loads((folder / "results.json").read_text())
    assert "is told" not in read(folder).text
    for result in results:
        result["note"] = "it is told <b>all</b>" if result["attention"] == "stacked" else None
    (folder / "results.json").write_text(json.dumps(results))
    assert read(folder).text.count("stacked : it is told <b>all</b>.") == 1  # once for all seeds, and text
    results[0]["note"] = 7
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match="expected text"):
        write_report(folder)


def test_a_curve_of_one_evaluation_is_a_point(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes", "digit-scenes", ("none",), keys=("count",))

    def points() -> list[str]:
        circles = read(folder).all("circle")
        return [one["class"] for one in circles if one["class"] == "hit" or one["r"] == "3"]

    assert set(points()) == {"hit"}
    head, *rows = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text(f"{head}\n{rows[2]}\n")
    assert set(points()) == {"mark"}


def test_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes", finished=3, seeds=(0, 1))
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results[:-1]))
    page = read(folder)
    assert "additive (seed 1), dot, multi_head, stacked, hard" in page.text
    assert "1 of 2 seeds" in row(page, "additive")[0]


def test_run_without_any_variant_yet(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes", finished=0, examples=0)
    for name in ("metrics.csv", "examples.json", "readings.json"):
        (folder / name).unlink()
    page = read(folder)
    assert "No variant has finished yet" in page.text
    assert "metrics.csv, examples.json, readings.json" in page.text


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_pictures_with_paired_differences(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    attention = ("none", "se", "cbam")
    folder = synthetic.write(tmp_path / "run", "pictures", attention, seeds, keys=("cat", "dog"))
    page = read(folder)
    for entry in json.loads((folder / "comparison.json").read_text()):
        cells = row(page, entry["attention"], table=1)
        assert cells[1] == f"{100 * entry['difference']:+.1f}"
        if len(seeds) == 1:
            assert cells[3] == "one seed"
        else:
            assert cells[3] == " to ".join(f"{100 * end:+.1f}" for end in entry["interval"])
    assert ("one seed, which says nothing of chance" in page.text) == (len(seeds) == 1)
    assert "64 values, sorted" in page.text  # the channel gate of `se`
    assert "no map over positions" in page.text  # `none`


@pytest.mark.parametrize(
    ("intervals", "says"),
    [
        ([[0.01, 0.03], [-0.01, 0.03]], "se is 2.0 percentage points above no attention (95 % interval +1.0 to +3.0"),
        ([[-0.01, 0.05], [-0.01, 0.01]], "No difference to no attention could be shown (largest: se, +2.0 percentage"),
        ([[-0.01, 0.05], [0.002, 0.018]], "cbam is 1.0 percentage points above no attention"),
    ],
)
def test_summary_of_differences(tmp_path: Path, intervals: list[list[float]], says: str) -> None:
    folder = synthetic.write(tmp_path / "run", "pictures", ("none", "se", "cbam"), (0, 1), keys=("cat", "dog"))
    comparison = json.loads((folder / "comparison.json").read_text())
    for entry, difference, interval in zip(comparison, (0.02, 0.01), intervals, strict=True):
        entry |= {"difference": difference, "interval": interval, "adjusted_p": 0.01 if interval[0] > 0 else 0.2}
    (folder / "comparison.json").write_text(json.dumps(comparison))
    assert says in read(folder).text


def test_what_attention_does_stands_in_a_table_of_its_own(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "run", "pictures", ("none", "se"), (0,), keys=("cat", "dog"))
    assert "Is the attention used?" not in read(folder).text
    results = json.loads((folder / "results.json").read_text())
    accuracy = results[1]["accuracy"]["overall"]
    one = {"accuracy": 0.321, "difference": 0.321 - accuracy, "interval": [-0.6, -0.3], "changed": 0.415}
    results[0]["ablations"] = {"removed": None, "mean": None, "resampled": None}
    results[1] |= {
        "ablations": {"removed": one, "mean": {**one, "accuracy": 0.432}, "resampled": None},
        "strength": {"mean": 0.25, "lowest": -0.5, "highest": 1.0},
        "milliseconds_ratio": 1.5, "milliseconds_ratio_quartiles": [1.25, 1.75],
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    page = read(folder)
    assert "Is the attention used?" in page.text
    cells = row(page, "se", table=1)
    assert cells[3:6] == ["0.321", "0.432", ""]
    assert cells[6:9] == ["41.5\N{NO-BREAK SPACE}%", "0.25 (\N{MINUS SIGN}0.50 to 1.0)", "× 1.50 (1.25 to 1.75)"]
    assert row(page, "none", table=1)[3:8] == [""] * 5
    assert "Left out of the ablation" not in page.text
    results[1]["ablations"]["left"] = {"removed": ["layer1.gate scale: its weights do not sum to one"]}
    (folder / "results.json").write_text(json.dumps(results))
    left = "Left out of the ablation 'removed' of se: layer1.gate scale (its weights do not sum to one)."
    assert left in read(folder).text
    only_left = [results[0], {**results[1], "ablations": {"removed": None, "left": results[1]["ablations"]["left"]}}]
    (folder / "results.json").write_text(json.dumps(only_left))
    assert left in read(folder).text
    results[1]["ablations"]["removed"]["accuracy"] = "much"
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"results\.json does not hold"):
        read(folder)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    folder = synthetic.write(tmp_path / "run", "pictures", ("none", bad), (0, 1), keys=(bad.replace('"', ""), "dog"))
    page = read(folder)
    assert len(page.all("script")) == 1
    assert bad in page.text
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_many_classes_go_to_their_own_table(tmp_path: Path) -> None:
    keys = tuple(f"class {number}" for number in range(60))
    folder = synthetic.write(tmp_path / "run", "pictures", ("none", "se"), keys=keys, examples=2)
    page = read(folder)
    assert len(row(page, "se")) == 7  # name, overall, pointing, four costs
    assert len(page.tables[1]) == 41
    assert "the 40 of 60 classes in which the variants differ most" in page.text


def test_stays_below_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic.write(tmp_path / "run", examples=60)
    examples = json.loads((folder / "examples.json").read_text())
    for example in examples:
        example["picture"] += "A" * 100_000
    (folder / "examples.json").write_text(json.dumps(examples))
    page = read(folder)
    assert 2_000_000 < (folder / "report.html").stat().st_size < 3_000_000
    assert f"{60 - len(page.all('article'))} further examples are left out" in page.text


def test_map_bytes_run_from_zero_to_the_maximum() -> None:
    from base64 import b64decode

    from regard.report.folder import Weights

    drawn = page._map(Weights("attention", [[0.0, 0.1, float("nan")], [0.2, 0.4, -0.1]], [], False), 0.0)
    assert list(b64decode(drawn.weights)) == [0, 64, 0, 128, 255, 0]
    assert (drawn.columns, drawn.rows, drawn.peak) == (3, 2, 0.4)
    assert "not finite" in drawn.note
    assert "below 0" in drawn.note
    fine = page._map(Weights("attention", [[1.0] * 130 for _ in range(70)], [], True), 1.0)
    assert (fine.columns, fine.rows) == (44, 24)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("settings.json", "{", "not valid JSON"),
        ("settings.json", "[]", "expected a JSON object"),
        ("settings.json", '{"attention": []}', "lacks 'task'"),
        ("results.json", '[{"attention": "dot", "seed": 0}]', "lacks 'accuracy'"),
        ("results.json", '[{"attention": "dot", "seed": 0, "accuracy": {"overall": "high"}}]', "'high'"),
        ("comparison.json", "[", "not valid JSON"),
        ("metrics.csv", "attention,seed,loss\ndot,0,high\n", "'high'"),
        ("examples.json", '[{"picture": "http://x/y.png", "width": 1, "height": 1, "truth": "a"}]', "data URL"),
        ("readings.json", '{"dot": []}', "0 readings for 8 examples"),
    ],
)
def test_broken_file_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    folder = synthetic.write(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(UserError) as error:
        write_report(folder)
    message = str(error.value)
    assert str(folder / name) in message
    assert says in message
    assert "regard compare" in message
    assert "\n" not in message
    assert not (folder / "report.html").exists()


def test_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder at"):
        write_report(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"settings\.json is missing"):
        write_report(tmp_path)


def test_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic.write(tmp_path / "run")
    (folder / "report.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert not list(folder.glob(".report-*"))


def test_colours_rise_in_equal_steps() -> None:
    points = [colour.oklab(rgb) for rgb in colour.table(32)]
    lightness = [point[0] for point in points]
    assert all(after > before for before, after in pairwise(lightness))
    steps = [dist(before, after) for before, after in pairwise(points)]
    assert max(steps) < 1.3 * min(steps)
    assert lightness[0] < 0.2
    assert lightness[-1] > 0.93
    assert max(hypot(a, b) for _, a, b in points) > 0.15  # in colour, not grey


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([2.3e6, 3.1e6], ["2.2 M", "2.4 M", "2.6 M", "2.8 M", "3.0 M", "3.2 M"]),
        ([-3.0, 1.0], ["−3", "−2", "−1", "0", "1"]),
        ([5.0, 5.0], ["4.4", "4.6", "4.8", "5.0", "5.2", "5.4", "5.6"]),
    ],
)
def test_ticks_are_round_and_cover_the_values(values: list[float], labels: list[str]) -> None:
    scale = charts.scale(values, 0.0, 100.0)
    assert [tick.label for tick in scale.ticks] == labels
    assert all(0 <= scale(value) <= 100 for value in values)


def test_numbers_and_dates_are_as_people_write_them(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes")
    settings = json.loads((folder / "settings.json").read_text()) | {"started": "2026-12-01T03:31:07+00:00"}
    (folder / "settings.json").write_text(json.dumps(settings))
    results = json.loads((folder / "results.json").read_text())
    results[0]["milliseconds"], results[1]["milliseconds"] = 1170.4, 0.0412
    (folder / "results.json").write_text(json.dumps(results))
    page = read(folder)
    assert "1 December 2026, 03:31 UTC" in page.text
    assert "2026-12-01T" not in page.text
    assert row(page, "none")[9] == "1,170"
    assert row(page, "spatial")[9] == "0.0412"
    assert "e+0" not in page.text


def test_wide_tables_say_that_they_go_on(tmp_path: Path) -> None:
    page = read(synthetic.write(tmp_path / "run", "pictures", ("none", "se"), (0, 1), keys=("cat", "dog")))
    frames = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert len(frames) == len(page.tables) == page.text.count("The table goes on to the right")
    assert len([one for one in page.all("div") if one.get("class") == "more"]) == len(frames)


def test_the_colours_of_a_map_leave_what_is_below_to_be_seen(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scenes")
    read(folder)
    written = (folder / "report.html").read_text(encoding="utf-8")
    given = bytes.fromhex(written.partition('data-colours="')[2].partition('"')[0])
    opacity = [given[4 * level + 3] for level in range(256)]
    assert len(given) == 4 * 256
    assert opacity[0] == 0
    assert opacity == sorted(opacity)
    assert 100 < opacity[-1] < 0.7 * 255
