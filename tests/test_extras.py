"""What a bare install says: which extra to install, for every command and from Python."""

import ast
import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from regard.errors import UserError
from regard.extras import DISTRIBUTIONS, SINGLE, MissingDependencyError, naming_extras, requirement_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    return requirement.partition(">=")[0].replace("_", "-").lower()


NEEDED = set(map(name_of, PROJECT["dependencies"]))
EXTRA = {name_of(line): extra for extra, lines in PROJECT["optional-dependencies"].items() for line in lines}
MODULES = {
    module: distributions[0].replace("_", "-").lower() for module, distributions in packages_distributions().items()
}


def imported() -> set[str]:
    """The top names of all that the package imports anywhere, without itself and the standard library."""
    found: set[str] = set()
    for path in (ROOT / "src" / "regard").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"regard"}


def test_every_module_that_is_imported_is_installed_or_its_extra_is_known() -> None:
    for module in sorted(imported()):
        distribution = DISTRIBUTIONS.get(module) or MODULES.get(module, module)
        if distribution in NEEDED:
            assert requirement_of(module) is None, module
        elif distribution in EXTRA:
            assert requirement_of(module) == f"regard[{EXTRA[distribution]}]", module
        else:
            assert requirement_of(module) == SINGLE[module], f"{module} is in no extra, and not in SINGLE"


def test_every_package_of_an_extra_is_known_by_its_modules() -> None:
    for module, distribution in MODULES.items():
        if distribution in EXTRA and not module.startswith("_"):
            assert requirement_of(module) == f"regard[{EXTRA[distribution]}]", module


def test_only_what_is_optional_and_absent_is_explained() -> None:
    with pytest.raises(MissingDependencyError, match=r"needs h5py.*pip install h5py$"), naming_extras():
        raise_missing("h5py_is_here_so_another", "h5py")
    for module in ("no_such_module_of_anybody", "torch.no_such_part", "PIL.no_such_part"):
        with pytest.raises(ModuleNotFoundError) as error, naming_extras():
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        assert not isinstance(error.value, UserError)


def raise_missing(module: str, name: str) -> None:
    """As the import system does for `name`, while that cannot be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, None)
        with naming_extras():
            __import__(name)


SCRIPT = """
import json, sys

blocked = set(sys.argv[1].split(","))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
from typer.testing import CliRunner
from regard.cli import build

found = []
for words in json.loads(sys.argv[2]):
    result = CliRunner(env={"COLUMNS": "160"}).invoke(build(), words)
    found.append([words, result.exit_code, result.stdout, result.stderr, repr(result.exception)])
import regard
try:
    regard.compare("none", epochs=1)
    python = "ran"
except ImportError as error:
    python = f"{type(error).__name__}: {error}"
print(json.dumps([found, python, [regard.create("se", 16).__class__.__name__]]))
"""

COMMANDS = [
    ["compare"],
    ["compare", "--data", "photos"],
    ["compare", "--data", "photos", "--questions", "questions.csv"],
    ["train", "vqa", "photos", "questions.csv"],
    ["train", "fusion", "table.csv"],
    ["evaluate", "run"],
    ["ask", "run", "cat.png", "what is it?"],
    ["export", "run", "file.pt2"],
    ["places", "resnet18"],
    ["cost", "resnet18"],
]
WORKING = [["catalog"], ["catalog", "cbam"], ["cost", "cbam", "--repeats", "1"], ["--version"], ["compare", "--help"]]


def bare(tmp_path: Path, blocked: set[str], commands: list[list[str]]) -> tuple[list[tuple], str]:
    """What the commands say where these modules cannot be imported, and what `regard.compare` does."""
    arguments = [sys.executable, "-W", "ignore", "-c", SCRIPT, ",".join(sorted(blocked)), json.dumps(commands)]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    found, python, made = json.loads(done.stdout.splitlines()[-1])
    assert made == ["SqueezeExcitation"]
    return found, python


@pytest.mark.slow
def test_a_bare_install_says_in_one_line_which_extra_each_command_needs(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{}")
    (tmp_path / "questions.csv").write_text("image,question,answer\ncat.png,what?,cat\n")
    (tmp_path / "table.csv").write_text("text,label\na,b\n")
    absent = {module for module, name in MODULES.items() if name in EXTRA} - {"jinja2"} | set(SINGLE)
    found, python = bare(tmp_path, absent, COMMANDS + WORKING)
    for words, code, out, error, raised in found:
        if words in WORKING:
            assert code == 0, (words, error, raised)
        else:
            assert code == 2, (words, out, error, raised)
            assert len(error.strip().splitlines()) == 1, error
            assert error.startswith("Error: ")
            assert 'pip install "regard[compare]"' in error, words
    assert python.startswith("MissingDependencyError: this needs ")
    assert 'pip install "regard[compare]"' in python


@pytest.mark.slow
def test_a_single_package_that_is_missing_is_named(tmp_path: Path) -> None:
    found, python = bare(tmp_path, {"lightning"}, [["compare", "--attention", "none", "--epochs", "1"]])
    ((_, code, _, error, _),) = found
    assert (code, len(error.strip().splitlines())) == (2, 1)
    assert "this needs lightning, which is not installed: " in error
    assert 'pip install "regard[compare]"' in error
    assert python.startswith("MissingDependencyError: this needs lightning, which is not installed: ")
