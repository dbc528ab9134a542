"""The benchmark's rows can be trained, its table is that of the docs, and says what was measured."""

import math
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = spec_from_file_location("sort_of_clevr_benchmark", ROOT / "benchmarks" / "sort_of_clevr.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reached(row: str, seed: int, benchmark: ModuleType, relational: float, looks: list[float]) -> dict[str, Any]:
    part = {
        "accuracy": {"shape": 0.75, "non-relational": 0.75, "relational": relational},
        "interval": {"non-relational": [0.7, 0.8], "relational": [relational - 0.01, relational + 0.01]},
        "pointing": {
            where: [{"non-relational": look, "relational": look} for look in looks] for where in ("asked", "found")
        }
        if looks
        else {},
        "baselines": {"question": {"non-relational": 0.5, "relational": 0.4}},
    }
    training = benchmark.ROWS[row].training()
    return {"row": row, "seed": seed, "training": training, "core_minutes": 7.0, "rule": part, "more": part}


def test_every_row_answers_every_question_of_its_task(benchmark: ModuleType) -> None:
    for row in benchmark.ROWS.values():
        task = row.task()
        task.training_scenes = 1  # none is trained on here, and drawing all of them takes two seconds a row
        pictures, questions = task.example(0)
        assert questions.shape[1:] == ((30, 18) if row.ternary else (20, 11))
        with torch.no_grad():
            assert task.model(row.core, 0).eval()(pictures, questions).shape == (1, questions.shape[1], 10)


@pytest.mark.parametrize(("asked", "families"), [(2, [0, 0, 1, 1]), ((1, 4), [0, 1, 1, 1, 1])])
def test_a_picture_is_asked_so_many_questions_of_each_family_and_others_another_time(
    benchmark: ModuleType, asked: int | tuple[int, int], families: list[int]
) -> None:
    places = torch.arange(7 * 20).reshape(7, 20)  # ten of one family, then ten of the other
    whole = benchmark.Batch(torch.arange(7), places[..., None] * torch.tensor([1, 2, 3]), places, -places)
    drawn = [benchmark._some(whole, asked, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    for batch in drawn:
        assert torch.equal(batch.pictures, whole.pictures)
        assert batch.questions.tolist() == [[[n, 2 * n, 3 * n] for n in row] for row in batch.answers.tolist()]
        assert torch.equal(batch.kinds, -batch.answers)
        for picture, row in enumerate(batch.answers.tolist()):
            assert [(answer - 20 * picture) // 10 for answer in row] == families
            assert len(set(row)) == len(families)
    assert torch.equal(drawn[0].answers, drawn[1].answers)
    assert not torch.equal(drawn[0].answers, drawn[2].answers)
    one = benchmark.Batch(whole.pictures, *(x[:, :10] for x in (whole.questions, whole.answers, whole.kinds)))
    alone = benchmark._some(one, asked, torch.Generator().manual_seed(0))
    assert alone.answers.shape == (7, 2 if asked == 2 else 5)
    three = benchmark.Batch(whole.pictures, *(x.repeat_interleave(2, 1)[:, :30] for x in whole[1:]))
    if asked == 2:
        assert benchmark._some(three, asked, torch.Generator()).answers.shape == (7, 6)
    else:
        with pytest.raises(ValueError, match="3 families"):
            benchmark._some(three, asked, torch.Generator())


def test_another_training_of_the_same_row_is_kept_apart(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    row, runs = benchmark.ROWS["entity_stream_zero"], Path("runs")
    before = [benchmark.folder(name, 0, runs) for name in ("entity_stream_zero", "hard_entity_stream")]
    monkeypatch.setitem(benchmark.ROWS, "entity_stream_zero", replace(row, title="another title"))
    assert [benchmark.folder(name, 0, runs) for name in ("entity_stream_zero", "hard_entity_stream")] == before
    monkeypatch.setitem(benchmark.ROWS, "entity_stream_zero", replace(row, batch=17))
    after = [benchmark.folder(name, 0, runs) for name in ("entity_stream_zero", "hard_entity_stream")]
    assert not set(after) & set(before)  # what starts from it is another training, too


def test_a_row_may_start_from_the_trained_values_of_another(benchmark: ModuleType) -> None:
    row = benchmark.ROWS["hard_entity_stream"]
    start, task = benchmark.ROWS[row.starts_from], row.task()
    values = start.task().model(start.core, 3).state_dict()
    fresh = task.model(row.core, 0).state_dict()
    assert any(not torch.equal(values[name], fresh[name]) for name in values)
    task.values = values
    started = task.model(row.core, 0)
    assert all(torch.equal(values[name], value) for name, value in started.state_dict().items())
    assert started.core.read.hard
    assert row.training()["starts_from"] == start.training()


def test_a_row_of_another_kind_of_model_starts_from_the_convolutions_alone(benchmark: ModuleType) -> None:
    row = benchmark.ROWS["relation_network_heard"]
    start, task = benchmark.ROWS[row.starts_from], row.task()
    fresh = task.model(row.core, 0).state_dict()
    task.values = values = start.task().model(start.core, 3).state_dict()
    started = task.model(row.core, 0).state_dict()
    taken = {name for name in fresh if name.startswith("sight.")}
    assert taken
    assert all(torch.equal(started[name], (values if name in taken else fresh)[name]) for name in fresh)


def test_values_that_are_not_on_disk_any_more_are_trained_again(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands = reached("entity_stream", 0, benchmark, 0.5, [])
    anew = reached("entity_stream", 0, benchmark, 0.6, [])
    benchmark.files.write_json(tmp_path / "results.json", [stands])
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(benchmark, "measured", lambda *_: anew)
    assert benchmark.result("entity_stream", 0, tmp_path) == stands
    weights = benchmark.folder("entity_stream", 0, tmp_path) / "model.safetensors"
    weights.parent.mkdir()
    weights.touch()
    assert benchmark.result("entity_stream", 0, tmp_path, kept=True) == stands
    weights.unlink()
    assert benchmark.result("entity_stream", 0, tmp_path, kept=True) == anew
    assert benchmark.written() == [anew]


def test_a_training_that_goes_nowhere_begins_anew_from_another_seed_and_its_minutes_count(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(benchmark.ROWS["entity_stream"], anew=(18, 0.8))
    monkeypatch.setitem(benchmark.ROWS, "entity_stream", row)
    monkeypatch.setattr(benchmark, "reached", lambda *_: {})
    seeds: list[int] = []

    def train(task: Any, core: str, seed: int, budget: Any, checkpoint: Path, *others: Any) -> SimpleNamespace:
        seeds.append(seed)
        assert checkpoint == benchmark.folder("entity_stream", 2, tmp_path) / f"checkpoint-{len(seeds) - 1}.safetensors"
        report = others[-1]
        at = benchmark.Progress(epoch=17, seconds=60.0 * len(seeds), accuracy=0.5)
        report(at)  # not yet
        report(replace(at, epoch=18, accuracy=math.nan))  # never measured
        report(replace(at, epoch=18, accuracy=0.8))  # good enough
        report(replace(at, epoch=19))  # judged once
        if len(seeds) < 3:
            report(replace(at, epoch=18, accuracy=0.79))
        return SimpleNamespace(model=task.model(core, seed), progress=at)

    monkeypatch.setattr(benchmark, "train", train)
    found = benchmark.measured("entity_stream", 2, tmp_path)
    assert seeds == [2, 1002, 2002]
    assert (found["seed"], found["began_from"]) == (2, 2002)
    assert found["core_minutes"] == (1 + 2 + 3) * torch.get_num_threads()
    assert found["training"]["anew"] == [18, 0.8]
    assert "anew" not in benchmark.ROWS["cnn_mlp"].training()
    assert (benchmark.folder("entity_stream", 2, tmp_path) / "model.safetensors").exists()


def test_a_row_is_its_seeds_mean_with_the_interval_between_them_or_that_of_the_questions(benchmark: ModuleType) -> None:
    two = [reached("entity_stream", seed, benchmark, share, [0.2, 0.1, 0.3]) for seed, share in enumerate((0.5, 0.7))]
    table = benchmark.page([*two, reached("cnn_mlp", 0, benchmark, 0.6, [])])
    # Two equal values show no spread between seeds; theirs is that of the questions.
    # Student's interval of two others: their mean and 12.7062 times half their distance.
    assert "| soft entity stream | 99 / 95 | 99 / 95 | 2 | **75.00** (70.00 to 80.00) | **60.00** (0.00 to 100.00)" in (
        table
    )
    assert (
        "| CNN + MLP, no attention | 94+ / 63 | within 3 | 1 | **75.00** (70.00 to 80.00) | **60.00** (59.00 to 61.00"
        in table
    )
    assert "| *the most frequent answer to a question* | | | | 50.0 | 40.0 |  | | | |" in table
    assert "| on the object asked about, relational questions | 20.0, look 2: 30.0 |" in table
    assert "| the largest weight lies | soft entity stream |" in table


def test_a_row_says_which_of_its_seeds_were_restarted(benchmark: ModuleType) -> None:
    """Also a row that starts from such runs; a plain row says nothing of it."""

    def row_of(table: str, title: str) -> str:
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {title} |")]
        return line.split("|")[4].strip()

    def measured(name: str, seed: int, **more: int) -> dict[str, Any]:
        return {**reached(name, seed, benchmark, 0.5, [0.2]), **more}

    wide, hard = (benchmark.ROWS[name] for name in ("entity_stream_wide", "hard_entity_stream_wide"))
    assert wide.anew == (18, 0.8)
    assert hard.starts_from == "entity_stream_wide"
    plain = measured("cnn_mlp", 0)
    starts = [measured("entity_stream_wide", seed, began_from=began) for seed, began in ((0, 0), (1, 3001), (2, 2))]
    harder = [measured("hard_entity_stream_wide", seed) for seed in (0, 1)]
    table = benchmark.page([plain, *starts, *harder])
    rule = "below 80 % of the validation questions after 18 epochs"
    assert row_of(table, benchmark.ROWS["cnn_mlp"].title) == "1"
    assert row_of(table, wide.title) == f"3; seed 1 restarted from another seed, being {rule}"
    assert row_of(table, hard.title) == (
        f"2; seed 1 restarted from another seed in the row that it starts from, being {rule}"
    )
    kinds, looks = (line for line in table.splitlines() if line.startswith(("| kind of", "| the largest")))
    for head in (kinds, looks):
        assert f"| {wide.title}, seed 1 restarted | {hard.title}, seed 1 restarted |" in head
    table = benchmark.page([plain, *(starts[at] for at in (0, 2)), harder[0]])
    assert row_of(table, wide.title) == f"2; none was {rule}, where a run is restarted"
    assert row_of(table, hard.title) == f"1; none was {rule}, where a run is restarted"
    assert "restarted" not in benchmark.page([plain])
    with pytest.raises(KeyError, match="began_from"):  # nobody may think that a run was not restarted, unrecorded
        benchmark.page([measured("entity_stream_wide", 0)])


def test_the_docs_have_the_table_of_what_was_measured_with_the_training_that_rows_have(benchmark: ModuleType) -> None:
    assert benchmark.known() == benchmark.written()
    assert benchmark.page(benchmark.known()) in benchmark.PAGE.read_text(encoding="utf-8")
