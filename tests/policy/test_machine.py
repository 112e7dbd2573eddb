"""Number formats: what is trained is float32, the rest what the machine is fast in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import save_small_qwen

from reasoner.ledger import Ledger
from reasoner.policy import machine
from reasoner.policy.labelled import from_steps
from reasoner.policy.machine import Precision, autocasts, inference_dtype, use
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.records import PreferencePair, SFTExample, StepLabels
from reasoner.trainers.dpo import DPOStage, train_dpo
from reasoner.trainers.loop import OptimizerConfig, Session, _Muon, _orthogonal
from reasoner.trainers.reward_model import RewardModelStage, train_reward_model
from reasoner.trainers.sft import SFTStage, train_sft
from tests import warm

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = [SFTExample(str(i), "", "", [5 + i, 6], [7, 8 + i, 9]) for i in range(8)]
PAIRS = [PreferencePair(str(i), "", "", "", [5 + i], [7, 8], [9, 10]) for i in range(8)]
STEPS = [StepLabels(str(i), "", [], [1.0, float(i % 2)], [5 + i, 6], [7, 8 + i, 9], [0, 2]) for i in range(8)]


@pytest.fixture
def plain():
    """The machine's own choice again afterwards."""
    yield
    use(Precision.model_validate({}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """The same weights, saved in float32 and in bfloat16."""
    base = tmp_path_factory.mktemp("base")
    lm = load_model(str(save_small_qwen(base / "start", ["1 + 2 = 3\n"] * 9, 300)), torch.float32)
    tokenizer = load_tokenizer(str(base / "start"))
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        save(lm.to(torch.bfloat16).to(dtype), tokenizer, base / name)
    return {name: str(base / name) for name in ("bfloat16", "float32")}


def sft(folder: str, session: Session) -> None:
    train_sft(folder, EXAMPLES, SFTStage(batch_size=8, max_steps=10), session)


def dpo(folder: str, session: Session) -> None:
    train_dpo(folder, PAIRS, DPOStage(batch_size=8, trl={"max_steps": 10}), session)


def prm(folder: str, session: Session) -> None:
    config = RewardModelStage(batch_size=8, epochs=10, holdout=0.0)
    train_reward_model(folder, from_steps(STEPS, 1000), config, session, "prm")


@pytest.mark.parametrize("train", [sft, dpo, prm])
def test_a_bfloat16_checkpoint_moves_like_a_float32_one(folders, tmp_path, train):
    """At the default rate: with weights in bfloat16 nearly none of them moves at all."""
    trained = {}
    for name, folder in folders.items():
        session = Session(tmp_path / name, Ledger())
        with session.ledger.stage("x"):
            train(folder, session)
        trained[name] = load_file(tmp_path / name / "model/model.safetensors")
    before = load_file(Path(folders["float32"]) / "model.safetensors")
    moved = [
        (trained["bfloat16"][k] != before[k]).float().mean().item()
        for k in before
        if "layers" in k and before[k].ndim > 1
    ]
    assert all(w.dtype == torch.float32 for w in trained["bfloat16"].values())
    assert min(moved) > 0.9
    assert all(torch.allclose(trained["bfloat16"][k], trained["float32"][k], atol=1e-7) for k in before)


@pytest.mark.parametrize(
    ("cpu", "hardware", "saved", "expected"),
    [
        (True, False, torch.bfloat16, torch.float32),
        (True, False, torch.float16, torch.float32),
        (True, True, torch.bfloat16, torch.bfloat16),
        (True, True, torch.float32, torch.float32),
        (True, True, None, torch.float32),
        (False, True, torch.float32, torch.bfloat16),
        (False, True, torch.float16, torch.bfloat16),
        (False, False, torch.bfloat16, torch.float32),
    ],
)
def test_what_is_not_trained_takes_what_the_machine_is_fast_in(
    monkeypatch, plain, cpu, hardware, saved, expected
):
    monkeypatch.setattr(machine, "on_cpu", lambda: cpu)
    monkeypatch.setattr(machine, "has_bfloat16", lambda: hardware)
    assert inference_dtype(saved) == expected
    assert autocasts() == (not cpu and hardware)
    use(Precision(training="float32", inference="float16"))
    assert inference_dtype(saved) == torch.float16 and not autocasts()


def test_a_published_bfloat16_model_is_float32_where_bfloat16_is_slow(monkeypatch, folders):
    monkeypatch.setattr(machine, "has_bfloat16", lambda: False)
    assert load_model(folders["bfloat16"]).dtype == torch.float32
    assert load_model(folders["bfloat16"], "auto").dtype == torch.bfloat16


def test_bfloat16_products_train_float32_weights(tmp_path):
    """Each in a process of its own: accelerate settles the format once."""
    weights = {}
    for training in ("bfloat16", "float32"):
        done = warm.reasoner(
            "train", "configs/smoke/ppo.yaml", "stages.1.rounds=2", f"out={tmp_path / training}",
            f"precision.training={training}", cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        said = (
            "training: float32" if training == "float32" else "training: bfloat16 products on float32 weights"
        )
        assert done.stderr.count(said) == 1
        weights[training] = load_file(tmp_path / training / "models/ppo/model/model.safetensors")
    before = load_file(tmp_path / "float32/models/base/model/model.safetensors")
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights["bfloat16"].values())
    assert max((weights["bfloat16"][k] - before[k]).abs().max().item() for k in before) > 5e-4
    assert any((weights["bfloat16"][k] != weights["float32"][k]).any() for k in before)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_muon_on_a_cpu_is_torchs_without_bfloat16(shape):
    """Also in momentum, weight decay and rate; torch's own differs by the rounding of bfloat16."""
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    results = []
    for kind in (_Muon, torch.optim.Muon):
        p = torch.nn.Parameter(start.clone())
        optimizer = kind([p], lr=0.02, weight_decay=0.1)
        for gradient in gradients:
            p.grad = gradient.clone()
            optimizer.step()
        results.append(p.detach())
    assert (results[0] - results[1]).abs().max() < 2e-3 < (results[0] - start).abs().max()
    group = torch.optim.Muon([torch.nn.Parameter(start)]).param_groups[0]
    found = _orthogonal(gradients[0], group["ns_coefficients"], group["ns_steps"], group["eps"])
    assert found.dtype == torch.float32
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.5 and singular.max() < 1.3


def test_the_rate_of_an_optimizer_is_its_default():
    assert OptimizerConfig().lr == 1e-5  # what the first test trains at
