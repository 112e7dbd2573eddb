"""A rollout's mixture of problem sets: counts by hand, rounds of a repeat, a start again, and no mixture as ever."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from small_models import TINY

from reasoner.config import ConfigError, read_yaml, save_resolved, validate
from reasoner.data.mixing import Mixture, by_rounds
from reasoner.engine.protocol import place_key
from reasoner.pipeline import RunConfig, run
from reasoner.registry import UserError
from reasoner.stages import rollout
from reasoner.store import is_done, read_trees
from reasoner.tree import Tree


def test_no_item_twice_in_a_round_and_all_of_a_set_before_any_again():
    sets = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3", "b4", "b5", "b6"]}
    mixture = validate(Mixture, {"weights": {"a": 1, "b": 1}}, "test")
    found = by_rounds(sets, 3, 4, mixture, "0", once=True)
    assert [Counter(name for name, _ in drawn) for drawn in found] == [{"a": 2, "b": 2}] * 3
    assert all(len(set(drawn)) == 4 for drawn in found)
    times = Counter(item for drawn in found for _, item in drawn)
    assert times == dict.fromkeys(sets["a"], 2) | dict.fromkeys(sets["b"], 1)
    # a has three problems, which is all that a round takes of it
    assert [Counter(n for n, _ in d) for d in by_rounds(sets, 2, 8, mixture, "0", once=True)] == [
        {"a": 3, "b": 5}
    ] * 2
    capped = validate(Mixture, {"weights": {"a": 1, "b": 1}, "max_repeats": 1}, "test")
    found = by_rounds(sets, 3, 4, capped, "0", once=True)
    assert [Counter(name for name, _ in drawn) for drawn in found] == [
        {"a": 2, "b": 2},
        {"a": 1, "b": 3},
        {"b": 1},
    ]


def files(folder: Path) -> dict:
    """Two sets of twelve problems; the first problem of b is one of a as well, and counts there."""
    for name, numbers in (("a", range(12)), ("b", (3, *range(20, 32)))):
        rows = [{"id": f"{name}{i}", "prompt": f"{i}+1", "answer": str(i + 1)} for i in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {n: [{"name": "jsonl", "path": str(folder / f"{n}.jsonl")}] for n in "ab"}


def stage(**options) -> dict:
    return {
        "kind": "rollout", "model": "base", "problems": ["a", "b"], "num_problems": 8, "max_tokens": 3,
        "tree": {"num_roots": 2, "num_points": 0}, **options,
    }  # fmt: skip


def config(folder: Path, *stages: dict, out: str = "run", **more) -> RunConfig:
    problems = files(folder)
    problems["demonstrations"] = problems["a"]
    raw = {
        "out": str(folder / out),
        "problems": problems,
        "stages": [{"kind": "init", **TINY}, *stages],
        **more,
    }
    return validate(RunConfig, raw, "test")


def logged(folder: Path, name: str = "rollout") -> dict:
    """What a stage has logged; of a key that comes twice the last."""
    lines = (folder / "stages" / name / "metrics.jsonl").read_text().splitlines()
    return {k: v for line in lines for k, v in json.loads(line).items()}


def ids(folder: Path, name: str = "rollout") -> list[str]:
    return [tree.problem.id for tree in read_trees(folder / "trees" / name)]


def test_sets_come_in_the_shares_of_their_weights_and_what_came_is_told(tmp_path):
    run(config(tmp_path, stage(mixture={"weights": {"a": 3, "b": 5}})))
    out = tmp_path / "run"
    drawn = ids(out)
    assert Counter(id[0] for id in drawn) == {"a": 3, "b": 5} and len(set(drawn)) == 8
    assert "b3" not in drawn  # its prompt is one of a's
    told = logged(out)
    assert "mixture/ran_dry" not in told
    assert [id[0] for id in drawn[:4]] != [id[0] for id in drawn[4:]]  # the parts differ
    trees = list(read_trees(out / "trees/rollout"))
    for row, name, share, num in zip(told["mixture"], "ab", (0.375, 0.625), (3, 5), strict=True):
        own = [t for t in trees if t.problem.id[0] == name]
        assert (row["set"], row["share"], row["drawn"], row["distinct"]) == (name, share, num, num)
        assert row["most_times"] == 1 and row["tokens"] == sum(t.num_sampled for t in own) > 0
        verdicts = [v.status for t in own for v in t.verdicts.values()]
        assert len(verdicts) == 2 * num and row["right"] == verdicts.count("correct") / len(verdicts)


def test_a_set_that_runs_dry_is_told_and_the_others_take_its_place(tmp_path):
    options = {"mixture": {"weights": {"a": 1, "b": 9}}, "num_problems": 16}
    run(config(tmp_path, stage(**options)))
    assert Counter(id[0] for id in ids(tmp_path / "run")) == {"a": 4, "b": 12}
    assert logged(tmp_path / "run")["mixture/ran_dry"] == ["b"]


def test_sets_that_run_dry_before_the_end_are_refused(tmp_path):
    asked = config(tmp_path, stage(mixture={"weights": {"a": 1}}, num_problems=13))
    with pytest.raises(UserError, match=r"12 draws of a, b .*num_problems takes 13.*lower num_problems"):
        run(asked)


def repeated(folder: Path, rounds: int = 3, **options) -> RunConfig:
    stages = [stage(model="base", num_problems=4, **options)]
    return config(folder, {"kind": "repeat", "rounds": rounds, "stages": stages})


def test_shares_move_over_the_rounds_of_a_repeat_and_no_problem_comes_more_often_than_it_may(tmp_path):
    moving = {"weights": {"a": 1, "b": 0}, "at_end": {"a": 0, "b": 1}, "max_repeats": 1}
    asked = repeated(tmp_path, mixture=moving)
    assert [(s.of_round, s.of_rounds) for s in asked.stages[1:]] == [(1, 3), (2, 3), (3, 3)]
    save_resolved(asked, tmp_path / "config.yaml")
    assert validate(RunConfig, read_yaml(tmp_path / "config.yaml"), "resolved") == asked
    run(asked)
    rounds = [ids(tmp_path / "run", f"r{n}_rollout") for n in (1, 2, 3)]
    assert [Counter(id[0] for id in of) for of in rounds] == [{"a": 4}, {"a": 2, "b": 2}, {"b": 4}]
    assert len({id for of in rounds for id in of}) == 12
    last = logged(tmp_path / "run", "r3_rollout")["mixture"]
    assert [(row["set"], row["drawn"]) for row in last] == [("b", 4)]


def test_rounds_that_would_run_dry_are_refused_in_the_first(tmp_path):
    asked = repeated(tmp_path, rounds=4, mixture={"weights": {"a": 1, "b": 0}, "max_repeats": 1})
    with pytest.raises(UserError, match=r"0 draws of a, b in round 4 of 4 with max_repeats=1 .*takes 4"):
        run(asked)
    assert not (tmp_path / "run/trees/r1_rollout").exists()


@pytest.mark.parametrize(("options", "why"), [
    ({"weights": {"a": 1, "c": 1}}, "mixture names 'c', which is not among problems; expected one of: a, b"),
    ({"at_end": {"c": 1}}, "mixture names 'c'"),
    ({"at_end": {"a": 1}}, r"mixture\.at_end in rollout, which is gone through once.*repeat"),
])  # fmt: skip
def test_mixtures_that_cannot_be_are_refused(tmp_path, options, why):
    with pytest.raises(ConfigError, match=why):
        config(tmp_path, stage(mixture=options))


class Killed(Exception):
    pass


def test_a_rollout_that_was_killed_goes_on_to_the_same_problems(tmp_path, monkeypatch):
    mixed = stage(mixture={"weights": {"a": 1, "b": 3}}, num_problems=16, num_slots=2)
    run(config(tmp_path, mixed, out="whole"))
    put = rollout.put_trees

    def killing(folder, number, trees):
        if number == 2:
            raise Killed
        put(folder, number, trees)

    monkeypatch.setattr(rollout, "put_trees", killing)
    with pytest.raises(Killed):
        run(config(tmp_path, mixed, out="killed"))
    parts = tmp_path / "killed/stages/rollout/parts"
    assert 0 < len(list(parts.glob("*.json"))) < 4 and not is_done(tmp_path / "killed/stages/rollout")
    monkeypatch.setattr(rollout, "put_trees", put)
    monkeypatch.setattr(rollout, "by_rounds", None)  # what was drawn is known already
    run(config(tmp_path, mixed, out="killed"))
    whole, again = tmp_path / "whole", tmp_path / "killed"
    assert ids(again) == ids(whole) and len(ids(whole)) == 16
    # batches of another make round log-probabilities otherwise
    tokens = [
        [(n.parent, n.offset, n.token_ids) for t in read_trees(out / "trees/rollout") for n in t.nodes]
        for out in (whole, again)
    ]
    assert tokens[0] == tokens[1]
    assert logged(again)["mixture"] == logged(whole)["mixture"] and logged(again)["mixture/ran_dry"] == ["b"]


@pytest.mark.parametrize("of_round", [0, 2])
def test_without_a_mixture_order_and_places_are_as_ever(tmp_path, monkeypatch, of_round):
    places: dict[str, list[int]] = {}
    grow = rollout.grow_and_judge

    def watched(trees, on_done, judging, engine, policy, growth, ahead, **hooks):
        submit = engine.submit

        def noting(requests):
            for request in (requests := list(requests)):
                places.setdefault(str(request.tree), []).append(request.place)
            submit(requests)

        engine.submit = noting
        grow(trees, on_done, judging, engine, policy, growth, ahead, **hooks)

    monkeypatch.setattr(rollout, "grow_and_judge", watched)
    seen: list[str] = []
    done = rollout.Own.done

    def noted(self, *facts):
        seen[:] = (self.folder / "problems.jsonl").read_text().splitlines()
        done(self, *facts)

    monkeypatch.setattr(rollout.Own, "done", noted)
    run(config(tmp_path, stage(of_round=of_round), seed=5))
    names = [f"a{i}" for i in range(12)] + [f"b{i}" for i in range(20, 32)]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(6)).tolist()
    expected = [names[order[(8 * of_round + i) % 24]] for i in range(8)]
    trees: list[Tree] = list(read_trees(tmp_path / "run/trees/rollout"))
    assert [t.problem.id for t in trees] == expected
    assert seen == [json.dumps(asdict(t.problem)) for t in trees]
    prompt = {t.problem.id: t.num_prompt for t in trees}
    assert places == {
        id: [place_key(5, of_round, id, [(prompt[id], ordinal)]) for ordinal in range(2)] for id in expected
    }
    assert "mixture" not in logged(tmp_path / "run")
