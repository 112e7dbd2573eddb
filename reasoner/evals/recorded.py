"""Samples that were made elsewhere, as files record them: one row per problem with lists, or one row per sample.

What others call these fields is recognised. Whatever holds a verdict is taken as recorded; what could be read as either
is an error with its row, never a wrong answer.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reasoner.data.files import data_files
from reasoner.data.rows import SourceRow, file_rows, is_empty
from reasoner.data.truth import number, truth
from reasoner.registry import UserError

# In the order in which they are tried; the last three tell the problem by its text.
ID_KEYS = ("problem_id", "question_id", "task_id", "idx", "id", "unique_id", "problem", "question", "prompt")
PROMPT_KEYS = ("prompt", "problem", "question")
RESPONSE_KEYS = (
    "responses", "response", "samples", "completions", "completion", "generateds", "generation", "ys",
    "code_list", "output_list",
)  # fmt: skip
VERDICT_KEYS = (
    "correct", "is_correct", "is_corrects", "per_sample_correct", "passed", "graded_list", "accs", "infos", "labels", "label",
)  # fmt: skip
MARK_KEY = "status"
REWARD_KEYS = ("rewards", "reward", "score")
ANSWER_KEYS = ("answers", "pred", "pred_answers", "predicted_answer", "extracted_answer")
SCORE_KEYS = ("scores", "pred_score", "prm_score", "orm_score")
# CodeT's letters: passed, assertion failed, another exception, no syntax, out of time; and our own "no_answer"
MARKS = {**dict.fromkeys("AEST", False), "P": True, "no_answer": False}


@dataclass
class Group:
    """The samples of one problem; lists of one length each, or empty where the file tells nothing.

    `correct` is None for a sample that our side failed to judge. `scores` holds each sample's step scores, or its one.
    """

    id: str
    prompt: str = ""
    responses: list[str] = field(default_factory=list)
    correct: list[bool | None] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)

    @property
    def n(self) -> int:
        return max(len(self.responses), len(self.correct), len(self.answers))


class Samples(NamedTuple):
    """What one row says: its ids by key, its prompt (as JSON), its samples, and the rewards that tell their verdicts."""

    where: str
    ids: dict[str, str]
    prompt: str
    group: Group
    rewards: list[float]


def read_groups(path: Path) -> list[Group]:
    """The samples of a file, or of all files of a folder, by problem. UserError for what cannot be used."""
    rows = [_samples(row) for file in data_files(path) for row in file_rows(file)]
    _check_rewards(rows)
    id_of = _ids(rows, path)
    groups: dict[str, Group] = {}
    for row in rows:
        group = groups.setdefault(id_of(row), Group(id_of(row), row.group.prompt))
        for name in ("responses", "correct", "answers", "scores"):
            getattr(group, name).extend(getattr(row.group, name))
    _check_sizes(list(groups.values()), path)
    return list(groups.values())


def _samples(row: SourceRow) -> Samples:
    """One row read; a UserError names what of it cannot be."""
    ids = {key: str(row[key]) for key in ID_KEYS if not is_empty(row.get(key))}
    if not ids:
        raise UserError(
            f"{row.where} names no problem; expected one of {', '.join(ID_KEYS)}, it has {sorted(map(str, row))}"
        )
    asked = next((row[k] for k in PROMPT_KEYS if not is_empty(row.get(k))), None)
    group = Group("", asked if isinstance(asked, str) else "")
    group.responses = [str(r) for r in _listed(row, RESPONSE_KEYS)]
    rewards: list[float] = []
    group.correct = list(_verdicts(row, rewards))
    answers = _listed(row, ANSWER_KEYS)
    if group.correct and not group.responses and ("label" in row or "labels" in row):
        group.responses, answers = [str(a) for a in answers], []  # RLHFlow calls whole responses answers
    if not group.responses and not group.correct:
        known = (*RESPONSE_KEYS, *VERDICT_KEYS, MARK_KEY, *REWARD_KEYS)
        raise UserError(f"{row.where} holds no samples; expected one of {', '.join(known)}")
    group.answers = [None if is_empty(a) else str(a) for a in answers]
    group.scores = [_read(_numbers, s, row, "a score") for s in _listed(row, SCORE_KEYS)]
    prompt = "" if asked is None else json.dumps(asked, sort_keys=True, default=str)
    return Samples(row.where, ids, prompt, group, rewards)


def _listed(row: dict, keys: tuple[str, ...]) -> list[Any]:
    """The value under the first key that is there, as a list (one sample a row is a list of one)."""
    value = next((row[k] for k in keys if row.get(k) is not None), None)
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _verdicts(row: SourceRow, rewards: list[float]) -> list[bool]:
    """Whether each sample is right; numbers that are rewards also go to `rewards`."""
    found = _listed(row, VERDICT_KEYS)
    if found:
        return [_read(_recorded, value, row, "a verdict") for value in found]
    found = _listed(row, (MARK_KEY,))
    if found:
        return [_read(_mark, value, row, f"a {MARK_KEY}") for value in found]
    right = []
    for value in _listed(row, REWARD_KEYS):
        if isinstance(value, bool):
            right.append(value)
            continue
        rewards.append(_read(number, value, row, "a reward"))
        right.append(rewards[-1] > 0)
    return right


def _read(read: Callable[[Any], Any], value: Any, row: SourceRow, what: str) -> Any:
    try:
        return read(value)
    except ValueError as problem:
        raise UserError(
            f"{row.where} has {what} that cannot be read: {problem}; correct that row, or leave its problem out"
        ) from problem


def _recorded(value: Any) -> bool:
    return truth(value.get("r") if isinstance(value, dict) else value)


def _mark(value: Any) -> bool:
    return MARKS[value] if isinstance(value, str) and value in MARKS else truth(value)


def _numbers(value: Any) -> list[float]:
    """A score, or the scores of a response's steps."""
    found = [number(v) for v in (value if isinstance(value, list | tuple) else [value])]
    if not found:
        raise ValueError("it is an empty list; expected a number, or one for each step")
    return found


