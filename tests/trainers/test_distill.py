"""Distillation through TRL: the divergence by hand, what is drawn and counted, and a teacher that does not fit."""

import pytest
import torch
from safetensors.torch import load_file
from small_models import save_small_qwen, small_lm, writes_after

from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.registry import UserError
from reasoner.trainers.distill import DistillStage, Written, _AsPrompted, train_distill
from reasoner.trainers.loop import Session

PROMPTS = ["1 + 2", "2 + 2", "4", "1 + 1 + 1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student, a teacher of the same tokenizer that writes "1 2 3" after any prompt, and one of another tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    student = save_small_qwen(folder / "student", ["1 + 2 = 3\n"] * 9, 300)
    tokenizer = load_tokenizer(str(student))
    one, two, three = tokenizer("123").input_ids
    lm = small_lm("llama", vocab_size=len(tokenizer), tie_word_embeddings=False)
    after = {one: two, two: three, three: tokenizer.eos_token_id, tokenizer("=").input_ids[0]: one}
    teacher = writes_after(lm, after)
    teacher.lm_head.weight.data *= 3  # so that it is sure
    save(teacher, tokenizer, folder / "teacher")
    save_small_qwen(folder / "foreign", ["abc def ghi jkl " * 3], 290)
    return folder


def written(folder) -> Written:
    return Written(str(folder), load_prompting(str(folder), PromptConfig(template="{prompt}=")))


def distil(folders, out, teacher="teacher", **options) -> tuple[list[dict], Ledger]:
    lines, ledger = [], Ledger()
    session = Session(out, ledger, log=lambda metrics, step: lines.append(metrics))
    config = DistillStage(**{"batch_size": 4, "max_tokens": 6, **options})
    with ledger.stage("distill"):
        train_distill(written(folders / "student"), written(folders / teacher), PROMPTS, config, session)
    return lines, ledger


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_loss_is_the_divergence_over_the_student_s_own_tokens(folders, tmp_path, monkeypatch, beta):
    seen, plain = [], _AsPrompted._compute_loss

    def taking_down(self, model, inputs, *args):
        seen.append({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
        return plain(self, model, inputs, *args)

    monkeypatch.setattr(_AsPrompted, "_compute_loss", taking_down)
    lines, ledger = distil(folders, tmp_path, beta=beta, max_steps=1, trl={"logging_steps": 1})
    (inputs,) = seen
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].size(1)
    logs = []
    for name in ("student", "teacher"):
        with torch.no_grad():
            logits = load_model(str(folders / name))(input_ids=ids, attention_mask=mask).logits
        logs.append(logits[:, -length - 1 : -1].float().log_softmax(-1))
    p, q = logs if beta == 1.0 else logs[::-1]
    divergence = (p.exp() * (p - q)).sum(-1)[inputs["completion_mask"].bool()].mean()
    assert lines[0]["distill/loss"] == pytest.approx(divergence.item(), rel=1e-3)
    # what both models computed
    given, drawn = int(inputs["prompt_mask"].sum()), int(inputs["completion_mask"].sum())
    counts = ledger.to_dict()["counts"]["distill"]
    assert counts["teacher"] == {"scored": given + drawn}
    assert counts["policy"] == {"prefilled": given, "decoded": drawn, "trained": given + drawn}


def test_the_student_learns_to_write_what_the_teacher_writes(folders, tmp_path):
    lines, _ = distil(
        folders, tmp_path, beta=0.0, max_steps=40, optimizer={"lr": 0.01}, trl={"logging_steps": 1}
    )
    losses = [line["distill/loss"] for line in lines]
    assert len(losses) == 40 and sum(losses[-5:]) < sum(losses[:5]) / 2
    model, prompting = load_model(str(tmp_path / "model")), written(folders / "student").prompting
    ids = torch.tensor([prompting.prompt_ids("1 + 2")])
    found = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=prompting.eos_ids)
    assert prompting.decode(found[0, ids.size(1) :].tolist()).startswith("12")


def test_an_adapter_alone_is_trained_and_saved(folders, tmp_path):
    distil(folders, tmp_path, lora=LoRA(r=2, alpha=4), max_steps=2)
    (saved,) = (tmp_path / "model").glob("*.safetensors")
    tensors = load_file(saved)
    assert saved.name == "adapter_model.safetensors"
    assert any(v.abs().max() > 0 for k, v in tensors.items() if "lora_B" in k)


def test_a_teacher_of_another_tokenizer_is_one_clear_line(folders, tmp_path):
    with pytest.raises(UserError, match="has another vocabulary") as caught:
        distil(folders, tmp_path, teacher="foreign")
    assert "same tokenizer" in str(caught.value) and "\n" not in str(caught.value)


def test_updates_of_several_batches_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="gradient_accumulation_steps is not taken here"):
        distil(folders, tmp_path, trl={"gradient_accumulation_steps": 2})
    with pytest.raises(UserError, match="no option of DistillationConfig"):
        distil(folders, tmp_path, trl={"max_length": 7})
