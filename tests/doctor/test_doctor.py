"""Twenty and more faults, planted one at a time into a config without any: each is found, by the check that is for it."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_models import always
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.commands.doctor import tell_quickly
from reasoner.commands.resolve import resolved
from reasoner.commands.shipped import names
from reasoner.config import validate
from reasoner.doctor.case import Case
from reasoner.doctor.checks import DEAR, FREE, examine
from reasoner.doctor.findings import Finding, exit_code, line_of
from reasoner.doctor.machine import Machine, this_machine
from reasoner.pipeline import RunConfig
from reasoner.policy.models import save, train_tokenizer

AMPLE = Machine(on_gpu=False, bfloat16=True, free_memory=64e9, free_disk=1e12, logged_in=True, four_bit=True)
SOLUTION = "{p}={a}\n#### {a}"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def row(prompt: str, answer: str) -> dict:
    return {"prompt": prompt, "answer": answer, "solution": SOLUTION.format(p=prompt, a=answer)}


# half of the answers are the one that the model always gives
TRAIN = [row(f"{i}+{5 - i}" if i % 2 else f"{i}+{9 - i}", "5" if i % 2 else "9") for i in range(24)]
TEST = [row(f"{i}*3", str(3 * i)) for i in range(40, 50)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model that answers 5 whatever it is asked, with a chat template."""
    folder = tmp_path_factory.mktemp("doctor") / "model"
    texts = [r["prompt"] + "=\n" + r["solution"] for r in (*TRAIN, *TEST)] * 9
    tokenizer = train_tokenizer(texts, 330)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    last = tokenizer("1+4=\n", add_special_tokens=False).input_ids[-1]
    answer = tokenizer("#### 5", add_special_tokens=False).input_ids
    assert len({last, *answer, tokenizer.eos_token_id}) == len(answer) + 2
    lm = always(AutoModelForCausalLM.from_config(config), last, *answer, tokenizer.eos_token_id)
    with torch.no_grad():
        lm.lm_head.weight.mul_(4)
    save(lm, tokenizer, folder)
    return folder


@dataclass
class Plant:
    """What a fault is planted into."""

    folder: Path
    config: dict[str, Any]
    train: list[dict]
    test: list[dict]
    model: Path
    machine: Machine

    def own_model(self) -> Path:
        """A copy of the model that may be spoilt."""
        copy = self.folder / "model"
        shutil.copytree(self.model, copy)
        for stage in self.config["stages"]:
            stage["model"] = str(copy)
        return copy

    def edit(self, name: str, **update) -> None:
        path = self.own_model() / name
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **update}))

    def write(self) -> Path:
        for name in ("train", "test"):
            lines = "".join(json.dumps(r) + "\n" for r in getattr(self, name))
            (self.folder / f"{name}.jsonl").write_text(lines)
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        return path


@pytest.fixture
def plant(model, tmp_path) -> Plant:
    config = {
        "out": str(tmp_path / "run"),
        "prompt": {"template": "{prompt}=\n"},
        "problems": {
            "train": [{"name": "jsonl", "path": str(tmp_path / "train.jsonl")}],
            "test": [{"name": "jsonl", "path": str(tmp_path / "test.jsonl")}],
        },
        "stages": [
            {"kind": "sft", "model": str(model), "problems": ["train"], "max_steps": 2, "batch_size": 4},
            {"kind": "ppo", "model": str(model), "problems_per_round": 8, "max_tokens": 24, "tokens_per_batch": 256},
        ],
    }  # fmt: skip
    return Plant(tmp_path, config, list(TRAIN), list(TEST), model, AMPLE)


def found_in(plant: Plant) -> list[Finding]:
    path = plant.write()
    case = Case(resolved(path, []), path=path)
    case.machine = plant.machine  # type: ignore[misc]
    return examine(case).findings


def chat(plant: Plant, template: str = CHAT) -> None:
    plant.config["prompt"] = {"chat": True, "chat_template": template}


def with_bos(plant: Plant) -> None:
    """A tokenizer that puts a token before every text, as Llama's."""
    folder = plant.own_model()
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    begin = next(t for t in told["added_tokens"] if t["content"] == "<|im_start|>")
    one = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    told["post_processor"] = {
        "type": "TemplateProcessing", "single": [one, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [one, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [begin["id"]], "tokens": ["<|im_start|>"]}},
    }  # fmt: skip
    path.write_text(json.dumps(told))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    )


def template_without_the_problem(p: Plant) -> None:
    chat(p, CHAT.replace("m['content']", "m['role']"))


