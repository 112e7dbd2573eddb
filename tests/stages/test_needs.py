"""Searches that go by a judge which nobody named, or by steps that nobody can tell, are refused before the first stage."""

from typing import get_args

import pytest

from reasoner.config import apply_overrides, configs_in, read_yaml, validate
from reasoner.pipeline import RunConfig, check, run
from reasoner.registry import UserError
from reasoner.search.branch import BY_SCORES, WHOLE_CHAIN
from reasoner.search.method import Tools
from reasoner.search.methods import METHODS, MethodConfig, goes_by_step, judges_of
from reasoner.search.prune import BY_VERDICTS, RULES
from tests.stages.test_references import SMOKE, of


def config(out, *overrides: str) -> RunConfig:
    return validate(RunConfig, apply_overrides(read_yaml(SMOKE), [f"out={out}", *overrides]), "smoke")


ASKED = [
    ("rollout", "tree", "{where: score_falls}", "tree.where goes by the scores of a PRM", "prm=PRM"),
    ("rollout", "tree", "{policy: bisect}", "tree.policy goes by verdicts on what is drawn so far", "verify=true"),
    ("rollout", "tree", "{policy: mcts}", "tree.evaluate goes by verdicts", "verify=true"),
    ("rollout", "tree", "{policy: mcts, evaluate: score}", "tree.evaluate goes by the scores of a PRM", "prm=PRM"),
    ("rollout", "prune", "{rules: [loop, solved]}", r"prune\.rules \(solved\) goes by verdicts", "verify=true"),
    ("rollout", "prune", "{rules: [low_score], score: orm}", "prune.score goes by the scores of an ORM", "orm=PRM"),
    ("evaluate", "methods", "[{name: greedy}, {name: best_of}]", r"methods\.1 \(best_of\) goes by the scores of a", "prm=prm"),
    ("evaluate", "methods", "[{name: borda, scorer: orm}]", r"methods\.0 \(\w+\) goes by the scores of an ORM", "orm=orm"),
    ("evaluate", "methods", "[{name: dvts}]", r"methods\.0 \(\w+\) goes by the scores of a PRM", "prm=prm"),
    ("evaluate", "methods", "[{name: self_critique, judge: words, revise: step}]",
     r"methods\.0 \(\w+\) goes by the scores of a PRM", "prm=prm"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "key", "value", "told", "remedy"), ASKED, ids=[row[2] for row in ASKED])
def test_a_judge_that_the_stage_does_not_name(tmp_path, stage, key, value, told, remedy):
    none = [of("evaluate", name, "null") for name in ("prm", "orm")]
    asked = config(tmp_path / "run", *none, of(stage, key, value))
    with pytest.raises(UserError, match=rf"stages\.{stage}\.{told}[^,]*, and the stage has none") as fault:
        run(asked)
    assert "\n" not in str(fault.value) and not (tmp_path / "run").exists()
    folder = tmp_path / "prm"
    folder.mkdir()
    check(
        config(
            tmp_path / "run",
            *none,
            of(stage, key, value),
            of(stage, *remedy.replace("PRM", str(folder)).split("=")),
        )
    )


def test_a_method_is_told_beforehand_what_it_would_miss_while_it_runs():
    """Every method and every judge of it: what is asked of the stage is what the method asks of its tools."""
    tools = Tools(None, None, None, None, verify=lambda trees: None, aggregates={"last": max, "min": min})  # pyright: ignore[reportArgumentType]
    looked_at = 0
    for kind in configs_in(MethodConfig):
        for name in get_args(kind.model_fields["name"].annotation):
            choices = [{}]
            for key in {"judge", "scorer", "revise"} & kind.model_fields.keys():
                choices += [{key: word} for word in ("prm", "orm", "verifier", "step")]
            for choice in choices:
                try:
                    method = kind.model_validate({"name": name, **choice})
                except ValueError:
                    continue
                try:
                    METHODS[name]([], tools, method)
                    missed = set()
                except UserError as fault:
                    missed = {judge for judge in ("prm", "orm") if f"needs {judge}" in str(fault)}
                except (AttributeError, TypeError):
                    missed = set()  # it went on to draw
                assert missed <= judges_of(method), method
                looked_at += bool(missed)
    assert looked_at > 8


def test_the_rules_that_go_by_something_are_rules():
    assert set(BY_SCORES) < set(WHOLE_CHAIN) and set(BY_VERDICTS) < set(RULES)


@pytest.mark.parametrize("value", ["[{name: beam}]", "[{name: mcts, search: {evaluate: score}}]"])
def test_methods_that_go_step_by_step_need_a_rule_that_tells_while_drawing(tmp_path, value):
    asked = [
        of("evaluate", "methods", value),
        of("ppo", "advantage.method", "rloo"),
        of("ppo", "critic", "null"),
    ]
    check(config(tmp_path, *asked))
    with pytest.raises(UserError, match=r"stages\.evaluate\.methods\.0 has to know where steps end"):
        check(config(tmp_path, *asked, "prompt.steps.rule=pieces"))
    chains = [of("evaluate", "methods", "[{name: majority}]"), *asked[1:]]
    check(config(tmp_path, *chains, "prompt.steps.rule=pieces"))


def test_who_goes_by_step_is_few():
    steps = {n for k in configs_in(MethodConfig) for n in get_args(k.model_fields["name"].annotation)
             if goes_by_step(k.model_validate({"name": n}))}  # fmt: skip
    assert steps == {"beam", "dvts"}
