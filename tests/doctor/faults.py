"""Twenty and more faults, to be planted one at a time into a config without any."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from reasoner.data.ways import Variant
from reasoner.doctor.machine import Machine
from reasoner.policy.models import train_tokenizer

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


def some_answers_cut_short(p: Plant) -> None:
    """Four of 28 solutions, of 25 tokens and more."""
    p.train += [
        {**row(f"{i}+1", str(i + 1)), "solution": f"{i}+1" + "+0" * 40 + f"={i + 1}\n#### {i + 1}"}
        for i in range(30, 34)
    ]


def demonstrations_longer_than_the_model(p: Plant) -> None:
    p.train.append({**row("7+1", "8"), "solution": "7+1=8\n" * 100 + "#### 8"})


def demonstrations_cut(p: Plant) -> None:
    p.config["stages"][0]["trl"] = {"max_length": 9}


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


def shouted(old, olds, rng) -> Variant:
    """A way that makes nothing new."""
    return Variant(f"{old.question} .", old.solution, old.solution.rpartition("#### ")[2], 1)


def old_problems_for_new_ones(p: Plant) -> None:
    p.config["problems"]["train"].append(
        {"name": "varied_arithmetic", "of": 20, "size": 20, "families": {"chain_sum": {}}, "ways": {f"{__name__}:shouted": 1}}
    )  # fmt: skip


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
    (some_answers_cut_short, "lengths", "warning", "stages.1.max_tokens"),
    (demonstrations_longer_than_the_model, "lengths", "warning", "stages.0.problems"),
    (demonstrations_cut, "lengths", "warning", "stages.0.trl.max_length"),
    (unreadable_gold, "golds", "warning", "problems.train"),
    (solutions_that_miss_their_answer, "solutions", "warning", "problems.train"),
    (two_answers_to_one_problem, "duplicates", "warning", "problems.train"),
    (problems_alike, "duplicates", "warning", "problems.train"),
    (problem_of_the_test_set, "contamination", "warning", "problems.train"),
    (old_problems_for_new_ones, "new_from_old", "warning", "problems.train"),
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