def chat_without_bos(p: Plant) -> None:
    with_bos(p)
    chat(p, CHAT.replace("<|im_start|>", ""))


def bos_twice(p: Plant) -> None:
    with_bos(p)
    p.config["prompt"] = {"chat": True, "chat_template": "<|im_start|>" + CHAT}


def end_of_text_out_of_range(p: Plant) -> None:
    p.edit("generation_config.json", eos_token_id=[0, 5000])


def end_of_text_that_is_a_letter(p: Plant) -> None:
    p.edit("generation_config.json", eos_token_id=[20])


def turns_without_an_end(p: Plant) -> None:
    chat(p, CHAT.replace("<|im_end|>", ""))


def stop_inside_solutions(p: Plant) -> None:
    p.config["prompt"]["stop"] = ["="]


def delimiter_that_no_token_ends(p: Plant) -> None:
    p.config["prompt"]["delimiter"] = "\n#"  # the tokenizer cuts "####" as one


def delimiter_that_solutions_lack(p: Plant) -> None:
    p.config["prompt"]["delimiter"] = "\n\n"


def think_tags_in_pieces(p: Plant) -> None:
    p.config["prompt"]["template"] = "{prompt}\n<think>\n"


def tokens_without_embeddings(p: Plant) -> None:
    p.edit("config.json", vocab_size=200)


def problem_longer_than_the_model(p: Plant) -> None:
    p.train.append(row("+".join(["1"] * 300), "300"))


def answers_cut_short(p: Plant) -> None:
    p.config["stages"][1]["max_tokens"] = 3


def unreadable_gold(p: Plant) -> None:
    p.train.append({"prompt": "What?", "answer": "\\frac{"})


def solutions_that_miss_their_answer(p: Plant) -> None:
    p.train[:] = [
        {**r, "answer": str(int(r["answer"]) + 1)} if i % 3 == 0 else r for i, r in enumerate(p.train)
    ]


def two_answers_to_one_problem(p: Plant) -> None:
    p.train.append(row(p.train[0]["prompt"], "77"))


def problems_alike(p: Plant) -> None:
    p.train += [{**r, "prompt": f" {r['prompt']} ."} for r in p.train[:4]]


def problem_of_the_test_set(p: Plant) -> None:
    p.train.append(p.test[3])


def too_few_problems(p: Plant) -> None:
    p.config["stages"][1]["problems_per_round"] = 500


def bfloat16_without_hardware(p: Plant) -> None:
    p.config["precision"] = {"training": "bfloat16"}
    p.machine = replace(AMPLE, bfloat16=False)


def four_bits_without_the_library(p: Plant) -> None:
    p.config["stages"][1]["lora"] = {"r": 4, "four_bit": True}
    p.machine = replace(AMPLE, four_bit=False)


def adapter_on_no_layer(p: Plant) -> None:
    p.config["stages"][1]["lora"] = {"r": 4, "target_modules": ["q_proj", "query_key_value"]}


def too_little_memory(p: Plant) -> None:
    p.machine = replace(AMPLE, free_memory=1e6)


def too_little_disk(p: Plant) -> None:
    p.machine = replace(AMPLE, free_disk=1e5)


def wandb_without_login(p: Plant) -> None:
    p.config["wandb"] = {"project": "p"}
    p.machine = replace(AMPLE, logged_in=False)


def old_library(p: Plant) -> None:
    p.machine = replace(AMPLE, outdated=("trl 0.9 is not <2,>=1.16",))


def out_is_a_file(p: Plant) -> None:
    (p.folder / "taken").write_text("")
    p.config["out"] = str(p.folder / "taken" / "run")


def isolation_that_is_not_there(p: Plant) -> None:
    import verifiers.sandbox.pool as pool

    p.train.append({"prompt": "write f", "verifier": "code", "reference": {"tests": ["assert f() == 1"]}})
    slot = pool.Slot("bare")
    tier = pool.isolation_of(slot).tier
    slot.end()
    if tier == "A":
        pytest.skip("this machine gives the highest isolation, so that none can be missing")
    p.config["min_isolation"] = "A"


def solved_always(p: Plant) -> None:
    p.train[:] = [r for r in TRAIN if r["answer"] == "5"]


def solved_never(p: Plant) -> None:
    p.train[:] = [r for r in TRAIN if r["answer"] == "9"]


def weights_that_are_no_numbers(p: Plant) -> None:
    folder = p.own_model()
    lm = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        lm.base_model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    lm.save_pretrained(folder)


def rotations_that_follow_the_length(p: Plant) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
    p.edit("config.json", rope_parameters=rope)


