"""A table as columns, and what each column holds."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from regard.commands import pip_install
from regard.errors import UserError
from regard.models.fusion.encoders.picture import SUFFIXES as PICTURES

Kind = Literal["text", "image", "audio", "video", "number", "category"]

SOUNDS = (".wav", ".wave", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".gif")

ARROW = (".parquet", ".arrow", ".feather")

MOST_WORDS = 4
"""A category's name has no more words."""


def columns_of(table: Any) -> dict[str, list[Any]]:
    """The columns of a table, with None for every cell that is missing: NaN, NA, and text that is blank.

    Args:
        table: a pandas data frame, an Arrow table, a mapping from names to columns, a list of mappings, or the path of
            a CSV file, in which a column of numbers alone becomes one of numbers, or of a Parquet or Arrow file.

    Raises:
        UserError: it is none of these, or its columns have differing lengths.
    """
    if isinstance(table, (str, Path)):
        path = Path(table)
        columns = _arrow(path) if path.suffix.lower() in ARROW else _csv(path)
    elif hasattr(table, "column_names") and hasattr(table, "to_pydict"):  # Arrow
        _distinct("the table", table.column_names)
        columns = table.to_pydict()
    elif hasattr(table, "columns") and hasattr(table, "iloc"):  # pandas
        _distinct("the table", map(str, table.columns))
        columns = {str(name): table[name].tolist() for name in table.columns}
    elif isinstance(table, Mapping):
        columns = {name: list(values) for name, values in table.items()}
    elif isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        names = dict.fromkeys(name for row in table for name in row)
        columns = {name: [row.get(name) for row in table] for name in names}
    else:
        raise UserError(
            f"a {type(table).__name__} is no table: give a pandas data frame, an Arrow table, a mapping from names to "
            "columns, a list of mappings, or the path of a CSV, Parquet or Arrow file"
        )
    _distinct("the table", map(str, columns))
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"the columns differ in length ({lengths}): give one value for every row, None where missing")
    return {str(name): [_clean(value) for value in values] for name, values in columns.items()}


def folder_of(table: Any, folder: str | Path | None) -> Path:
    """Where relative paths begin: the folder given, or that of the table's file, or the current one."""
    if folder is not None:
        return Path(folder)
    return Path(table).parent if isinstance(table, (str, Path)) else Path()


def kinds_of(
    columns: Mapping[str, list[Any]],
    target: str,
    wanted: Sequence[str] | Mapping[str, str | None] | None,
    folder: Path,
) -> dict[str, str]:
    """For each column that is used what it holds, as given or else as its values look.

    Raises:
        UserError: a column is not there, is empty, or is given a kind that there is none of.
    """
    if wanted is None:
        wanted = [name for name in columns if name != target]
    given = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    kinds = {}
    for name, kind in given.items():
        if name not in columns:
            raise UserError(f"there is no column {name!r}: the table has {', '.join(columns)}")
        if name == target:
            raise UserError(f"{name!r} is the target: leave it out of the columns, or it would be read from")
        if kind is not None and kind not in get_args(Kind):
            raise UserError(f"column {name!r} is given the kind {kind!r}: choose one of {', '.join(get_args(Kind))}")
        known = [value for value in columns[name] if value is not None]
        if not known:
            raise UserError(f"column {name!r} has no value in any row: leave it out with columns=")
        kinds[name] = kind or infer(name, known, folder)
    if not kinds:
        raise UserError(f"there is no column beside the target {target!r}: nothing tells the label")
    return kinds


def infer(name: str, values: Sequence[Any], folder: Path) -> str:
    """What values that are not missing look like.

    Paths by their suffix, or by being folders; pictures in memory; numbers; booleans, and short names that occur again
    and again, as categories; all else as text.

    Raises:
        UserError: they are of a type that nothing is known of.
    """
    if all(isinstance(value, bool) for value in values):
        return "category"
    if all(isinstance(value, (int, float)) for value in values):
        return "number"
    if all(hasattr(value, "__array_interface__") for value in values):  # of Pillow and NumPy
        return "image"
    if strange := [value for value in values if not isinstance(value, (str, Path, bool, int, float))]:
        raise UserError(
            f"column {name!r} holds a {type(strange[0]).__name__}, which is neither text, path, picture nor number: "
            "convert it, or leave it out with columns="
        )
    texts = [str(value) for value in values]
    for kind, suffixes in (("audio", SOUNDS), ("video", VIDEOS), ("image", PICTURES)):
        if all(text.lower().endswith(suffixes) for text in texts):
            return kind
    if all((folder / text).is_dir() for text in texts[:100]):
        return "video"
    distinct = set(texts)
    again = len(distinct) <= max(2, min(100, len(texts) // 5))
    return "category" if again and all(len(text.split()) <= MOST_WORDS for text in distinct) else "text"


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as CSV ({error}): give a text file of comma-separated values"
        ) from error
    if not rows:
        raise UserError(f"{path} has no row: give a CSV file with a line of names and a line for each row")
    _distinct(str(path), reader.fieldnames or ())
    if any(None in row for row in rows):
        raise UserError(f"{path} has a line with more values than names: put quotes around what holds a comma")
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    for name, values in columns.items():
        try:
            columns[name] = [float(value) if value and value.strip() else None for value in values]
        except ValueError:
            continue
        if all(value is None or value.is_integer() for value in columns[name]):
            columns[name] = [None if value is None else int(value) for value in columns[name]]
    return columns


def _arrow(path: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import ArrowException, feather, parquet
    except ImportError as error:
        needs = f"reading {path.name} needs pyarrow, which is not installed"
        raise UserError(f"{needs}: {pip_install('pyarrow')}, or give a CSV file") from error
    try:
        read = parquet.read_table if path.suffix.lower() == ".parquet" else feather.read_table
        table = read(path)
    except (OSError, ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}): give a Parquet, Arrow or CSV file") from error
    _distinct(str(path), table.column_names)
    return table.to_pydict()


def _distinct(table: str, names: Iterable[str]) -> None:
    """Refuse names of which one would silently stand for two columns."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{table} has two columns of one name ({twice[0]!r}): rename one of them")


def _clean(value: Any) -> Any:
    if isinstance(value, (bool, int, Path)):
        return value
    if isinstance(value, str):
        return value if value.strip() else None
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which is not imported
        return None
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of NumPy
        value = value.item()
    return None if isinstance(value, float) and value != value else value
