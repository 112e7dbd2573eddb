"""Checks of the problems: answers that can be judged, each problem once, nothing of a test set trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from reasoner.data.golds import judgeable
from reasoner.data.splits import HeldOut, normalised
from reasoner.doctor.case import Case
from reasoner.doctor.findings import Finding
from verifiers import verify_many

ALIKE = 0.02  # share of problems that may equal another but for case and marks
REFUSED = 0.02  # share of worked solutions that may be judged wrong
JUDGED = 60  # solutions that are judged
HEARD = 0.5  # share of a generated training set that may fall to the test set


def golds(case: Case) -> Iterator[Finding]:
    """Every answer that will be compared with can be read by its verifier."""
    for name in case.judged():
        kept, unreadable = judgeable(case.items[name])
        if unreadable:
            first = unreadable[0]
            yield Finding(
                "golds", "error" if not kept else "warning", f"problems.{name}",
                f"{len(unreadable)} of {len(kept) + len(unreadable)} answers cannot be read, as that of {first.problem_id}: "
                f"{first.reason}", "correct them; as they are, these problems are left out",
            )  # fmt: skip


def solutions(case: Case) -> Iterator[Finding]:
    """The worked solutions are right by the verifier that will judge the model's."""
    unreadable = {u.problem_id for n in case.items for u in judgeable(case.items[n])[1]}
    for name in case.config.problems:
        items = [i for i in case.items[name] if i.solution and i.problem.id not in unreadable][:JUDGED]
        requests = [
            (n, i.problem.verifier, i.solution or "", i.problem.reference) for n, i in enumerate(items)
        ]
        verdicts = dict(verify_many(requests))
        wrong = [n for n, v in verdicts.items() if v.status in ("incorrect", "no_answer")]
        if len(wrong) > REFUSED * len(items):
            first, verdict = items[min(wrong)], verdicts[min(wrong)]
            # an imitation of answers that no verifier reads is nobody's mistake where nothing is judged
            yield Finding(
                "solutions", "warning", f"problems.{name}", f"{len(wrong)} of {len(items)} worked solutions are judged "
                f"{verdict.status.replace('_', ' ')}, as that of {first.problem.id}: {verdict.detail or verdict.reason}",
                "correct the answers, or end solutions so that the verifier finds theirs (#### 5 or \\boxed{5})",
            )  # fmt: skip


def duplicates(case: Case) -> Iterator[Finding]:
    """No problem comes twice, with another answer or in other letters."""
    for name, items in case.items.items():
        for told in case.told.get(name, ()):
            contradicted = "answers differ" in told
            yield Finding(
                "duplicates", "warning" if contradicted else "note", f"problems.{name}", told,
                "keep each problem once, with the right answer",
            )  # fmt: skip
        alike = Counter(normalised(i.problem.prompt) for i in items)
        again = sum(n - 1 for n in alike.values())
        if not case.is_generated(name) and again > ALIKE * len(items):
            text = next(k for k, n in alike.items() if n > 1)
            yield Finding(
                "duplicates", "warning", f"problems.{name}", f"{again} of {len(items)} problems equal another but for case, "
                f"spacing and marks: {text[:60]!r}", "keep each problem once",
            )  # fmt: skip


def contamination(case: Case) -> Iterator[Finding]:
    """No training text holds a problem that is measured on. Generated sets meet by chance: what does is left out."""
    names = [n for n in case.measured_on if case.items.get(n)]
    if not names:
        return
    held_out = HeldOut((i.problem for n in names for i in case.items[n]), case.config.contamination)
    for name, items in case.items.items():
        if name in names or not items:
            continue
        found = [m for i in items for m in held_out.matches(i.problem.prompt, i.solution or "")[:1]]
        by_chance = case.is_generated(name) and all(case.is_generated(n) for n in names)
        if found and (not by_chance or len(found) > HEARD * len(items)):
            how = ", ".join(f"{n} {kind}" for kind, n in Counter(m.how for m in found).items())
            yield Finding(
                "contamination", "warning", f"problems.{name}", f"{len(found)} of {len(items)} texts hold a problem of "
                f"{', '.join(names)} ({how}), as {found[0].problem_id}", "take them out; as they are, the run leaves them out",
            )  # fmt: skip


def few(case: Case) -> Iterator[Finding]:
    """A round has as many problems as it asks for."""
    for key, stage in case.stages():
        asked = getattr(stage, "problems_per_round", 0)
        sets = [n for n in getattr(stage, "problems", ()) if n in case.items]
        there = sum(len(case.items[n]) for n in sets)
        if asked and sets and 0 < there < asked and not case.quickly:
            yield Finding(
                "few", "warning", f"{key}.problems_per_round", f"a round asks for {asked} problems and {', '.join(sets)} "
                f"have {there}: some come twice in a round", "lower problems_per_round, or add problems",
            )  # fmt: skip