def reward_model_of_another_family(p: Plant) -> None:
    folder = p.folder / "prm"
    shutil.copytree(p.model, folder)
    train_tokenizer(["other words"] * 9, 300).save_pretrained(folder)
    p.config["stages"][1] |= {"prm": str(folder), "advantage": {"reward": {"prm_weight": 0.1}}}


def model_that_is_not_there(p: Plant) -> None:
    p.config["stages"][0]["model"] = str(p.folder / "nothing")


PLANTED = [
    (template_without_the_problem, "template", "error", "prompt.chat_template"),
    (chat_without_bos, "begin", "warning", "prompt.chat_template"),
    (bos_twice, "begin", "warning", "prompt.chat_template"),
    (end_of_text_out_of_range, "ends", "error", "stages.0.model"),
    (end_of_text_that_is_a_letter, "ends", "error", "stages.0.model"),
    (turns_without_an_end, "ends", "warning", "prompt.chat_template"),
    (stop_inside_solutions, "stops", "error", "prompt.stop"),
    (delimiter_that_no_token_ends, "delimiter", "warning", "prompt.delimiter"),
    (delimiter_that_solutions_lack, "delimiter", "warning", "prompt.delimiter"),
    (think_tags_in_pieces, "thinking", "warning", "prompt"),
    (tokens_without_embeddings, "vocabulary", "error", "stages.0.model"),
    (problem_longer_than_the_model, "lengths", "error", "stages.1.max_tokens"),
    (answers_cut_short, "lengths", "warning", "stages.1.max_tokens"),
    (unreadable_gold, "golds", "warning", "problems.train"),
    (solutions_that_miss_their_answer, "solutions", "warning", "problems.train"),
    (two_answers_to_one_problem, "duplicates", "warning", "problems.train"),
    (problems_alike, "duplicates", "warning", "problems.train"),
    (problem_of_the_test_set, "contamination", "warning", "problems.train"),
    (too_few_problems, "few", "warning", "stages.1.problems_per_round"),
    (bfloat16_without_hardware, "formats", "warning", "precision.training"),
    (four_bits_without_the_library, "four_bit", "error", "stages.1.lora.four_bit"),
    (adapter_on_no_layer, "adapters", "error", "stages.1.lora.target_modules"),
    (too_little_memory, "memory", "error", "stages.0"),
    (too_little_disk, "disk", "error", "out"),
    (wandb_without_login, "tracking", "warning", "wandb"),
    (old_library, "versions", "warning", ""),
    (out_is_a_file, "folder", "error", "out"),
    (isolation_that_is_not_there, "isolation", "error", "min_isolation"),
    (solved_always, "reach", "warning", "stages.1.problems"),
    (solved_never, "reach", "warning", "stages.1.problems"),
    (weights_that_are_no_numbers, "runs", "error", "stages.0.model"),
    (rotations_that_follow_the_length, "runs", "error", "stages.0.model"),
    (reward_model_of_another_family, "tokenizers", "error", "stages.1.prm"),
    (model_that_is_not_there, "references", "error", "stages.0.model"),
]


def test_a_config_without_faults_has_no_findings(plant):
    found = found_in(plant)
    assert [f for f in found if f.severity != "note"] == []
    (told,) = [f.text for f in found if f.check == "reach"]
    assert "8 are solved always and 8 never" in told


