"""SFT, DPO, IPO and Step-DPO through TRL: the sampled ids and nothing else, and the losses that they start from."""

import math

import pytest
import torch
from safetensors.torch import load_file
from small_models import save_small_qwen
from trl import DPOTrainer, SFTTrainer

from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA
from reasoner.policy.models import load_model
from reasoner.records import PreferencePair, SFTExample
from reasoner.registry import UserError
from reasoner.trainers.dpo import DPOStage, train_dpo
from reasoner.trainers.loop import Session
from reasoner.trainers.pairwise import PairwiseStage, train_pairwise
from reasoner.trainers.sft import SFTStage, train_sft

PAIRS = [
    PreferencePair("p", "", "", "", [5, 6], [7, 8, 9], [10, 11], is_whole=False),
    PreferencePair("q", "", "", "", [5, 6, 7], [12], [13, 14], is_whole=False),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_small_qwen(tmp_path_factory.mktemp("base"), ["1 + 2 = 3\n"] * 9, 300))


def run(train, folder, data, config, out) -> list[dict]:
    lines, ledger = [], Ledger()
    with ledger.stage("x"):
        train(folder, data, config, Session(out, ledger, log=lambda metrics, step: lines.append(metrics)))
    return lines


def recorded(monkeypatch, trainer, method: str) -> list[dict]:
    """What the trainer's loss is given, taken down on the way."""
    seen, plain = [], getattr(trainer, method)

    def taking_down(self, model, inputs, *args, **options):
        seen.append({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
        return plain(self, model, inputs, *args, **options)

    monkeypatch.setattr(trainer, method, taking_down)
    return seen


def rows(batch) -> list[list[int]]:
    """The token ids of each row without padding."""
    return [
        ids[keep.bool()].tolist()
        for ids, keep in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize("lora", [None, LoRA(r=2, alpha=4)])
@pytest.mark.parametrize(("loss", "start"), [("sigmoid", math.log(2)), ("ipo", 25.0)])
def test_preference_losses_start_where_they_must(folder, tmp_path, loss, start, lora):
    config = DPOStage(loss=loss, beta=0.1, batch_size=2, epochs=1, lora=lora, trl={"logging_steps": 1})
    lines = run(train_dpo, folder, PAIRS, config, tmp_path)
    assert lines[0]["dpo/loss"] == pytest.approx(start, rel=1e-4)


def test_dpo_sees_the_sampled_ids_without_an_end_of_text(folder, tmp_path, monkeypatch):
    seen = recorded(monkeypatch, DPOTrainer, "_compute_loss")
    run(train_dpo, folder, PAIRS, DPOStage(batch_size=2), tmp_path)
    wanted = [[5, 6, 7, 8, 9], [5, 6, 7, 12], [5, 6, 10, 11], [5, 6, 7, 13, 14]]
    assert sorted(rows(seen[0])) == sorted(wanted)


def test_sft_learns_where_the_mask_says(folder, tmp_path, monkeypatch):
    seen = recorded(monkeypatch, SFTTrainer, "compute_loss")
    examples = [
        SFTExample("p", "", "", [5, 6], [7, 8, 9]),
        SFTExample("q", "", "", [5], [10, 11, 12], mask=[1, 0, 1]),
    ]
    run(train_sft, folder, examples, SFTStage(batch_size=2, max_steps=1), tmp_path)
    learned = [labels[labels != -100].tolist() for labels in seen[0]["labels"]]
    assert sorted(learned) == [[7, 8, 9], [10, 12]]
    assert sorted(rows(seen[0])) == [[5, 6, 7, 8, 9], [5, 10, 11, 12]]


def test_dpo_goes_on_from_an_adapter_and_saves_that_alone(folder, tmp_path):
    lora = LoRA(r=2, alpha=4)
    run(train_dpo, folder, PAIRS, DPOStage(batch_size=2, lora=lora), tmp_path / "a")
    adapter = tmp_path / "a/model"
    again = DPOStage(batch_size=2, trl={"logging_steps": 1})
    lines = run(train_dpo, str(adapter), PAIRS, again, tmp_path / "b")
    assert lines[0]["dpo/loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert not (tmp_path / "b/model/ref").exists()
    assert (tmp_path / "b/model/adapter_model.safetensors").is_file()


EXAMPLES = [SFTExample(str(i), "", "", [5, 6], [7, 8 + i, 0]) for i in range(4)]
TRAINERS = {
    "sft": (train_sft, SFTStage, EXAMPLES),
    "dpo": (train_dpo, DPOStage, PAIRS),
    "pairwise": (lambda *given: train_pairwise(*given, "x"), PairwiseStage, PAIRS * 2),
}


def test_demonstrations_beyond_the_model_s_positions_are_left_out_and_counted(folder, tmp_path):
    """Alone they are refused; among others, what is trained is what is trained without them."""
    long = SFTExample("long", "", "", [5] * 1000, [7] * 100)
    lines = run(train_sft, folder, [*EXAMPLES, long], SFTStage(batch_size=2), tmp_path / "a")
    assert lines[0] == {"sft/too_long": 1}
    run(train_sft, folder, EXAMPLES, SFTStage(batch_size=2), tmp_path / "b")
    a, b = weights_of(tmp_path / "a/model"), weights_of(tmp_path / "b/model")
    assert a and all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(UserError, match="all 1 demonstrations are longer than the 1024 positions"):
        run(train_sft, folder, [long], SFTStage(), tmp_path / "c")


def weights_of(model_folder) -> dict[str, torch.Tensor]:
    return {f"{p.name} {k}": v for p in model_folder.glob("*.safetensors") for k, v in load_file(p).items()}


@pytest.mark.parametrize("lora", [None, LoRA(r=2, alpha=4)], ids=["whole", "lora"])
@pytest.mark.parametrize("name", TRAINERS)
def test_recomputed_layers_are_honoured_and_change_nothing(folder, tmp_path, name, lora):
    train, stage, data = TRAINERS[name]
    found = []
    for recomputes in (False, True):
        trl = {"gradient_checkpointing": recomputes}
        config = stage(batch_size=2, epochs=2, lora=lora, optimizer={"lr": 0.01}, trl=trl)
        run(train, folder, data, config, tmp_path / str(recomputes))
        found.append(weights_of(tmp_path / str(recomputes) / "model"))
    start = load_model(folder).state_dict()
    assert found[0] and all((found[0][k] - found[1][k]).abs().max() < 1e-5 for k in found[0])
    if lora is None:
        assert any(
            (v - start[k.split()[1]]).abs().max() > 1e-3 for k, v in found[0].items() if k.split()[1] in start
        )


@pytest.mark.parametrize("name", TRAINERS)
def test_options_of_the_machine_may_be_set(folder, tmp_path, name):
    train, stage, data = TRAINERS[name]
    config = stage(batch_size=2, trl={"bf16": True, "use_cpu": True, "dataloader_pin_memory": False})
    run(train, folder, data, config, tmp_path)
    assert all(v.isfinite().all() for v in weights_of(tmp_path / "model").values())


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize(
    ("trl", "part"),
    [
        ({"gradient_chekpointing": True}, "gradient_checkpointing"),
        ({"bf16": True, "fp16": True, "use_cpu": True}, "At most one of fp16 and bf16"),
        ({"save_strategy": "often"}, "refused"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else None,
)
def test_options_that_do_not_fit_are_one_line(folder, tmp_path, name, trl, part):
    train, stage, data = TRAINERS[name]
    with pytest.raises(UserError, match=part) as caught:
        run(train, folder, data, stage(batch_size=2, trl=trl), tmp_path)
    assert "\n" not in str(caught.value) and "trl" in str(caught.value)
