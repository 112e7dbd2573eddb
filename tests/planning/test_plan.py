"""Plans of models and runs: hand-typed numbers, a run's own ledger beside, and what cannot be planned."""

import json
from dataclasses import replace

import pytest
import yaml
from small_models import save_small_qwen
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.config import validate
from reasoner.data.rows import Item, SourceConfig
from reasoner.economics.hardware import Hardware, hardware_table
from reasoner.pipeline import RunConfig, run
from reasoner.planning.answers import Answers, Facts
from reasoner.planning.lengths import Counters, ProblemSet, counters, measure_sets
from reasoner.planning.needs import nearest_fit, need_of
from reasoner.planning.of_run import plan_run
from reasoner.planning.pace import DECODING, PARALLEL, pace_of
from reasoner.planning.work import Work, branched, chains_of, work_of
from reasoner.registry import UserError
from reasoner.search.branch import BranchConfig
from reasoner.stages.dpo import DPO
from reasoner.stages.evaluate import Evaluate
from reasoner.stages.init import InitStage
from reasoner.stages.label import Label
from reasoner.stages.ppo import PPO
from reasoner.stages.reward_models import ORM, PRM
from reasoner.stages.rollout import Rollout
from reasoner.stages.sft import SFT
from reasoner.tree import Problem

