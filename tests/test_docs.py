"""The pages of the documentation hold the facts, and its pictures show something. mkdocs itself is not run."""

import shlex
from html import unescape
from inspect import signature
from pathlib import Path
from re import MULTILINE, findall, sub
from typing import Any, cast

import pytest
import torch
from PIL import Image
from typer.main import get_command

import pages
import pictures
from regard.attention import catalogue, mechanisms
from regard.cli import build
from regard.cli.catalog import example, summary
from regard.models.fusion import fusions
from regard.models.vqa import cores

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "src/regard/cli").glob("*.py")))
COMMANDS = [
    line for page in PAGES for line in findall(r"^ *(?:uv run )?(regard \w.*)", page.read_text("utf-8"), MULTILINE)
]
"""Those that stand on a line of their own: in the pages, and in what `--help` says."""

ENTRIES = {entry.name: entry for entry in catalogue.catalog()}


def plain(page: str) -> str:
    """What a reader sees of a page, without what sets code off."""
    blocks = sub(r"</?(code|strong)>", "", page).replace("`", "")
    return unescape(sub(r"</?[a-z]\w*( [^>]*)?>", " ", blocks))


@pytest.mark.parametrize("name", mechanisms)
def test_a_page_holds_the_facts(name: str) -> None:
    entry, mechanism = ENTRIES[name], mechanisms[name]
    page = plain(pages.page(mechanism, entry, []))
    assert page.startswith(f"# {name}\n")
    for fact in (entry.class_name, entry.formula, str(entry.paper), entry.parameter_count, example(mechanism)):
        assert fact in page
    words = " ".join(page.split())
    assert " ".join(summary(mechanism).replace("`", "").split()) in words
    for argument in signature(mechanism).parameters.values():
        assert f" {argument} " in page, f"the argument {argument.name} is missing"
    for deviation in entry.deviations:
        assert deviation.partition(": ")[0] in page
    for fact in mechanism.maps:
        assert f"{fact.label}: ({', '.join(fact.axes)})" in page


def test_a_page_says_what_each_argument_and_map_means() -> None:
    page = plain(pages.page(mechanisms["se"], ENTRIES["se"], []))
    assert "the paper's r; default 16" in page
    assert "each in 0..1" in page
    assert "s = mean over positions of x" in page


def test_the_table_and_the_navigation_lead_to_every_mechanism() -> None:
    assert findall(r'<a href="(\w+)\.html">', pages.table()) == list(ENTRIES)
    assert findall(r"'mechanisms/(\w+)\.md'", str(pages.navigation())) == ["index", *ENTRIES]


def test_the_first_page_is_the_readmes_beginning() -> None:
    page = pages.index((ROOT / "README.md").read_text(encoding="utf-8"))
    assert page.startswith("# regard\n")
    assert "\n## " not in page
    for target in findall(r"\]\(([^)#:]+)\)", page):
        assert target in {"mechanisms/index.md", "contributing.md", "changelog.md"} or (ROOT / "docs" / target).exists()


def test_the_pages_on_questions_and_fusion_list_every_model() -> None:
    found = findall(r"^\| `(\w+)` \|", pages.questions((ROOT / "docs/questions.md").read_text("utf-8")), MULTILINE)
    assert found == list(cores)
    found = findall(r"^\| `(\w+)` \|", pages.fusion((ROOT / "docs/fusion.md").read_text("utf-8")), MULTILINE)
    assert found[: len(fusions)] == list(fusions)


@pytest.mark.parametrize("line", dict.fromkeys(COMMANDS))
def test_a_command_that_is_shown_can_be_typed(line: str) -> None:
    command: Any = get_command(build())
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_the_pages_show_every_command() -> None:
    shown = {line.split()[1] for line in COMMANDS}
    assert shown == set(cast(Any, get_command(build())).commands)


def test_the_features_are_fixed_and_alike_in_size() -> None:
    features = pictures.features()
    assert features.shape == (1, 24, pictures.ROWS, pictures.COLUMNS)
    torch.testing.assert_close(features.square().mean((2, 3)), torch.ones(1, 24))


def test_a_gabor_filter_answers_to_its_own_stripes() -> None:
    position = torch.arange(96.0)
    stripes = (2 * torch.pi * position / 9).cos().expand(1, 1, 96, 96)  # they change along x: an angle of 0
    answers = {
        (wavelength, angle): float(pictures._energy(stripes, wavelength, angle)[..., 32:64, 32:64].mean())
        for wavelength in (4, 9)
        for angle in (0, 90)
    }
    assert answers[9, 0] == max(answers.values())
    assert max(answers[9, 90], answers[4, 0], answers[4, 90]) < 0.2 * answers[9, 0]


@pytest.mark.parametrize(
    "name", ["scse", "se", "multi_head_self", "additive", "softmax_pool", "aff", "sk", "linformer"]
)
def test_every_map_gives_a_picture_that_is_not_blank(name: str) -> None:
    drawn = pictures.draw(mechanisms[name])
    assert [picture.label for picture in drawn] == [fact.label for fact in mechanisms[name].maps]
    for picture in drawn:
        assert picture.lowest < picture.highest
        assert not picture.constant
        assert _colours(picture.image) > 20
        assert f"{name}-{picture.label}.webp" in pages.page(mechanisms[name], ENTRIES[name], drawn)


@pytest.mark.parametrize("name", mechanisms)
def test_every_mechanism_can_be_fed_and_its_maps_cut_into_panels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = pictures.features()[:, :, ::4, ::4].contiguous()
    for constant, value in {"ROWS": 6, "COLUMNS": 8, "POINTS": ((1, 1), (2, 3), (4, 6))}.items():
        monkeypatch.setattr(pictures, constant, value)
    monkeypatch.setattr(pictures, "features", lambda: coarse)
    found = pictures.offered(mechanisms[name])
    assert {one.label for one in found} == {fact.label for fact in mechanisms[name].maps}
    for one in found:
        assert one.values.isfinite().all()
        if one.values.ndim > 2:
            panels = pictures.panels(one, asked=False)
            assert 1 <= len(panels) <= 7
            assert all(panel.values.ndim == 2 for panel in panels)


def test_an_untouched_map_is_drawn_and_called_constant() -> None:
    (picture,) = pictures.draw(mechanisms["spatial_transformer"])  # starts at the identity
    assert picture.constant
    assert _colours(picture.image) > 20
    assert "constant" in pages.page(mechanisms["spatial_transformer"], ENTRIES["spatial_transformer"], [picture])


def test_pictures_are_the_same_every_time() -> None:
    first, second = (pictures.draw(mechanisms["se"])[0].image.tobytes() for _ in range(2))
    assert first == second


def _colours(image: Image.Image) -> int:
    return len(image.getcolors(image.width * image.height) or [])
