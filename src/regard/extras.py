"""What a bare `pip install regard` leaves out, and the line that says how to get it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec

from regard.commands import pip_install
from regard.errors import UserError

DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "markupsafe": "jinja2"}
"""Modules whose distribution, or that which brings it along, has another name."""

SINGLE = {
    "av": "av",
    "h5py": "h5py",
    "huggingface_hub": "huggingface-hub",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "soundfile": "soundfile",
    "tokenizers": "tokenizers",
    "transformers": "transformers",
}
"""Modules that a few people need, with their distribution; they are in no extra."""


class MissingDependencyError(UserError, ImportError):
    """Something needs a package that is not installed. The message says how to install it."""


@contextmanager
def naming_extras() -> Iterator[None]:
    """Say which extra to install where something inside needs a package that is not installed; also a decorator.

    Raises:
        MissingDependencyError: a package is missing that an extra has, or that is known as optional.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        found = missing(error)
        if found is None:
            raise
        raise found from error


def missing(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """Return the error that says how to install what was not found; None for what is no optional package."""
    module = (error.name or "").partition(".")[0]
    requirement = requirement_of(module)
    if requirement is None or _installed(module):
        return None
    return MissingDependencyError(
        f"this needs {module}, which is not installed: {pip_install(requirement)}", name=error.name
    )


def requirement_of(module: str) -> str | None:
    """Return what to install for a module: `"regard[EXTRA]"`, the name of a single package, or None if not known."""
    distribution = DISTRIBUTIONS.get(module, module)
    extras = []
    for line in _requirements():
        name, extra = re.match(r"[\w.-]+", line), re.search(r"""extra == ['"]([\w-]+)""", line)
        if name and extra and _normal(name[0]) == _normal(distribution):
            extras.append(extra[1])
    # Metadata may list what another extra brings along under `all` too.
    return f"regard[{min(extras, key='all'.__eq__)}]" if extras else SINGLE.get(module)


def _requirements() -> list[str]:
    try:
        return metadata.requires("regard") or []
    except metadata.PackageNotFoundError:
        return []


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
