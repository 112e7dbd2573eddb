"""Append-only Parquet shards of trees and of records, and atomic small files.

A folder holds `00000.parquet`, `00001.parquet`, … A shard is written whole under a temporary name in the
same folder, synced, and renamed, so a kill at any moment leaves only whole shards. One writer per folder at
a time. `datasets`, DuckDB and pandas read the shards without this code (columns: reasoner/columns.py).
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from reasoner.columns import (
    TREE_SCHEMA,
    record_schema,
    records_of,
    records_to_table,
    trees_of,
    trees_to_table,
)
from reasoner.registry import UserError
from reasoner.tree import Tree

R = TypeVar("R")

logger = logging.getLogger(__name__)

_MAX_SHARD_TOKENS = 2_000_000  # bounds the memory of a shard, whatever the size of its trees
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = [f"os error {number})" for number in _FULL] + [os.strerror(number) for number in _FULL]
_ROWS_AT_ONCE = 16  # rows turned into Python objects at a time when reading


def write_text(path: str | Path, text: str) -> None:
    """Write a file atomically: a reader sees the old content or the new; UserError when the disk is full."""
    _write_bytes(Path(path), text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, atomically; NaN and infinities become null."""
    write_text(path, to_json(value, indent=2) + "\n")


def no_utf8(data: bytes) -> str:
    """Why bytes are no UTF-8 text, and the remedy; "" where they are."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as problem:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        remedy = f"iconv -f {'UTF-16' if wide else 'WINDOWS-1252'} -t UTF-8 FILE > NEW"
        return f"no UTF-8 text: 0x{data[problem.start]:02x} at byte {problem.start + 1}, convert it: {remedy}"
    return ""


def read_json(path: str | Path) -> Any:
    """The value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def to_json(value: Any, indent: int | None = None) -> str:
    """Valid JSON: NaN and infinities become null, one-element arrays and tensors their number."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def mark_done(folder: str | Path, info: dict[str, Any]) -> None:
    """Mark a stage's folder as finished, with what a later stage may want to know; atomic."""
    write_json(Path(folder) / "done", info)


def is_done(folder: str | Path) -> dict[str, Any] | None:
    """What `mark_done` wrote, or None for a folder that is not finished; a damaged marker is a UserError."""
    path = Path(folder) / "done"
    if not path.exists():
        return None
    try:
        info = read_json(path)
        if not isinstance(info, dict):
            raise ValueError(f"a JSON {type(info).__name__}")
    except ValueError as problem:
        raise UserError(
            f"got {path}, which cannot be read ({problem}); expected what a finished stage wrote: restore it, or remove "
            "it to run the stage again"
        ) from problem
    return info


