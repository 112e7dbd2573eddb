"""What an AWQ quantizer is given: 16-bit weights, the run's own right chains, and a script with what fits this model."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import CORRECT, WRONG, save_small_qwen, small_lm
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.export.awq import group_size
from reasoner.policy.adapters import LoRA, SharedBase
from reasoner.policy.heads import HEAD_FILE
from reasoner.policy.models import load_tokenizer
from reasoner.registry import UserError
from reasoner.store import write_trees
from reasoner.tree import Node, Problem, Tree

TEXTS = ["Q: 3 + 4\nA:", " 7", " 8", " so 7"]


def judged(encode, name: str, *answers: tuple[str, bool, str]) -> Tree:
    """A tree of whole answers, each with whether it is right and why it stopped."""
    tree = Tree.of_prompt(Problem(name, "3 + 4", "math", {"answer": "7"}), encode(TEXTS[0]))
    for text, is_right, stop in answers:
        node = tree.add(Node(0, len(tree.nodes[0].token_ids), tuple(encode(text)), stop_reason=stop))
        tree.verdicts[node] = CORRECT if is_right else WRONG
    return tree


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with a policy that is an adapter, and judged trees of two problems."""
    run = tmp_path_factory.mktemp("run")
    base = save_small_qwen(run / "base", ["".join(TEXTS)] * 4, 300)
    tokenizer = load_tokenizer(str(base))
    policy = SharedBase(str(base), LoRA(r=4, alpha=8)).view("policy")
    for weight in policy.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    policy.save_pretrained(run / "models/ppo/model")
    tokenizer.save_pretrained(run / "models/ppo/model")
    (run / "config.yaml").write_text("{}")
    encode = lambda text: tokenizer(text).input_ids  # noqa: E731
    trees = [
        judged(
            encode,
            "a",
            (" 7", True, "eos"),
            (" 8", False, "eos"),
            (" so 7", True, "eos"),
            (" 7", True, "eos"),
        ),
        judged(encode, "b", (" 7 7", True, "eos"), (" 7 7 7", True, "length")),
    ]
    write_trees(run / "trees/verify", trees)
    return run


def export(model: Path, out: Path):
    return CliRunner().invoke(app, ["export", str(model), str(out), "--to", "awq-ready"])


def test_the_folder_has_merged_weights_in_16_bits_and_the_right_chains_of_the_run(run, tmp_path):
    out = tmp_path / "ready"
    done = export(run / "models/ppo/model", out)
    assert done.exit_code == 0, done.exception
    assert "bfloat16, 3 right chains" in done.stdout and "not quantized yet" in done.stdout
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.bfloat16 and list(out.glob("*.safetensors"))
    assert not (out / "adapter_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(out)
    rows = [json.loads(line) for line in (out / "calibration.jsonl").read_text().splitlines()]
    # one of each problem first; none that is wrong, cut off or there already
    assert [row["text"] for row in rows] == [TEXTS[0] + answer for answer in (" 7", " 7 7", " so 7")]
    assert all(tokenizer(row["text"]).input_ids == row["input_ids"] for row in rows)
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(run / "base", dtype="auto")
        ids = torch.tensor([rows[0]["input_ids"]])
        assert (model(ids).logits - base(ids).logits).abs().max() > 1e-3  # the adapter is in


def test_the_script_names_the_groups_and_lengths_of_this_model(run, tmp_path):
    export(run / "models/ppo/model", tmp_path / "ready")
    script = (tmp_path / "ready/quantize.py").read_text()
    ast.parse(script)
    assert '"group_size": 64}' in script  # its layers have 64 and 128 inputs
    rows = (tmp_path / "ready/calibration.jsonl").read_text().splitlines()
    longest = max(len(json.loads(row)["input_ids"]) for row in rows)
    assert f"max_seq_length={longest}," in script and str(tmp_path) not in script


def test_widths_that_no_group_divides_are_told():
    narrow = small_lm("qwen2")  # 32 and 64 inputs
    assert group_size(narrow) == 32
    narrow.model.layers[0].mlp.down_proj.in_features = 100
    with pytest.raises(UserError, match="have 32, 64, 100 inputs; expected multiples of 32"):
        group_size(narrow)


def test_what_cannot_be_calibrated_is_one_line_and_leaves_nothing(run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(run / "base", tmp_path / "base")
    outside = export(tmp_path / "base", out)
    assert "lies in no run's folder" in str(outside.exception)
    other = tmp_path / "other"
    shutil.copytree(run / "models", other / "models")
    (other / "config.yaml").write_text("{}")
    assert "holds no right chain" in str(export(other / "models/ppo/model", out).exception)
    (other / "models/ppo/model" / HEAD_FILE).write_bytes(b"")
    assert "holds a reward model" in str(export(other / "models/ppo/model", out).exception)
    assert not out.exists()
    (out / "mine").mkdir(parents=True)
    assert "holds something already" in str(export(run / "models/ppo/model", out).exception)


@pytest.mark.gpu
def test_llm_compressor_takes_the_folder(run, tmp_path):
    """Where it is installed: it pins memory, which takes an accelerator."""
    pytest.importorskip("llmcompressor")
    export(run / "models/ppo/model", tmp_path / "ready")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "ready/quantize.py"), str(tmp_path / "four")], capture_output=True, text=True,
        cwd=tmp_path, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    config = json.loads((tmp_path / "four/config.json").read_text())["quantization_config"]
    (group,) = config["config_groups"].values()
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, 64)
