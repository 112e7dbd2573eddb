"""`reasoner import`: labelled steps of a published format into a folder of trees, with an account of every row."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from reasoner.data.files import ACCOUNT, data_files
from reasoner.data.importers import FORMATS, FileReport, Import
from reasoner.data.rows import file_rows
from reasoner.registry import UserError
from reasoner.store import RecordWriter, write_json

LABELS = ("good", "neutral", "bad", "between", "none")


def import_labels(path: Path, out: Path, licence: str, questions: Path | None, as_json: bool) -> None:
    """Write the trees of a file or folder to `out`, whatever can be taken, and print what came of each file.

    `licence` stands in for one that neither the rows nor their format state. A folder that holds shards already, or
    a file without a usable row, is a UserError.
    """
    if any(out.glob("*.parquet")):
        raise UserError(f"{out} holds imported rows already; expected an empty folder, choose another --to")
    source = Import(path, known_questions(questions) if questions else ())
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        writer = RecordWriter(out, rows_per_shard=512)
        for tree in source:
            writer.add(replace(tree, licence=licence) if licence and tree.licence == "not stated" else tree)
        writer.close()
        left_out = [row for report in source.reports for row in report.left_out]
        account = [_account(report) for report in source.reports]
        write_json(out / ACCOUNT, {"files": account, "left_out": [row._asdict() for row in left_out]})
    except BaseException:
        _withdraw(out, new)
        raise
    if as_json:
        print(
            json.dumps({"files": account, "left_out": [row._asdict() for row in left_out], "out": str(out)})
        )
        return
    for report in source.reports:
        print(_text(report, licence))
    print(f"written to {out}; use it in a stage: {{kind: import, path: {out}, model: MODEL}}")


def _withdraw(out: Path, new: list[Path]) -> None:
    """Remove the shards that a failed import wrote, and of the folders that it made those that are empty."""
    for shard in out.glob("*.parquet"):
        shard.unlink()
    for folder in new:
        with contextlib.suppress(OSError):
            folder.rmdir()


def known_questions(path: Path) -> list[str]:
    """The texts under question, problem or prompt of a file's rows; one that can't be read is a UserError."""
    rows = (row for file in data_files(path) for row in file_rows(file))
    found = (row.get("question") or row.get("problem") or row.get("prompt") for row in rows)
    return [text for text in found if isinstance(text, str)]


def _account(report: FileReport) -> dict:
    return {
        "file": report.file,
        "format": report.format,
        "rows": report.num_rows,
        "taken": report.num_taken,
        "left_out": len(report.left_out),
        "trees": report.num_trees,
        "steps": {name: report.labels[name] for name in LABELS},
        "licences": dict(report.licences),
    }


def _text(report: FileReport, licence: str) -> str:
    """The account of a file for people: counts, then each row that was left out."""
    steps: Counter[str] = report.labels
    named = {"between": "between 0 and 1", "none": "without a label"}
    shown = ", ".join(f"{steps[n]:,} {named.get(n, n)}" for n in LABELS if steps[n])
    licences = ", ".join(name if name != "not stated" else licence or name for name in report.licences)
    lines = [
        f"{report.file}: {FORMATS[report.format].title}",
        f"  {report.num_rows:,} rows: {report.num_taken:,} taken, {len(report.left_out):,} left out",
        f"  {report.num_trees:,} trees, {sum(steps.values()):,} steps: {shown}",
        f"  licence: {licences}",
    ]
    if len({n for n in ("good", "bad") if steps[n]}) == 1 and not steps["between"]:
        lines.append(
            "  all labelled steps are of one class: a reward model can't be trained on this file alone"
        )
    lines += [f"  left out, line {row.line}: {row.reason}" for row in report.left_out]
    return "\n".join(lines)
