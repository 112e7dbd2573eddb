"""Published theorems to be proved in Lean 4: miniF2F and ProofNet, in the forms in which they are given away."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from reasoner.data.rows import Item, SourceConfig, first_of, read_rows, text_of, where_of
from reasoner.registry import UserError
from reasoner.tree import Problem
from verifiers.proof import lean_text

_SPLITS = ("train", "valid", "validation", "test")


def lean_theorems(name: str, hub: str, licence: str) -> Callable[[SourceConfig], Iterator[Item]]:
    """A source of rows with a header and a formal statement, or with both in one text under `lean` or `formal_proof`.

    With `split`, rows that say that they are of another are left out; so are statements that are no theorems.
    """

    def source(config: SourceConfig) -> Iterator[Item]:
        left_out = 0
        for i, row in enumerate(read_rows(config, hub), start=config.start):
            said = row.get("split")
            if config.path and config.split and said in _SPLITS and said != config.split:
                continue
            item = _item(config, i, row, name, licence)
            left_out += item is None
            if item is not None:
                yield item
        if left_out:
            warnings.warn(f"{name}: {left_out} rows state no theorem and are left out", stacklevel=2)

    return source


def _item(config: SourceConfig, i: int, row: Any, name: str, licence: str) -> Item | None:
    where = where_of(row, config, i)
    text = text_of(row, ("formal_statement", "lean"), config, i, "formal statement")
    header = str(first_of(row, ("header",)) or "")
    modules, body, _ = lean_text.split_imports(text)
    try:
        parts = lean_text.parts(body)
    except ValueError as problem:
        raise UserError(
            f"{where} has a statement that cannot be read ({problem}); expected theorem name : type"
        ) from problem
    if parts is None:
        return None
    start = lean_text.statement_start(body)
    header = "\n".join(
        p.strip() for p in (header, *(f"import {m}" for m in modules), body[:start]) if p.strip()
    )
    statement = f"theorem {parts[0]} {parts[1]} : {parts[2]}"
    informal = str(first_of(row, ("informal_prefix", "informal_statement")) or "").strip()
    proof = first_of(row, ("formal_proof",))
    return Item(
        Problem(
            id=f"{name}/{first_of(row, ('name', 'problem_name', 'id')) or i}",
            prompt=f"{informal}\n{statement} := by".strip(),
            verifier="proof",
            reference={
                "system": "lean",
                "statement": statement,
                "header": header,
                "cpu_s": 60.0,
                "memory_mb": 8192,
            },
            domain=config.domain or name,
            source=str(first_of(row, ("source",)) or name),
            licence=licence,
        ),
        proof if isinstance(proof, str) else None,
    )


FORMAL: dict[str, Callable[[SourceConfig], Iterator[Item]]] = {
    "minif2f": lean_theorems("minif2f", "cat-searcher/minif2f-lean4", "MIT"),
    "proofnet": lean_theorems("proofnet", "hoskinson-center/proofnet", "MIT"),
}
