"""Checks of the problems: answers that can be judged, each problem once, nothing of a test set trained on."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from reasoner.data.diversity import diversity
from reasoner.data.golds import judgeable
from reasoner.data.repeats import distinct
from reasoner.data.rows import Item, SourceConfig
from reasoner.data.sources import OLD, load_items
from reasoner.data.splits import HeldOut, normalised
from reasoner.data.ways import MADE
from reasoner.doctor.case import Case
from reasoner.doctor.findings import Finding
from reasoner.stages import MEASURES
from verifiers import verify_many

ALIKE = 0.05  # share of problems that may equal another but for case and marks: they weigh double, and nothing else
LEFT_OUT = 0.02  # share of a training set that may fall to the test set: a run leaves it out by itself
REFUSED = 0.02  # share of worked solutions that may be judged wrong
JUDGED = 60  # solutions that are judged
COMPARED = 300  # new problems that are compared with the old ones
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
            if MADE in told:
                continue
            contradicted = "answers differ" in told
            yield Finding(
                "duplicates", "warning" if contradicted else "note", f"problems.{name}", told,
                "keep each problem once, with the right answer",
            )  # fmt: skip
        if not case.is_generated(name):
            yield from _alike(name, items, name in case.measured_on)


def _alike(name: str, items: Sequence[Item], is_measured: bool) -> Iterator[Finding]:
    """What equals another problem but for case, spacing and marks: with its answer it weighs double, or is left out."""
    alike: list[Item] = []
    firsts = [*distinct(items, alike), *alike]
    answers: dict[str, set[str]] = defaultdict(set)
    for item in items:
        answers[normalised(item.problem.prompt)].add(repr(item.problem.reference))
    several = [text for text, found in answers.items() if len(found) > 1]
    outcome = "and are measured beside it" if is_measured else "and are left out"
    for found, told, remedy in (
        ([normalised(i.problem.prompt) for i in alike], outcome, "keep each problem once"),
        (several, "with another answer", "correct the answers, and keep each problem once"),
    ):
        if found:
            severity = "warning" if len(found) > ALIKE * len(firsts) else "note"
            yield Finding(
                "duplicates", severity, f"problems.{name}", f"{len(found)} of {len(firsts)} problems equal another but for "
                f"case, spacing and marks, {told}: {found[0][:60]!r}", remedy,
            )  # fmt: skip


def contamination(case: Case) -> Iterator[Finding]:
    """No training text holds a problem that is measured on.

    A run leaves out what does, so that a little of it spoils nothing. Generated sets meet by chance.
    """
    names = [n for n in case.measured_on if case.items.get(n)]
    if not names:
        return
    held_out = HeldOut((i.problem for n in names for i in case.items[n]), case.config.contamination)
    learned = {n for _, s in case.stages() if s.kind not in MEASURES for n in getattr(s, "problems", ())}
    for name, items in case.items.items():
        if name in names or name not in learned or not items:
            continue
        found = [m for i in items for m in held_out.matches(i.problem.prompt, i.solution or "")[:1]]
        by_chance = case.is_generated(name) and all(case.is_generated(n) for n in names)
        if found and (not by_chance or len(found) > HEARD * len(items)):
            severity = "warning" if len(found) > LEFT_OUT * len(items) else "note"
            how = ", ".join(f"{n} {kind}" for kind, n in Counter(m.how for m in found).items())
            yield Finding(
                "contamination", severity, f"problems.{name}", f"{len(found)} of {len(items)} texts hold a problem of "
                f"{', '.join(names)} ({how}), as {found[0].problem_id}", "take them out; as they are, the run leaves them out",
            )  # fmt: skip


def new_from_old(case: Case) -> Iterator[Finding]:
    """Problems made from old ones are new, and it is told how many gave none."""
    for name, sources in case.config.problems.items():
        for told in case.told.get(name, ()):
            if MADE in told:
                yield Finding(
                    "new_from_old", "note", f"problems.{name}", told,
                    "where too few are left, raise size or give `ways` other weights",
                )  # fmt: skip
        for source in filter(case.reads, sources):
            if source.name in OLD:
                yield _newness(name, source)


def _newness(name: str, source: SourceConfig) -> Finding:
    with warnings.catch_warnings():  # told when the set itself is read
        warnings.simplefilter("ignore")
        some = load_items(source.model_copy(update={"size": min(source.size, COMPARED)}))
    old = [o.question for o in OLD[source.name](source)]
    found = diversity([i.problem.prompt for i in some], old)
    return Finding(
        "new_from_old", "warning" if found.normalised > ALIKE else "note", f"problems.{name}",
        f"of {len(some)} problems that {source.name} makes from {len(old)} old ones, {found.normalised:.0%} are an old one again "
        f"but for case, spacing and marks; {found.distinct_2:.0%} of their pairs and {found.distinct_3:.0%} of their triples of "
        f"words are different; of the triples of the nearest old problem {found.nearest:.0%} are in a new one",
        "where they are too near, give `ways` other weights, or take more old problems",
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
