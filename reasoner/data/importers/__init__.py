"""Step labels from anywhere: files of published formats, recognised by their keys, become trees of labelled steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from reasoner.data.files import LeftOut, Row, data_files, read_rows
from reasoner.data.importers import first_error, math_aps, preferences, prm800k, stepwise, tagged
from reasoner.data.importers.gather import gathered
from reasoner.data.importers.step_tree import StepTree, Unusable, again
from reasoner.registry import UserError

UNKNOWN = "not stated"
OWN = "imported"
REASON_EVAL = "model_output_step_format|model_output_steps"


class Format(NamedTuple):
    """A kind of row: the keys that tell it (`a|b`: either; `a:dict`: of that JSON type), and how it is read.

    `licence` is that under which the format's own data set is published; a row's own licence goes before it.
    Rows of an `is_step` format are single steps, and those of one problem in a row become one tree.
    """

    title: str
    keys: tuple[str, ...]
    parse: Callable[..., list[StepTree]]
    licence: str = UNKNOWN
    is_step: bool = False


# The first whose keys are all there is taken, so a format with more keys stands before one with fewer of them.
FORMATS: dict[str, Format] = {
    "prm800k": Format("PRM800K labeler records", ("question:dict", "label:dict"), prm800k.labeler_record, "MIT"),
    "prm800k_steps": Format("PRM800K step rows", ("instruction", "responses", "next_response", "rating"),
                            prm800k.step_row, "MIT", is_step=True),
    "scored_samples": Format("OpenAI scored samples", ("problem", "prm_score", "orm_score"), prm800k.scored_sample, "MIT"),
    "math_shepherd": Format("Math-Shepherd", ("input:str", "label:str", "task"), tagged.math_shepherd),
    "openr": Format("OpenR", ("question", "process", "label"), tagged.openr),
    "process_bench": Format("ProcessBench", ("problem", "steps", "label", "final_answer_correct"), first_error.process_bench),
    "big_bench_mistake": Format("BIG-Bench Mistake", ("input", "steps", "mistake_index"),
                                first_error.big_bench_mistake, "Apache-2.0"),
    "prm_bench": Format("PRMBench", ("modified_process", "error_steps"), first_error.prm_bench, "Apache-2.0"),
    "mr_ben": Format("Mr-Ben", ("Question", "Model_Solution_Steps", "Model_Solution_First_Error_Step"), first_error.mr_ben,
                     "MIT"),
    "reason_eval": Format("ReasonEval", ("question", REASON_EVAL, "model_output_solution_first_error_step"),
                          first_error.reason_eval),
    "reason_eval_ratings": Format("ReasonEval, redundant steps", ("question", REASON_EVAL, "rating"),
                                  first_error.reason_eval_ratings),
    "tree_rl": Format("TreeRL", ("problem", "paths:list"), stepwise.tree_rl, "Apache-2.0"),
    "math_aps_states": Format("MATH-APS, OpenR's states", ("q", "states:list"), math_aps.states, "MIT"),
    "math_aps": Format("MATH-APS, flat", ("question", "reasoning_steps:list"), math_aps.flat),
    "math_aps_tree": Format("MATH-APS, tree", ("reasoning_steps:dict",), math_aps.tree),
    "rest_mcts": Format("ReST-MCTS*", ("prompt_answer", "label"), stepwise.value_prefix),
    "rstar_pairs": Format("rStar-Math pairs", ("prompt", "pos", "neg"), preferences.rstar_pairs),
    "rstar_steps": Format("rStar-Math steps", ("prefix", "chosen_step", "rejected_step"), preferences.rstar_steps),
    "rstar_solutions": Format("rStar-Math solutions", ("question", "sft_full", "q_values", "final_Q"),
                              preferences.rstar_solution),
    "step_dpo": Format("Step-DPO", ("prompt", "initial_reason_steps|prefix", "chosen", "rejected"), preferences.step_dpo),
    "search_and_learn": Format("search-and-learn", ("problem", "completions", "scores"), stepwise.search_and_learn),
    "trl": Format("TRL stepwise", ("prompt", "completions", "labels|label"), stepwise.trl),
    "rlhflow": Format("RLHFlow conversations", ("conversations",), stepwise.conversation),
    "rlhflow_test": Format("RLHFlow best-of-n test", ("prompt", "answers", "label|labels"), stepwise.judged_answers),
    "monkeys": Format("Large Language Monkeys", ("question|prompt", "samples", "is_corrects|is_correct"),
                      stepwise.repeated_samples),
    OWN: Format("imported steps", ("problem_id", "steps", "parents", "labels", "kind"), again),
}  # fmt: skip
_TYPES = {"str": str, "list": list, "dict": dict}


def recognised(row: dict[str, Any]) -> str | None:
    """The name of the row's format, None for none."""
    return next((name for name, of in FORMATS.items() if all(_has(row, key) for key in of.keys)), None)


