"""QLoRA on a real chat model: its base in 4 bits is imitated with, sampled from and trained by PPO."""

import pytest
import torch
from small_models import first_rows
from test_real_configs import CONFIGS, short
from transformers import AutoModelForCausalLM

from reasoner.config import apply_overrides, validate
from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.pipeline import RunConfig, run
from reasoner.policy.adapters import LoRA, SharedBase

pytestmark = pytest.mark.real
pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install 'reasoner[qlora]')")

NEW = 16


def held(model) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def test_imitation_then_ppo_on_a_base_in_4_bits(real_model, shared_data, tmp_path):
    config = short(CONFIGS / "smollm2" / "grpo.yaml", real_model, shared_data, tmp_path / "run")
    raw = config.model_dump(mode="json")
    changes = [f"stages.{i}.lora.four_bit=true" for i in range(2)]
    raw["stages"] = raw["stages"][:2]
    run(validate(RunConfig, apply_overrides(raw, changes), "four bits"))
    for stage in ("sft", "grpo"):
        assert list((tmp_path / "run" / "models" / stage / "model").glob("adapter_model.safetensors")), stage


@torch.no_grad()
def test_greedy_texts_beside_the_whole_base(real_model, shared_data):
    whole = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval()
    base = SharedBase(real_model, LoRA(four_bit=True))
    base.activate(None)
    chat = load_prompting(real_model, PromptConfig(chat=True))
    rows = first_rows(shared_data / "gsm8k" / "train.jsonl.gz", 12)
    same = total = 0
    for row in rows:
        ids = torch.tensor([chat.prompt_ids(row["question"])])
        text = whole.generate(ids, max_new_tokens=NEW, do_sample=False, attention_mask=torch.ones_like(ids))
        length = text.shape[1] - ids.shape[1]
        guess = base.lm(text, use_cache=False).logits[0, -length - 1 : -1].argmax(-1)
        same += int((guess == text[0, -length:]).sum())
        total += length
    print(
        f"{same} of {total} tokens alike; {held(base.lm) / 1e6:.0f} MB of weights, {held(whole) / 1e6:.0f} whole"
    )
    assert same > 0.7 * total
    assert held(base.lm) < 0.6 * held(whole)
