"""The rows of data files, one after another, with their places; what can't be read is a row left out, not a crash.

JSON lines, whole JSON files and CSV (each also gzipped), Parquet and YAML documents. A byte-order mark is no
data. Of whole JSON files and YAML all is in memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from reasoner.registry import UserError
from reasoner.store import no_utf8

SUFFIXES = (".jsonl", ".json", ".gz", ".csv", ".parquet", ".yaml", ".yml")
ACCOUNT = "import.json"  # what `reasoner import` says of a folder that it wrote, and no data
LONGEST_CELL = 1 << 30  # characters; the csv module's own limit of 131,072 is less than a program's tests


class Row(NamedTuple):
    """A row and where it stands: its line, or its place in the file from 1 on."""

    line: int
    value: dict[str, Any]


class LeftOut(NamedTuple):
    """A row that was not taken, and why."""

    file: str
    line: int
    reason: str


def data_files(path: str | Path) -> list[Path]:
    """The file itself, or the data files below a folder; none is a UserError."""
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(
            p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file() and p.name != ACCOUNT
        )
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise UserError(f"no data at {path}; expected a file, or a folder of files: {', '.join(SUFFIXES)}")
    return files


def read_rows(file: Path) -> Iterator[Row | LeftOut]:
    """The rows of one file in order."""
    kind = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    yield from READERS.get(kind, _json)(file)


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _json(file: Path) -> Iterator[Row | LeftOut]:
    line = 0
    try:
        with _opened(file) as lines:
            for line, raw in enumerate(lines, start=1):
                begin = raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
                if line == 1 and (
                    begin == b"[" or (begin == b"{" and not _is_object(raw) and _is_json(file))
                ):
                    yield from _document(file, raw + lines.read())
                    return
                if raw.strip():
                    yield _parsed(file, line, raw)
    except (EOFError, OSError, zlib.error) as problem:
        yield LeftOut(file.name, line + 1, f"the file can't be read from here on ({problem})")


def _parsed(file: Path, line: int, raw: bytes) -> Row | LeftOut:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return LeftOut(file.name, line, no_utf8(raw))
    except (ValueError, RecursionError) as problem:
        return LeftOut(file.name, line, f"broken JSON ({problem})")
    return _row(file, line, value)


def _no_text(file: Path) -> LeftOut:
    """The first line of a file that is no UTF-8 text."""
    with _opened(file) as lines:
        return next(
            LeftOut(file.name, i, why) for i, raw in enumerate(lines, start=1) if (why := no_utf8(raw))
        )


def _row(file: Path, line: int, value: Any) -> Row | LeftOut:
    if not isinstance(value, dict):
        return LeftOut(file.name, line, f"a JSON {type(value).__name__}, expected an object")
    return Row(line, value)


def _is_json(file: Path) -> bool:
    """Whether the name says that the file is one JSON value, and not one a line."""
    return file.name.removesuffix(".gz").endswith(".json")


def _is_object(raw: bytes) -> bool:
    try:
        return isinstance(json.loads(raw.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _document(file: Path, raw: bytes) -> Iterator[Row | LeftOut]:
    """A file that is one JSON value: a list of rows, an object of lists of rows (by any key), or a single row."""
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        yield _no_text(file)
        return
    except (ValueError, RecursionError) as problem:
        yield LeftOut(file.name, 1, f"broken JSON ({problem})")
        return
    if isinstance(value, dict):
        is_of_lists = all(
            isinstance(v, list) and all(isinstance(row, dict) for row in v) for v in value.values()
        )
        value = [row for of_key in value.values() for row in of_key] if is_of_lists else [value]
    for place, row in enumerate(value, start=1):
        yield _row(file, place, row)


def _csv(file: Path) -> Iterator[Row | LeftOut]:
    """Rows with the header's names; all values are text. A row of another length than the header is left out."""
    line = 0
    longest = csv.field_size_limit(LONGEST_CELL)
    try:
        with io.TextIOWrapper(_opened(file), encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text, strict=True)
            header = next(rows, [])
            for cells in rows:
                line = rows.line_num
                if len(cells) == len(header):
                    yield Row(line, dict(zip(header, cells, strict=True)))
                elif cells:
                    yield LeftOut(file.name, line, f"{len(cells)} cells under a header of {len(header)}")
    except UnicodeDecodeError:  # of a chunk that was read ahead
        yield _no_text(file)
    except (EOFError, OSError, zlib.error, csv.Error) as problem:
        yield LeftOut(file.name, line + 1, f"the file can't be read from here on ({problem})")
    finally:
        csv.field_size_limit(longest)


def _parquet(file: Path) -> Iterator[Row | LeftOut]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
            for value in batch.to_pylist():
                place += 1
                yield Row(place, value)
    except (pa.ArrowException, OSError) as problem:
        yield LeftOut(file.name, place + 1, f"the file can't be read from here on ({problem})")


def _yaml(file: Path) -> Iterator[Row | LeftOut]:
    import yaml

    try:
        with _opened(file) as raw:
            documents = list(yaml.safe_load_all(raw.read().decode("utf-8-sig")))
    except UnicodeDecodeError:
        yield _no_text(file)
        return
    except (yaml.YAMLError, EOFError, OSError, zlib.error) as problem:
        yield LeftOut(file.name, 1, f"broken YAML ({' '.join(str(problem).split())[:200]})")
        return
    values = [v for document in documents for v in (document if isinstance(document, list) else [document])]
    for place, value in enumerate(values, start=1):
        yield _row(file, place, value)


READERS: dict[str, Callable[[Path], Iterator[Row | LeftOut]]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".yaml": _yaml,
    ".yml": _yaml,
}