def _write_bytes(path: Path, data: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with saying_what_is_full(path, len(data)), open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def saying_what_is_full(path: Path, size: int | None = None) -> Iterator[None]:
    """Around the writing of a file or folder: a full disk, whoever notices it and however, is a UserError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_full(error):
            raise
        raise UserError(_full(path, size)) from error


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Around the filling of a folder: where the disk is full, what was written into it goes, and a UserError says so."""
    before = set(folder.rglob("*")) if folder.is_dir() else None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with saying_what_is_full(folder):
            yield
    except UserError:
        if before is None:
            shutil.rmtree(folder, ignore_errors=True)
        for path in folder.rglob("*"):
            if before is not None and path not in before and path.is_file():
                path.unlink()
        raise


def is_full(error: BaseException | None) -> bool:
    """Whether an exception, or what it came of, says that a disk, a quota or a limit of size is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        # safetensors and tokenizers say it in words only
        if any(words in str(error) for words in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _full(path: Path, size: int | None) -> str:
    there = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(there).free
    return (
        f"got a full disk while writing {path}: {free:,} bytes are free, expected "
        f"{'enough for it' if size is None else f'{size:,}'}; make room and start the same command again"
    )


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, else a power cut may forget a file's name or its renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ShardWriter:
    """Appends rows to a folder as numbered shards, after those that exist; a context manager.

    Rows are kept until a shard is full and are written as they are then. Leaving the context writes the rest,
    also on an exception: whatever was added is whole.
    """

    def __init__(
        self,
        folder: str | Path,
        to_table: Callable[[list[Any]], pa.Table],
        rows_per_shard: int,
        num_tokens: Callable[[Any], int] = lambda row: 0,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".*.parquet.tmp"):
            leftover.unlink()
        self._to_table = to_table
        self._rows_per_shard = rows_per_shard
        self._num_tokens = num_tokens
        self._next = max((int(path.stem) for path in _shards(self.folder)), default=-1) + 1
        self._rows: list[Any] = []
        self._tokens = 0

    def add(self, row: Any) -> None:
        self._rows.append(row)
        self._tokens += self._num_tokens(row)
        if len(self._rows) >= self._rows_per_shard or self._tokens >= _MAX_SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write the rows added so far as a shard; they are on disk when this returns."""
        rows, self._rows, self._tokens = self._rows, [], 0
        if rows:
            _write_shard(self.folder, self._next, self._to_table(rows))
            self._next += 1

    def close(self) -> None:
        self.flush()

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _write_shard(folder: Path, number: int, table: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    # log-probabilities hardly repeat: a dictionary of them costs time and space, split bytes save both
    floats, others = _columns_by_kind(table.schema)
    encoding: Any = {"use_dictionary": others, "use_byte_stream_split": floats}
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True, **encoding)
    _write_bytes(folder / f"{number:05d}.parquet", memoryview(buffer.getvalue()))


def _columns_by_kind(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Paths of the Parquet columns of 32-bit floats, and of all others."""
    floats: list[str] = []
    others: list[str] = []

    def walk(path: str, kind: pa.DataType) -> None:
        if pa.types.is_list(kind):
            walk(f"{path}.list.element", kind.value_type)
        elif pa.types.is_struct(kind):
            for field in kind:
                walk(f"{path}.{field.name}", field.type)
        else:
            (floats if pa.types.is_float32(kind) else others).append(path)

    for field in schema:
        walk(field.name, field.type)
    return floats, others


class TreeWriter(ShardWriter):
    """Appends trees to a folder; `add` one at a time, `close` (or leave the context) at the end."""

    def __init__(self, folder: str | Path, rows_per_shard: int = 256):
        super().__init__(folder, trees_to_table, rows_per_shard, _num_tokens)


def write_trees(folder: str | Path, trees: Iterable[Tree], rows_per_shard: int = 256) -> int:
    """Append trees to a folder and return how many; holds one shard in memory at a time."""
    return _write(TreeWriter(folder, rows_per_shard), trees)


def put_trees(folder: str | Path, number: int, trees: list[Tree]) -> None:
    """Write trees as the shard of that number, in the place of one that is there; no trees are no file."""
    if trees:
        _write_shard(Path(folder), number, trees_to_table(trees))


def put_records(folder: str | Path, number: int, records: list[Any]) -> int:
    """As put_trees, for records of one dataclass; returns how many."""
    if records:
        _write_shard(Path(folder), number, records_to_table(records))
    return len(records)


def read_trees(folder: str | Path, number: int | None = None) -> Iterator[Tree]:
    """The trees of a folder in the order written; UserError if it holds none, torn shards are skipped.

    `number` chooses one of its shards, counted from 0 (num_shards).
    """
    for table in tree_tables(folder, number):
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            yield from trees_of(batch)


def tree_tables(folder: str | Path, number: int | None = None) -> Iterator[pa.Table]:
    """As read_trees, the rows as they lie in the shards (columns: reasoner/columns.py)."""
    return _tables(
        folder, TREE_SCHEMA, lambda shards: shards if number is None else shards[number : number + 1]
    )


def num_shards(folder: str | Path) -> int:
    """How many shards a folder has."""
    return len(_shards(Path(folder)))


class RecordWriter(ShardWriter):
    """Appends records, all of one dataclass, to a folder; as TreeWriter."""

    def __init__(self, folder: str | Path, rows_per_shard: int = 4096):
        super().__init__(folder, records_to_table, rows_per_shard)


def write_records(folder: str | Path, records: Iterable[Any], rows_per_shard: int = 4096) -> int:
    """Append records, all of one dataclass, to a folder and return how many."""
    return _write(RecordWriter(folder, rows_per_shard), records)


def read_records(folder: str | Path, record_type: type[R]) -> Iterator[R]:
    """The records of a folder in the order written; UserError if it holds none or those of another type."""
    for table in _tables(folder, record_schema(record_type)):
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            yield from records_of(batch, record_type)


def record_tables(folder: str | Path, record_type: type, number: int) -> Iterator[pa.Table]:
    """What put_records wrote under a number, as it lies there; nothing where it wrote nothing."""
    return _tables(
        folder, record_schema(record_type), lambda shards: [p for p in shards if int(p.stem) == number]
    )


def _write(writer: ShardWriter, rows: Iterable[Any]) -> int:
    num_rows = 0
    with writer:
        for row in rows:
            writer.add(row)
            num_rows += 1
    return num_rows


def _shards(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("*.parquet") if p.stem.isdecimal()), key=lambda p: int(p.stem))


def _tables(
    folder: str | Path, schema: pa.Schema, chosen: Callable[[list[Path]], list[Path]] = list
) -> Iterator[pa.Table]:
    """One table per whole shard that is chosen: its checksums are verified before any of its rows is used."""
    shards = _shards(Path(folder))
    if not shards:
        state = "an empty folder" if Path(folder).is_dir() else "no such folder"
        raise UserError(
            f"got {folder} ({state}), expected Parquet shards; run the stage that writes them first"
        )
    for path in chosen(shards):
        try:
            with open(path, "rb"):
                pass  # what the file system refuses has its own words here, which Arrow does not keep
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                found = file.schema_arrow
                table = file.read() if found.equals(schema) else None
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if not _is_torn(error):
                raise UserError(
                    f"got {type(error).__name__} while reading {path} ({error}), which says nothing of its content; expected "
                    "rights, memory and threads enough (ulimit -a): see to them and start the same command again"
                ) from error
            logger.warning("dropped the torn shard %s (%s); its rows are not read", path, error)
            continue
        if table is None:
            raise UserError(
                f"got {path} with the columns {', '.join(found.names)}, expected {', '.join(schema.names)} "
                "in the types of this version; read the folder as what was written there"
            )
        yield table


def _is_torn(error: BaseException) -> bool:
    """Whether a reader's error is about what stands in a file; all others are the machine's, and the file may be whole."""
    if isinstance(error, OSError):
        return error.errno is None  # with a number it is the file system's
    return isinstance(error, pa.ArrowInvalid | pa.ArrowNotImplementedError | UnicodeDecodeError)


def _num_tokens(tree: Tree) -> int:
    return sum(len(node.token_ids) for node in tree.nodes)
