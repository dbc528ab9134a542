"""What several commands share: their options, and the files that these name."""

import inspect
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from regard import files
from regard.cli import build
from regard.cli.options import source, source_of_test, stoppable
from regard.cli.train import invitation
from regard.errors import UserError
from regard.tasks.vqa.source import Source
from small_photos import table
from typed import typed

PICTURES, OTHERS, IMAGE_DATA = Path("pictures"), Path("others"), Path("image_data.json")


def test_what_visual_genome_needs_goes_with_its_files_and_with_no_others(tmp_path: Path) -> None:
    genome = tmp_path / "question_answers.json"
    genome.write_text('[{"id": 1, "qas": []}]')
    own = table(tmp_path / "own.csv", [("0.png", "what?", "red")])
    assert source(genome, PICTURES, None, IMAGE_DATA) == Source(genome, PICTURES, image_data=IMAGE_DATA)
    assert source_of_test(None, PICTURES, None, None, IMAGE_DATA) is None
    assert source_of_test(genome, PICTURES, None, None, IMAGE_DATA) == Source(genome, PICTURES, image_data=IMAGE_DATA)
    assert source_of_test(own, PICTURES, OTHERS, None, IMAGE_DATA) == Source(own, OTHERS)


def test_files_beside_questions_are_refused_without_these() -> None:
    for annotations, image_data in ((Path("answers.json"), None), (None, IMAGE_DATA)):
        with pytest.raises(UserError, match=r"\.json belongs to questions, and none are given"):
            source(None, PICTURES, annotations, image_data)
    for beside in ((OTHERS, None), (None, OTHERS)):
        with pytest.raises(UserError, match=r"others belongs to other questions to test on.*--test"):
            source_of_test(None, PICTURES, *beside, None)


def test_stopped_training_ends_with_the_code_of_a_stopped_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, stoppable():
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError), stoppable():
        raise UserError("as it was")


def test_a_run_is_asked_about_the_regions_that_it_was_trained_on(tmp_path: Path) -> None:
    files.write_json(tmp_path / "examples.json", [{"file": "a cat.jpg", "question": "what's that?"}])
    for options, more in (({"regions": "/far/features.h5"}, ["--regions", "/far/features.h5"]), ({}, [])):
        run = SimpleNamespace(folder=tmp_path, settings=SimpleNamespace(options=options))
        command = invitation(cast(Any, run))
        assert shlex.split(command) == ["regard", "ask", str(tmp_path), "a cat.jpg", "what's that?", *more]


def test_the_text_of_a_command_is_broken_by_the_terminal_and_not_by_its_source() -> None:
    application = build()
    (train,) = (group.typer_instance for group in application.registered_groups)
    commands = [((), info.callback) for info in application.registered_commands]
    commands += [(("train",), info.callback) for info in cast(typer.Typer, train).registered_commands]
    assert len(commands) == 9
    for group, command in commands:
        assert command is not None
        lines = [line.strip() for line in typed(*group, command.__name__, "--help", COLUMNS="2000").stdout.splitlines()]
        for paragraph in inspect.cleandoc(command.__doc__ or "").split("\n\n"):
            assert " ".join(paragraph.split()) in lines
