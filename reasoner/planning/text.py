"""A plan as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from reasoner.planning.of_model import READING, gigabytes
from reasoner.planning.placement import places_of

WIDTH = 80


def short(number: float) -> str:
    """1,234 as it is, more as 12.3 k, 4.56 M, 7.89 G, 1.2 T …"""
    for size, letter in (
        (1e24, "Y"),
        (1e21, "Z"),
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e4, "k"),
    ):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def money(dollars: float) -> str:
    if not dollars:
        return ""
    return f"${dollars:,.0f}" if dollars >= 100 else f"${dollars:.2f}" if dollars >= 0.01 else "< 1 ct"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be, the first to the left and the others to the right."""
    widths = [max(len(str(row[i])) for row in [heads, *rows]) for i in range(len(heads))]
    spare = WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(6, spare))
    lines = []
    for row in [heads, *rows]:
        first = str(row[0])[: widths[0]].ljust(widths[0])
        lines.append(
            "  ".join([first, *(str(x).rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        )
    return lines


def paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def model_lines(facts: dict[str, Any]) -> list[str]:
    active = (
        ""
        if facts["active"] > 0.95 * facts["parameters"]
        else f", {short(facts['active'])} at work per token"
    )
    return paragraph(
        f"{facts['name']}: {short(facts['parameters'])} parameters{active}, {facts['layers']} layers, "
        f"{facts['positions']:,} positions; keys and values {facts['kv_bytes_per_token']:,.0f} bytes a token in 16 bits; "
        f"an adapter of rank 16 has {short(facts['lora_parameters'])}"
    )  # fmt: skip


def reading_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    told = ", ".join(f"{r['machine']} in {r['bits']} bits ({short(r['tokens_per_second'])}/s)" for r in rows)
    return paragraph(
        f"at reading speed, {READING:g} tokens a second or more for one: {told or 'none of these machines'}"
    )


def of_model(plan: dict[str, Any]) -> str:
    lines = [*model_lines(plan["model"]), ""]
    rows = []
    for r in plan["answering"]:
        if not r["fits"]:
            more = r["weight_bytes"] - r["memory_bytes"]
            rows.append(
                (
                    r["machine"],
                    r["bits"],
                    gigabytes(r["weight_bytes"]),
                    f"{gigabytes(max(0, more))} too much",
                    "",
                    "",
                    "",
                    "",
                )
            )
            continue
        rows.append(
            (r["machine"], r["bits"], gigabytes(r["weight_bytes"]), short(r["longest"]), short(r["batch"]),
             short(r["tokens_per_second"]), short(r["batch_tokens_per_second"]), money(r["dollars_per_million"]))
        )  # fmt: skip
    tokens = plan["answering"][0]["batch_tokens"]
    lines += [f"answering, at best; the batch is of sequences of {tokens:,} tokens", ""]
    lines += table(("machine", "bits", "weights", "longest", "batch", "one/s", "batch/s", "$/M"), rows)
    lines += ["", *reading_lines(plan["reading"]), ""]
    pairs = {}
    for r in plan["training"]:
        pairs.setdefault((r["machine"], r["way"]), {})[r["models"]] = r
    rows = [
        (machine, way, *(x for n in (1, 5) for x in (gigabytes(of[n]["fixed_bytes"]), _most(of[n]))))
        for (machine, way), of in pairs.items()
    ]
    sequence = plan["training"][0]["sequence"]
    lines += paragraph(
        f"training, layers recomputed: what is there before any token, and the most tokens of a step "
        f"(of sequences of {sequence:,}); alone, and as PPO's five models with a drawing engine"
    )
    lines += ["", *table(("machine", "way", "alone", "tokens", "five models", "tokens"), rows)]
    return "\n".join(lines)


def _most(row: dict[str, Any]) -> str:
    if row["fits"]:
        return short(row["micro_batch_tokens"])
    over = row["fixed_bytes"] - row["device_bytes"]
    return f"{gigabytes(over)} too much" if over > 0 else f"only {short(row['micro_batch_tokens'])}"


def of_run(plan: dict[str, Any]) -> str:
    lines = [line for facts in plan["models"] for line in model_lines(facts)]
    lines += ["", "tokens, and tokens forward for each that goes backward", ""]
    rows = []
    for r in plan["stages"]:
        if not r["planned"]:
            rows.append((r["stage"], "?", "?", "?", "?", "?", ""))
            continue
        counted = [
            short(r[k]) if r[k] else "" for k in ("prefilled", "reused", "decoded", "scored", "trained")
        ]
        rows.append((r["stage"], *counted, f"{r['forward'] / r['backward']:.1f}" if r["backward"] else ""))
    forward, backward = (sum(r.get(k, 0) for r in plan["stages"]) for k in ("forward", "backward"))
    sums = [
        short(sum(r.get(k, 0) for r in plan["stages"]))
        for k in ("prefilled", "reused", "decoded", "scored", "trained")
    ]
    rows.append(("all", *sums, f"{forward / backward:.1f}" if backward else ""))
    lines += table(("stage", "prefilled", "reused", "decoded", "scored", "trained", "fwd:bwd"), rows)
    for name, machine in plan["hardware"].items():
        lines += ["", *_on(plan, name, machine)]
    lines += ["", "where the models are", "", *_placement(plan["placement"])]
    lines += ["", *reading_lines(plan["reading"]), ""]
    for told in plan["assumptions"]:
        lines += paragraph(f"- {told}")
    if plan["against"]:
        lines += ["", *_against(plan["against"])]
    return "\n".join(lines)


def _placement(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A paragraph a stage; with a run's ledger, what each role took of its operations."""
    lines = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        places = places_of((_with_share(row), row["model"], row["where"]) for row in own)
        lines += paragraph(
            f"{stage}: " + "; ".join(f"{', '.join(roles)}: {where}" for where, roles in places.items())
        )
    return lines


def _with_share(row: dict[str, Any]) -> str:
    if "share_of_operations" in row:
        return f"{row['role']} ({row['share_of_operations']:.0%} of the operations)"
    if "core_seconds" in row:
        return f"{row['role']} ({short(row['core_seconds'])} core seconds)"
    return row["role"]


def _on(plan: dict[str, Any], name: str, machine: dict[str, Any]) -> list[str]:
    rows, wrong = [], []
    for r in plan["stages"]:
        on = r["machines"][name]
        if "bytes" not in on and not on.get("expected_seconds"):
            continue
        size = gigabytes(on["bytes"]) if "bytes" in on else ""
        pace = on["decode_tokens_per_second"]
        told = ["" if on["fits"] else "does not fit", short(pace) if pace else "", *_time_and_price(on)]
        rows.append([r["stage"], size, *told])
        if not on["fits"]:
            more = gigabytes(on["bytes"] - on["has"])
            near = on["nearest"] or "nothing in the table"
            wrong += paragraph(
                f"{r['stage']} needs {more} more than {name} has; the nearest choice that fits: {near}"
            )
    total = plan["totals"][name]
    rows.append(["all", "", "", "", *_time_and_price(total)])
    each = f"{machine['count']} of " if machine["count"] > 1 else ""
    head = f"{name}: {each}{machine['memory_gb']:g} GB, {machine['dollars_per_hour']:g} dollars an hour"
    return [head, "", *table(("stage", "memory", "", "decodes/s", "best", "expected", "price"), rows), *wrong]


def _time_and_price(on: dict[str, Any]) -> list[str]:
    return [duration(on["best_seconds"]), duration(on["expected_seconds"]), money(on["dollars"])]


def _against(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for r in rows:
        for name, planned in r["planned"].items():
            measured = r["measured"][name]
            if planned or measured:
                ratio = f"{planned / measured:.2f}" if measured else "-"
                lines.append((r["stage"], name, short(planned), short(measured), ratio))
        for name, planned in r["planned_seconds"].items():
            if planned:
                lines.append(
                    (
                        r["stage"],
                        f"seconds on {name}",
                        short(planned),
                        short(r["seconds"]),
                        f"{planned / r['seconds']:.2f}",
                    )
                )
    return ["the plan against the run", "", *table(("stage", "what", "planned", "measured", "ratio"), lines)]
