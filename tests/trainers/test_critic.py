"""A critic that is paid for the true first error, and for nothing else, learns to name it: from labels in a file to GRPO."""

import json

import pytest
import torch
from small_models import go_by_last_token, save_small_qwen

from reasoner.config import ConfigError, validate
from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.engine.local import LocalEngine
from reasoner.pipeline import RunConfig, run
from reasoner.policy.models import load_model
from reasoner.registry import UserError
from reasoner.scoring.critique import critic

STEPS = ["2+3=5", "5-4=2"]
EITHER = {" none": 0.48, " 1": 0.48}  # what the critic says at first, the rest is other text


def coin(folder):
    """A model that goes by the last token alone: "First error:" behind a prompt, then " none" or " 1", then the end."""
    save_small_qwen(folder, ["Critique:\nFirst error: none\nFirst error: 1\n"] * 20, 400)
    prompting = load_prompting(str(folder), PromptConfig())
    begun, words = prompting.encode("Critique:\n")[-1], prompting.encode("First error:")
    answers = {prompting.encode(f"First error:{text}")[-1]: chance for text, chance in EITHER.items()}
    assert len({begun, *words, *answers}) == 1 + len(words) + len(answers)
    table = {a: {b: 0.99} for a, b in zip([begun, *words], words, strict=False)}
    table |= {words[-1]: answers} | {answer: {prompting.eos_id: 0.99} for answer in answers}
    go_by_last_token(folder, table)
    return folder


def config(folder, model, labels, **ppo):
    """Labelled solutions of a file, as tasks of a critic that is trained from `model`."""
    rows = [
        {"id": f"b-{i}", "problem": f"{i}+3-4", "steps": STEPS, "label": at, "final_answer_correct": at < 0}
        for i, at in enumerate(labels)
    ]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stages = [
        {"kind": "import", "model": str(model), "path": str(folder / "labels.jsonl")},
        {"kind": "critiques", "model": str(model), "labels": "import", "label_kind": "human", "balance": False},
        {"kind": "ppo", "model": str(model), "problems": [], "critiques": "critiques", "rounds": 12, "minibatches": 1,
         "problems_per_round": 4, "max_tokens": 8, "tree": {"num_roots": 8, "num_points": 0},
         "advantage": {"method": "grpo"}, "optimizer": {"lr": 0.02}, **ppo},
    ]  # fmt: skip
    prompt = {"template": "{prompt}=\n"}
    return {"out": str(folder / "run"), "prompt": prompt, "problems": {}, "stages": stages}


def said(model):
    """Where the model puts the first error, drawn forty times."""
    prompting = load_prompting(str(model), PromptConfig())
    engine = LocalEngine(load_model(str(model), torch.float32), prompting.eos_ids, 16, 128)
    (votes,) = critic(engine, prompting, num_samples=40, max_tokens=8)(["9+3-4"], [STEPS])
    return votes


@pytest.mark.parametrize("truth", [-1, 0])
def test_a_critic_learns_to_say_what_the_labels_say(tmp_path, truth):
    model = coin(tmp_path / "model")
    before = said(model)
    assert 6 < before.count(-1) < 30 and 6 < before.count(0) < 30  # of both
    run(validate(RunConfig, config(tmp_path, model, [truth] * 8), "test"))
    after = said(tmp_path / "run/models/ppo/model")
    assert after.count(truth) >= 28 and after.count(-1 - truth) <= 2
    lines = [
        json.loads(line) for line in (tmp_path / "run/stages/ppo/metrics.jsonl").read_text().splitlines()
    ]
    rewards = [line["ppo/reward"] for line in lines if "ppo/reward" in line]
    assert rewards[0] < 0.65 < 0.75 < rewards[-1]
    # the table at the end tells right and wrong solutions apart
    (table,) = (line["mixture"] for line in lines if "mixture" in line)
    assert [(row["set"], row["drawn"]) for row in table] == [("right" if truth < 0 else "wrong", 48)]


def test_the_whole_prompt_is_what_is_answered(tmp_path):
    """The run's template is of problems: behind it the coin would not begin to speak."""
    model = coin(tmp_path / "model")
    raw = config(tmp_path, model, [-1, 0] * 4, rounds=1)
    run(validate(RunConfig, raw, "test"))
    (line,) = [
        json.loads(line)
        for line in (tmp_path / "run/stages/ppo/metrics.jsonl").read_text().splitlines()
        if "ppo/reward" in line
    ]
    assert 0.2 < line["ppo/reward"] < 0.7
    assert line["ppo/seen_right"] + line["ppo/seen_wrong"] == 4


def test_what_does_not_go_with_critiques_is_said(tmp_path):
    model = str(tmp_path)
    for keys, named in (
        ({"problems": ["train"]}, "problems"),
        ({"demonstrations": ["shown"], "ptx_weight": 0.1}, "demonstrations"),
    ):
        with pytest.raises(ConfigError, match=f"got critiques with {named}"):
            validate(RunConfig, config(tmp_path, model, [0, -1], **keys), "test")
    with pytest.raises(UserError, match="did you mean critiques"):
        run(validate(RunConfig, config(tmp_path, model, [0, -1], critiques="critique"), "test"))