def _has(row: dict[str, Any], key: str) -> bool:
    names, _, kind = key.partition(":")
    return any(n in row and (not kind or isinstance(row[n], _TYPES[kind])) for n in names.split("|"))


@dataclass
class FileReport:
    """What came of one file."""

    file: str
    format: str = ""
    num_rows: int = 0
    num_taken: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)  # steps by label
    num_trees: int = 0
    licences: Counter[str] = field(default_factory=Counter)


@dataclass
class Import:
    """Reads a file or a folder; iterate over it once, then `reports` says what came of each file."""

    path: str | Path
    questions: Sequence[str] = ()  # known questions, for RLHFlow's chats without "Step 1:"
    reports: list[FileReport] = field(default_factory=list)

    def __iter__(self) -> Iterator[StepTree]:
        """The trees of all files in order, one row at a time; a file with nothing usable is a UserError."""
        for file in data_files(self.path):
            report = FileReport(str(file))
            self.reports.append(report)
            for tree in self._trees(file, report):
                report.num_trees += 1
                report.labels.update(map(_label_name, tree.labels))
                report.licences[tree.licence] += 1
                yield tree
            if not report.num_taken:
                first = report.left_out[0] if report.left_out else None
                why = f"line {first.line}: {first.reason}" if first else "it is empty"
                raise UserError(
                    f"{file} has no usable row among its {report.num_rows} ({why}); expected one of the formats "
                    f"{', '.join(FORMATS)}"
                )

    def _trees(self, file: Path, report: FileReport) -> Iterator[StepTree]:
        parsed = chain.from_iterable(self._rows(file, report))
        head = next(parsed, None)
        if head is None:
            return
        trees = chain([head], parsed)
        yield from gathered(trees) if FORMATS[report.format].is_step else trees

    def _rows(self, file: Path, report: FileReport) -> Iterator[list[StepTree]]:
        """The trees of each row that can be taken; the others go to the report."""
        for row in read_rows(file):
            report.num_rows += 1
            try:
                if isinstance(row, LeftOut):
                    report.left_out.append(row)
                    continue
                trees = self._parsed(row, report)
            except Unusable as problem:
                report.left_out.append(LeftOut(file.name, row.line, str(problem)))
                continue
            report.num_taken += 1
            yield [_placed(t, row, report.format, file) for t in trees]

    def _parsed(self, row: Row, report: FileReport) -> list[StepTree]:
        name = recognised(row.value)
        if name is None:
            raise Unusable(f"keys of no known format: {', '.join(sorted(map(str, row.value)))[:120]}")
        if name != (report.format or name):
            of_file, of_row = FORMATS[report.format].title, FORMATS[name].title
            raise Unusable(f"a row of {of_row} in a file of {of_file}")
        parse = FORMATS[name].parse
        if parse is stepwise.conversation:
            parse = partial(parse, questions=self.questions)
        try:
            trees = parse(row.value)
        except (AttributeError, KeyError, TypeError, IndexError) as problem:
            raise Unusable(
                f"not in the shape of {FORMATS[name].title} ({type(problem).__name__}: {problem})"
            ) from problem
        report.format = name
        return trees


def _placed(tree: StepTree, row: Row, name: str, file: Path) -> StepTree:
    """The tree with where it comes from; one that was imported before knows."""
    if name == OWN:
        return tree
    licence = row.value.get("licence") or row.value.get("license")
    return replace(
        tree,
        lines=[row.line] * len(tree.steps),
        source=f"{FORMATS[name].title}, {file.name}",
        licence=licence if isinstance(licence, str) else FORMATS[name].licence,
    )


def _label_name(label: float) -> str:
    if label != label:
        return "none"
    return {0.0: "bad", 0.5: "neutral", 1.0: "good"}.get(label, "between")


def usable(trees: Iterable[StepTree]) -> Iterator[StepTree]:
    """Trees with a label at least, since nothing can be learned of steps from the others."""
    return (t for t in trees if any(label == label for label in t.labels))
