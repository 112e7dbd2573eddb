"""Labelled steps from files into records, tokenised for a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from transformers import AutoConfig

from reasoner.config import Config, DataFile
from reasoner.data.files import LeftOut
from reasoner.data.importers import Import
from reasoner.data.importers.preferences import KIND as PREFERENCE
from reasoner.data.importers.step_tree import StepTree
from reasoner.data.importers.tokens import Encoded, encode, outcome_labels, preference_pairs, step_labels
from reasoner.folder import StageName
from reasoner.records import OutcomeLabel, PreferencePair, StepLabels
from reasoner.registry import UserError
from reasoner.stages.context import Context
from reasoner.stages.references import ModelName
from reasoner.store import RecordWriter, write_json


class ImportLabels(Config):
    """Read labelled steps from files of a published format, or from a folder that `reasoner import` wrote."""

    kind: Literal["import"]
    name: StageName = "import"
    path: Annotated[str, DataFile(labels=True)] = Field(
        description="file, or folder of files; the format is recognised by its keys"
    )
    model: ModelName = Field(
        description="stage, folder or hub name of the model whose tokenizer reads the steps"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="longest solution with its prompt; by default the model's context"
    )


def run_import(config: ImportLabels, context: Context) -> None:
    """Step labels go to records/<name>/<kind of label>, outcomes to …/outcome, preferences to …/pairs.

    Trees that hold a problem of the set `test` are dropped, as from every other training text.
    """
    prompting = context.prompting(config.model)
    limit = config.max_tokens or _context_length(context.model(config.model))
    source = Import(config.path)
    folder = context.out / "records" / config.name
    too_long: list[LeftOut] = []
    made: Counter[str] = Counter()
    writers: dict[str, RecordWriter] = {}
    for tree in context.clean(source, lambda t: (t.prompt, "\n".join(t.steps))):
        found = encode(tree, prompting, limit)
        too_long += [e for e in found if isinstance(e, LeftOut)]
        encoded = [e for e in found if isinstance(e, Encoded)]
        for kind, record in _records(tree, encoded):
            if kind not in writers:
                writers[kind] = RecordWriter(folder / kind)
            writers[kind].add(record)
            made[kind] += 1
        context.session.progress(sum(made.values()), 0, f"{tree.source}")
    for writer in writers.values():
        writer.close()
    if not made:
        raise UserError(
            f"{config.path} has no solution of at most {limit} tokens with a label or an outcome and "
            "without a test problem; expected one at least, set max_tokens or take a model with a longer context"
        )
    left_out = [*(row for report in source.reports for row in report.left_out), *too_long]
    counts = {"rows": sum(r.num_rows for r in source.reports), "left_out": len(left_out), **made}
    context.session.log({f"import/{k}": n for k, n in counts.items()}, 0)
    write_json(context.session.out / "left_out.json", [row._asdict() for row in left_out])


def _records(
    tree: StepTree, encoded: list[Encoded]
) -> Iterator[tuple[str, StepLabels | OutcomeLabel | PreferencePair]]:
    if tree.kind == PREFERENCE:
        yield from (("pairs", pair) for pair in preference_pairs(encoded))
    else:
        yield from ((tree.kind, record) for record in step_labels(encoded))
    yield from (("outcome", record) for record in outcome_labels(encoded))


def _context_length(model: str) -> int:
    return int(getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", 1 << 20))