MACHINE = Hardware(memory_gb=1, bandwidth_gbs=100, tflops=1, dollars_per_hour=3.6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_qwen(tmp_path_factory.mktemp("plan") / "model", ["1+2=3\n"] * 9, 300)


def planned(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as problem:
        CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False, standalone_mode=False)
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_chains_of_a_tree():
    assert chains_of(BranchConfig(num_roots=4, num_points=0)) == (4, 0)
    assert chains_of(BranchConfig(num_roots=4, num_points=2, num_children=3)) == (4, 24)
    assert chains_of(BranchConfig(num_roots=2, num_points=2, num_children=1, num_rounds=2)) == (2, 4 + 8)


def facts(sets, completion=10.0):
    return Facts(sets, lambda most: min(most, completion), {}, {})


SETS = {"train": ProblemSet(100, 100, 5, 8, 10), "demonstrations": ProblemSet(100, 60, 5, 8, 7)}


def test_tokens_of_rounds_of_ppo():
    stage = PPO.model_validate(
        {"kind": "ppo", "model": "m/m", "rounds": 3, "problems_per_round": 4, "minibatches": 2, "epochs": 2,
         "kl_weight": 0.1, "tree": {"num_roots": 2, "num_points": 1, "num_children": 1}}
    )  # fmt: skip
    work = work_of(stage, facts(SETS))
    tokens = 3 * 4 * (2 * 10 + 2 * 10 / 2)  # two whole chains a tree, and two that begin inside
    assert work.decoded == tokens and work.prefilled == 3 * 4 * 5
    assert work.trained == tokens * 2 * 2  # twice, policy and critic
    assert work.scored == tokens * 3  # the critic's values, the reference, the policy before its updates
    assert work.trajectories == work.verifications == 3 * 4 * 4


def test_tokens_of_imitation_and_of_a_rollout():
    sft = SFT.model_validate({"kind": "sft", "model": "m/m", "batch_size": 6, "epochs": 2})
    assert work_of(sft, facts(SETS)).trained == 2 * 60 * (5 + 7)
    few = sft.model_copy(update={"max_steps": 3})
    assert work_of(few, facts(SETS)).trained == 3 * 6 * 12
    rollout = Rollout.model_validate(
        {"kind": "rollout", "model": "m/m", "num_problems": 7, "max_tokens": 4, "tree": {"num_roots": 3, "num_points": 0}}
    )  # fmt: skip
    work = work_of(rollout, facts(SETS))
    assert (work.decoded, work.prefilled, work.reused) == (7 * 3 * 4, 7 * 5, 7 * 2 * 5)
    assert work_of(rollout.model_copy(update={"num_problems": 900}), facts(SETS)).prefilled == 100 * 5


def by_policies(**stages) -> Facts:
    """Demonstrations of which half only answer (3 tokens), and problems whose solutions have 9 tokens and three steps."""
    sets = {
        "demonstrations": ProblemSet(100, 100, 5, 8, 6, 0.5, ((3, 0), (9, 2))),
        "train": ProblemSet(100, 100, 5, 8, 9, 0.25, ((9, 2),)),
        "test": ProblemSet(10, 0, 5, 8, 0, 0.5),
    }
    made = {
        "base": InitStage.model_validate({"kind": "init"}),
        "sft": SFT.model_validate({"kind": "sft", "model": "base", "batch_size": 4, "problems": ["demonstrations"]}),
        "ppo": PPO.model_validate({"kind": "ppo", "model": "sft"}),
        "dpo": DPO.model_validate({"kind": "dpo", "model": "sft"}),
        **stages,
    }  # fmt: skip
    return Facts(sets, lambda most: min(most, 100.0), made, {})


def test_a_policy_answers_as_what_it_has_learned_from():
    known = by_policies()
    means = {name: known.answers(name, 20).mean for name in ("base", "sft", "dpo", "ppo", "some/model")}
    assert means == {"base": 20, "sft": 6, "dpo": 6, "ppo": 9, "some/model": 20}
    assert known.answers("sft", 4).mean == 3.5  # an answer that max_tokens cuts
    given = replace(known, completion=lambda most: 7.0, is_given=True)
    assert {given.answers(name, 20).mean for name in means} == {7}


def test_chains_branch_where_their_steps_end():
    known = by_policies()
    tree = {"num_roots": 4, "num_points": 3, "num_children": 5, "where": "every_step"}
    stage = Rollout.model_validate(
        {"kind": "rollout", "model": "sft", "num_problems": 10, "max_tokens": 20, "tree": tree}
    )
    work = work_of(stage, known)
    # of four chains two have two inner ends: 2 · 2 · 5 continuations, each half as long as the chain of nine tokens
    assert work.trajectories == 10 * (4 + 20) and work.decoded == 10 * (4 * 6 + 20 * 4.5)
    assert work.prefilled == 10 * 5 * 0.25 and work.asked == 10 * 5 and work.rooted == 10 * 4 * 6
    anywhere = stage.model_copy(update={"tree": stage.tree.model_copy(update={"where": "entropy"})})
    assert work_of(anywhere, known).trajectories == 10 * (4 + 4 * 3 * 5)


def test_a_prm_learns_the_chains_whose_steps_are_labelled_and_an_orm_all():
    label = Label.model_validate({"kind": "label", "trees": "rollout", "model": "sft"})
    known = by_policies(label=label, rollout=None)
    known.done["rollout"] = Work(decoded=900, rooted=300, asked=100, trajectories=9)
    prm = PRM.model_validate({"kind": "prm", "model": "sft", "epochs": 2, "holdout": 0.25})
    orm = ORM.model_validate({"kind": "orm", "model": "sft", "epochs": 2, "holdout": 0.25})
    assert work_of(prm, known).trained == 2 * 0.75 * (300 + 100)
    assert work_of(orm, known).trained == 2 * 0.75 * (900 + 100)
    known.stages["label"] = label.model_copy(update={"ends": "all"})
    assert work_of(prm, known).trained == 2 * 0.75 * (900 + 100)


def test_what_an_evaluation_draws_of_each_policy():
    stage = Evaluate.model_validate(
        {"kind": "evaluate", "policies": ["base", "sft", "ppo"], "sampled": ["ppo"], "num_samples": 4, "max_tokens": 20,
         "prm": "prm"}
    )  # fmt: skip
    work = work_of(stage, by_policies())
    assert work.decoded == 10 * (20 + 6 + 9 + 4 * 9) and work.verifications == 10 * 7
    assert work.scored == 10 * (4 * 9 + 5) and work.prefilled == 10 * 5 * 0.5 * 3


def test_prompts_that_begin_alike_are_computed_once():
    texts = {"a": [1, 2, 3], "b": [1, 2, 4, 5], "c": [1, 2, 3]}
    items = [Item(Problem(k, k, "math", {"answer": "1"}), "x" * n) for n, k in enumerate(texts, 1)]
    sources = [validate(SourceConfig, {"name": "jsonl", "path": "p", "size": 3}, "p")]
    by_table = Counters(lambda text: texts[text], list, lambda ids: len(ids) // 2)
    found = measure_sets({"train": sources}, {"train": items}, by_table)["train"]
    assert found.fresh == 5 / 10 and found.prompt == 10 / 3 and found.longest_prompt == 4
    assert found.shown == ((2, 0), (3, 1), (4, 1)) and found.solution == 3


def test_without_a_tokenizer_letters_are_counted_and_trees_branch_as_often_as_they_may():
    by_letters = counters(None)
    assert (
        len(by_letters.prompt("x" * 40)) == 10
        and by_letters.prompt("abcdefgh")[:1] == by_letters.prompt("abcdxyzw")[:1]
    )
    tree = BranchConfig(num_roots=2, num_points=3, num_children=5, where="every_step")
    assert branched(tree, Answers((8.0,), (by_letters.inside([1, 2]),))) == (2, 16, 30, 120)
    assert branched(tree, Answers((8.0,))) == (2, 16, 30, 120)


def test_seconds_at_best_and_as_expected(model):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    trained = pace_of(Work(trained=1e6, sequence=0), config, MACHINE, lora=False, recomputed=False)
    # the output layer is tied; two layers of 64 × (64 + 64 + 2 · 32) and 3 · 64 · 128, 6 operations each
    matrices = 2 * (64 * (2 * 64 + 2 * 32) + 3 * 64 * 128) + config.vocab_size * 64
    assert trained.best == pytest.approx(6 * matrices * 1e6 / 1e12)
    assert trained.expected == pytest.approx(trained.best / PARALLEL)
    lora = pace_of(Work(trained=1e6, sequence=0), config, MACHINE, lora=True, recomputed=True)
    assert lora.best == pytest.approx(trained.best)  # one pass back instead of two, and one forward again
    drawn = pace_of(Work(decoded=1000, at_once=10), config, MACHINE, lora=False, recomputed=False)
    assert drawn.best == pytest.approx(1000 / drawn.decode_tokens_per_second)
    assert drawn.expected == pytest.approx(drawn.best / DECODING)


def test_a_model_as_text_of_80_columns_and_as_json(model):
    text = planned(str(model), "--hardware", "H100,laptop")
    assert max(map(len, text.splitlines())) <= 80
    assert "reading speed" in text and "five models" in text
    found = json.loads(planned(str(model), "--hardware", "laptop", "--json"))
    rows = {r["bits"]: r for r in found["answering"]}
    assert rows[16]["weight_bytes"] == 2 * found["model"]["parameters"]
    assert found["model"]["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 2  # k and v, layers, heads, size, bytes
    assert found["reading"] == [
        {"machine": "laptop", "bits": 16, "tokens_per_second": rows[16]["tokens_per_second"]}
    ]
    assert planned(str(model / "config.json"), "--hardware", "laptop")


SMALL = {
    "prompt": {"template": "{prompt}=\n"},
    "problems": {
        "demonstrations": [{"name": "arithmetic", "size": 60, "families": {"chain_sum": {"max_terms": 2, "max_digits": 1}}}]
    },
    "stages": [
        {"kind": "init", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64},
        {"kind": "sft", "model": "base", "batch_size": 16, "max_steps": 4},
        {"kind": "rollout", "model": "sft", "problems": ["demonstrations"], "num_problems": 8, "max_tokens": 12,
         "tree": {"num_roots": 3, "num_points": 0}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run and its YAML."""
    folder = tmp_path_factory.mktemp("against")
    run(validate(RunConfig, {**SMALL, "out": str(folder / "run")}, "small"))
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder / "small.yaml", folder / "run"


def test_a_run_beside_its_plan(finished):
    config, done = finished
    found = json.loads(planned(str(config), "--hardware", "laptop", "--against", str(done), "--json"))
    by_stage = {r["stage"]: r for r in found["against"]}
    ledger = json.loads((done / "ledger.json").read_text())
    assert by_stage["sft"]["seconds"] == ledger["seconds"]["sft"] > 0
    assert by_stage["sft"]["measured"]["trained"] == ledger["counts"]["sft"]["policy"]["trained"] > 0
    assert by_stage["sft"]["planned"]["trained"] == pytest.approx(
        by_stage["sft"]["measured"]["trained"], rel=0.1
    )
    drawn = by_stage["rollout"]
    assert drawn["measured"]["verifications"] == drawn["planned"]["verifications"] == 24
    # a random model writes on to max_tokens, or to an end of text by chance
    longest = json.loads(
        planned(str(config), "--hardware", "laptop", "--completion", "12", "--against", str(done), "--json")
    )
    planned_tokens = {r["stage"]: r["planned"]["decoded"] for r in longest["against"]}["rollout"]
    assert planned_tokens == 8 * 3 * 12 >= drawn["measured"]["decoded"] > 0
    text = planned(str(config), "--against", str(done))
    assert max(map(len, text.splitlines())) <= 80 and "the plan against the run" in text


def test_overrides_change_the_plan(finished):
    stages = json.loads(planned(str(finished[0]), "stages.1.max_steps=8", "--hardware", "laptop", "--json"))[
        "stages"
    ]
    assert stages[1]["trained"] == pytest.approx(
        2 * json.loads(planned(str(finished[0]), "--hardware", "laptop", "--json"))["stages"][1]["trained"]
    )


def test_the_nearest_choice_does_fit(model):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    stage = PPO.model_validate({"kind": "ppo", "model": "m/m", "tokens_per_batch": 16384, "num_slots": 256})
    work, given = work_of(stage, facts(SETS)), SETS["train"]
    whole = need_of(stage, config, given, MACHINE, work).total
    for room in (0.8, 0.5, 0.3):
        tight = MACHINE.model_copy(update={"memory_gb": whole * room / 1e9})
        said = nearest_fit(stage, config, given, tight, {}, work)
        update = yaml.safe_load("{" + said.replace("=", ": ").replace(" ", ", ").replace(":,", ":") + "}")
        changed = stage.model_copy(update=update)
        assert update and need_of(changed, config, given, tight, work).total <= tight.device_bytes
    nothing = MACHINE.model_copy(update={"memory_gb": 1e-6})
    assert nearest_fit(stage, config, given, nothing, {}, work) == ""
    assert nearest_fit(stage, config, given, nothing, hardware_table(), work) == "the machine 3060"


def test_a_plan_that_cannot_fit_is_one_line(finished, tmp_path):
    small = tmp_path / "mine.yaml"
    small.write_text("watch: {memory_gb: 0.001, bandwidth_gbs: 1, tflops: 0.1}\n")
    told = refused(str(finished[0]), "--hardware", "watch", "--hardware-file", str(small))
    assert "does not fit watch: it needs" in told and "more than 1 MB" in told and "nearest choice" in told
    big = tmp_path / "config.json"
    big.write_text(json.dumps({
        "model_type": "llama", "num_hidden_layers": 126, "hidden_size": 16384, "intermediate_size": 53248,
        "num_attention_heads": 128, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    }))  # fmt: skip
    told = refused(str(big), "--hardware", "4090")
    assert "does not fit 4090: in 4 bits it needs 209 GB, 185 GB more than 24 GB" in told
    assert told.endswith("--hardware 9x4090")
    assert "9x4090" in planned(str(big), "--hardware", "9x4090")


def test_what_is_not_there_is_one_line(model, finished, tmp_path):
    assert "did you mean H100" in refused(str(model), "--hardware", "H10O")
    assert "no model at ./nothing" in refused("./nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    assert "vocab_size" in refused(str(tmp_path / "config.json"))
    assert "ledger.json" in refused(str(finished[0]), "--against", str(tmp_path))
    assert "is a model" in refused(str(model), "--against", str(tmp_path))
    assert "--hardware names no machine" in refused(str(model), "--hardware", ",")


def test_a_stage_that_learns_from_files_of_another_run_is_said():
    stages = [*SMALL["stages"][:1], {"kind": "import", "model": "base", "path": "pyproject.toml"},
              {"kind": "prm", "model": "base", "labels": "import", "label_kind": "human"}]  # fmt: skip
    config = validate(RunConfig, {**SMALL, "stages": stages, "out": "x"}, "small")
    found = plan_run(config, {"laptop": hardware_table()["laptop"]}, hardware_table(), None, None)
    assert any("prm learns from files of another run" in told for told in found["assumptions"])
