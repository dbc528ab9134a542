"""The public surface is written down in surface.json; a change of it is a decision, seen in review."""

import json
import subprocess
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

FROZEN = Path(__file__).with_name("surface.json")
REGENERATE = "uv run python tests/test_surface.py --write"

HEAVY = ("lightning", "timm", "torchvision", "sklearn", "matplotlib", "jinja2", "transformers", "gradio", "ray")


def surface() -> dict[str, list[str] | dict[str, str]]:
    """What a user may rely on, by group."""
    import regard
    from regard import attention
    from regard.models.fusion import fusions
    from regard.models.vqa import cores

    rooms = ("regard", "regard.attention", "regard.models.vqa", "regard.models.fusion", "regard.tasks.vqa")
    made = {"create": attention.mechanisms, "models.vqa.create": cores, "models.fusion": fusions}
    return {
        **{room: sorted(import_module(room).__all__) for room in rooms},
        **{verb: {name: str(signature(kinds[name])) for name in sorted(kinds)} for verb, kinds in made.items()},
        "verbs": {name: str(signature(getattr(regard, name))) for name in regard.__all__ if name != "__version__"},
    }


def test_surface_is_as_written_down() -> None:
    frozen, found = json.loads(FROZEN.read_text()), surface()
    changes = []
    for group in sorted(frozen.keys() | found.keys()):
        old, new = (_lines(group, groups.get(group, [])) for groups in (frozen, found))
        changes += [f"- {line}" for line in sorted(old - new)] + [f"+ {line}" for line in sorted(new - old)]
    assert not changes, (
        "the public surface changed:\n" + "\n".join(changes) + f"\nIf that is meant, write it down with: {REGENERATE}"
    )


@pytest.mark.slow
def test_import_brings_torch_and_nothing_heavier() -> None:
    loaded = _python(
        "import sys, regard, regard.attention; print(*{name.partition('.')[0] for name in sys.modules})"
    ).split()
    assert "torch" in loaded
    assert not set(HEAVY) & set(loaded)


def test_help_does_not_load_torch() -> None:
    loaded = _python("import sys, regard.cli; regard.cli.build(); print('torch' in sys.modules)")
    assert loaded.strip() == "False"


def test_root_lists_its_verbs_and_refuses_others() -> None:
    import pytest

    import regard
    from regard.attention import catalogue

    assert set(regard.__all__) <= set(dir(regard))
    assert regard.create is catalogue.create
    assert regard.__version__
    with pytest.raises(AttributeError, match=r"'creat'.*catalog, compare"):
        getattr(regard, "creat")  # noqa: B009


def _lines(group: str, names: list[str] | dict[str, str]) -> set[str]:
    if isinstance(names, dict):
        return {f"{group}: {name}{arguments}" for name, arguments in names.items()}
    return {f"{group}: {name}" for name in names}


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"To write the surface down: {REGENERATE}")
    FROZEN.write_text(json.dumps(surface(), indent=2, ensure_ascii=False) + "\n")