@pytest.mark.parametrize(
    ("fault", "check", "severity", "key"), PLANTED, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_planted_fault_is_found(plant, fault, check, severity, key):
    fault(plant)
    found = [f for f in found_in(plant) if f.severity != "note"]
    assert (check, severity, key) in [f[:3] for f in found], found
    assert all(f.remedy and "\n" not in f.text for f in found)
    if key:
        assert "line" in line_of(plant.folder / "run.yaml", key) or key.split(".")[0] not in plant.config


def test_every_check_is_in_the_table_of_faults():
    assert {check for _, check, _, _ in PLANTED} - {"reach"} == {*FREE, *DEAR}


def shipped() -> list[str]:
    return [n for n in names() if "smoke" in n or "demo" in n]


@pytest.mark.parametrize("name", shipped())
def test_nothing_is_found_in_what_is_shipped(name):
    """All of the demo's and the smoke configs; evaluate_demo needs the models of a finished demo, and says so."""
    case = Case(resolved(Path(name), []))
    case.machine = AMPLE  # type: ignore[misc]
    found = [f for f in examine(case).findings if f.severity != "note"]
    if "evaluate" in name:
        assert found and {f.check for f in found} <= {"references"}
    else:
        assert found == []


def test_nothing_is_found_in_gsm8k_with_a_local_model(shared_data, plant):
    data = f"problems.train.0.path={shared_data / 'gsm8k' / 'train.jsonl.gz'}"
    path = Path("configs/gsm8k/sft.yaml")
    config = resolved(path, [data, f"stages.0.model={plant.model}", "problems.train.0.size=500"])
    case = Case(config, path=path)
    case.machine = AMPLE  # type: ignore[misc]
    found = [f for f in examine(case).findings if f.severity != "note"]
    # the tokenizer of this small model writes letters byte by byte: longer than its 256 positions, and no other finding
    assert {f.check for f in found} <= {"lengths"}


@pytest.mark.real
def test_nothing_is_found_in_gsm8k_with_a_real_model(shared_data, real_model):
    for name in ("sft", "ppo"):
        overrides = [f"problems.train.0.path={shared_data / 'gsm8k' / 'train.jsonl.gz'}", f"stages.0.model={real_model}",
                     "prompt={chat: true}"]  # fmt: skip
        case = Case(resolved(Path(f"configs/gsm8k/{name}.yaml"), overrides))
        case.machine = AMPLE  # type: ignore[misc]
        assert [f for f in examine(case).findings if f.severity != "note"] == []


def test_the_command_says_where_and_what_to_do_and_ends_by_severity(plant):
    stop_inside_solutions(plant)
    path = plant.write()
    done = CliRunner().invoke(app, ["doctor", str(path), "stages.1.max_tokens=3"])
    lines = done.output.splitlines()
    assert done.exit_code == 2 and max(map(len, lines)) <= 80
    text = " ".join(line.strip() for line in lines)
    number = path.read_text().splitlines().index("  stop:") + 1
    assert f"error: prompt.stop ({path}, line {number}): answers end at '='" in text
    assert "stages.1.max_tokens (command line)" in text and "do: raise max_tokens" in text
    shown = json.loads(CliRunner().invoke(app, ["doctor", str(path), "--json"]).output)
    assert shown["findings"][0]["check"] == "stops" and shown["findings"][0]["line"].endswith(
        f"line {number}"
    )
    assert set(shown["seconds"]) == {*FREE, *DEAR} and sum(shown["seconds"].values()) < 120


def test_a_model_beside_its_data(plant):
    plant.write()
    data = str(plant.folder / "train.jsonl")
    done = CliRunner().invoke(app, ["doctor", str(plant.model), data, "--json"])
    assert done.exit_code in (0, 1), done.output  # asked as a chat, this model is never right
    assert {f["check"] for f in json.loads(done.output)["findings"]} <= {"reach"}
    from reasoner.registry import UserError

    with pytest.raises(UserError, match="expected one file of problems"):
        CliRunner().invoke(app, ["doctor", str(plant.model)], catch_exceptions=False)


def test_what_costs_nothing_is_told_at_the_start_of_a_run(plant, capfd):
    delimiter_that_solutions_lack(plant)
    plant.config["stages"] = [{**plant.config["stages"][0], "max_steps": 1}]
    path = plant.write()
    told = tell_quickly(resolved(path, []))
    assert any("none of 34 solutions has" in " ".join(line.split()) for line in told)
    done = CliRunner().invoke(app, ["train", str(path)])
    assert done.exit_code == 0, done.output
    assert "none of 34 solutions has" in " ".join(done.output.split()) + " ".join(
        capfd.readouterr().err.split()
    )


def test_an_examination_never_stops_a_run(monkeypatch):
    import reasoner.doctor.checks as checks

    def broken(case):
        raise RuntimeError("broken")

    monkeypatch.setitem(checks.FREE, "template", broken)
    config = {"problems": {}, "stages": [{"kind": "verify", "trees": "t", "model": "m"}], "out": "x"}
    assert tell_quickly(validate(RunConfig, config, "x")) == []


def test_exit_codes_and_lines(tmp_path):
    assert exit_code([]) == 0
    assert exit_code([Finding("a", "note", "", "", ""), Finding("a", "warning", "", "", "")]) == 1
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nstages:\n  - {kind: init}\n  - kind: ppo\n    lora: {r: 4}\n")
    assert line_of(path, "stages.1.lora.r") == f"{path}, line 5"
    assert line_of(path, "stages.0.max_tokens") == f"{path}, line 3"
    assert line_of(path, "nothing") == ""


def test_this_machine_is_asked(tmp_path):
    found = this_machine(tmp_path / "not" / "there")
    assert found.free_disk > 0 and found.free_memory > 0 and found.outdated == ()