def _check_rewards(rows: Sequence[Samples]) -> None:
    """A reward tells right from wrong only where nothing lies between the highest and zero."""
    top = max((r for row in rows for r in row.rewards), default=0.0)
    for row in rows:
        between = next((r for r in row.rewards if 0 < r < max(top, 1.0)), None)
        if between is not None:
            raise UserError(
                f"{row.where} has a reward of {between:g}, which is neither right nor wrong where the highest is {top:g}; "
                "expected rewards of two kinds, or a key `correct` with true or false"
            )


def _ids(rows: Sequence[Samples], path: Path) -> Callable[[Samples], str]:
    """What tells the problems of a file apart: the first key that every row has and that no two prompts share.

    Some files write one sentinel under an id in every row, and some number the samples instead of the problems:
    where ids contradict the prompts, the prompts decide.
    """
    prompts = Counter(row.prompt for row in rows)
    is_repeated = "" not in prompts and min(prompts.values()) > 1
    shared: list[str] = []
    for key in ID_KEYS:
        if not all(key in row.ids for row in rows):
            continue
        of_id: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            of_id[row.ids[key]].add(row.prompt)
        if max(map(len, of_id.values())) > 1:
            shared.append(key)
        elif not (is_repeated and len(of_id) == len(rows)):
            return lambda row, key=key: row.ids[key]
    if shared and "" in prompts:
        raise UserError(
            f"{path} has one {shared[0]} for several problems, and rows without a prompt to tell them apart; expected a "
            f"problem's own id, or its text under one of {', '.join(PROMPT_KEYS)}, in every row"
        )
    if "" not in prompts:
        return lambda row: row.prompt
    first = next(row for row in rows if set(row.ids) != set(rows[0].ids))
    raise UserError(
        f"{first.where} names its problem by {', '.join(first.ids)}, and {rows[0].where} by {', '.join(rows[0].ids)}; "
        f"expected one key that every row has, of {', '.join(ID_KEYS)}"
    )


def _check_sizes(groups: Sequence[Group], path: Path) -> None:
    sizes = [g.n for g in groups]
    most = max(set(sizes), key=lambda n: (sizes.count(n), n))
    for group in groups:
        if group.n != most:
            raise UserError(
                f"problem {group.id[:60]!r} of {path} has {group.n} samples where others have {most}; "
                "expected as many for each: complete the file, or take these problems out"
            )
        for name in ("responses", "correct", "answers", "scores"):
            if len(getattr(group, name)) not in (0, most):
                raise UserError(
                    f"problem {group.id[:60]!r} of {path} has {len(getattr(group, name))} {name} for {most} samples; "
                    "expected one for each"
                )
