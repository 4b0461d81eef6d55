# SPDX-License-Identifier: Apache-2.0
"""Tables on disk: jsonl, json, csv, tsv and parquet, plain or gzip."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TextIO, cast

from fedlora.errors import DataError

Rows = Sequence[Mapping[str, object]]
Part = Literal["train", "test"]

_READERS = ("jsonl", "json", "csv", "tsv", "parquet")


def part_file(folder: Path, part: Part) -> Path:
    """The training or the test file of a folder.

    Raises:
        DataError: there is none.
    """
    for ending in _READERS:
        for name in (f"{part}.{ending}", f"{part}.{ending}.gz"):
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"data.path is the folder {folder.name!r}, but it has no {part} file: expected {part}.jsonl, .csv, .tsv or "
        f".parquet (or .gz of these)."
    )


def read_rows(path: Path) -> Rows:
    """Read one table.

    Raises:
        DataError: the format is unknown, or a line cannot be read.
    """
    endings = [ending.removeprefix(".") for ending in path.suffixes]
    kind = next((ending for ending in reversed(endings) if ending in _READERS), None)
    if kind is None:
        raise DataError(f"{path.name}: unknown kind of file; expected one of {', '.join(_READERS)}, plain or .gz.")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            data: bytes = file.read()
        if kind == "parquet":
            return _read_parquet(data, path.name)
        return _read_text(io.StringIO(data.decode("utf-8-sig"), newline=""), kind, path.name)
    except (OSError, ValueError, RecursionError, csv.Error, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read as {kind}: {error}.") from error


def _read_parquet(data: bytes, name: str) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: Rows = parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{name} cannot be read as parquet: {error}.") from error
    return rows


def _read_text(file: TextIO, kind: str, name: str) -> Rows:
    if kind in ("csv", "tsv"):
        csv.field_size_limit(sys.maxsize)
        header = file.readline()
        file.seek(0)
        # spreadsheets write semicolons where the comma is the decimal sign
        delimiter = "\t" if kind == "tsv" else ";" if ";" in header and "," not in header else ","
        return list(csv.DictReader(file, delimiter=delimiter))
    if kind == "json":
        return _objects(json.load(file), name)
    lines = enumerate(file, start=1)
    return _objects((_line(line, number, name) for number, line in lines if line.strip()), name)


def _line(line: str, number: int, name: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits, of nesting without end
        told = error.msg if isinstance(error, json.JSONDecodeError) else str(error).partition(":")[0]
        raise DataError(f"{name}: line {number} is no JSON ({told}); expected one object a line.") from error


def _objects(values: object, name: str) -> Rows:
    rows = list(values) if isinstance(values, Iterable) and not isinstance(values, Mapping) else [values]
    if not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"{name}: expected one JSON object an example, with a column for text and one for label.")
    return cast(Rows, rows)
