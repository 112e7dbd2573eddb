"""What a plan says that training stages need, by their configs alone, against live tensor bytes while the stages train."""

import argparse
import gc
import random
from pathlib import Path

import pytest
from benchmarks.memory import LiveBytes, make_base
from transformers import AutoConfig

from reasoner.economics.hardware import Hardware
from reasoner.ledger import Ledger
from reasoner.planning.lengths import ProblemSet
from reasoner.planning.needs import need_of
from reasoner.planning.work import Work
from reasoner.policy.labelled import from_outcomes
from reasoner.records import OutcomeLabel, PreferencePair, SFTExample
from reasoner.stages.dpo import DPO
from reasoner.stages.reward_models import ORM, PairwiseORM
from reasoner.stages.sft import SFT
from reasoner.trainers.dpo import train_dpo
from reasoner.trainers.loop import Session
from reasoner.trainers.pairwise import train_pairwise
from reasoner.trainers.reward_model import train_reward_model
from reasoner.trainers.sft import train_sft

CPU = Hardware(memory_gb=64, bandwidth_gbs=1, tflops=1, dollars_per_hour=0, bits=32)
CLOSE = 0.15
PROMPT, SOLUTION, ROWS = 64, 64, 4
LORA = {"lora": {"r": 16, "alpha": 32}}
TRL = {"trl": {"gradient_checkpointing": True}}


def ids(number: int) -> list[int]:
    return [random.randrange(5, 250) for _ in range(number)]


def pairs(number: int) -> list[PreferencePair]:
    return [
        PreferencePair(str(i), "", "", "", ids(PROMPT), ids(SOLUTION), ids(SOLUTION)) for i in range(number)
    ]


def sft(base: str, more: dict, session: Session) -> tuple:
    stage = SFT.model_validate({"kind": "sft", "model": base, "batch_size": ROWS, "max_steps": 2, **more})
    shown = [SFTExample(str(i), "", "", ids(PROMPT), ids(SOLUTION)) for i in range(2 * ROWS)]
    return stage, lambda: train_sft(base, shown, stage, session)


def dpo(base: str, more: dict, session: Session) -> tuple:
    given = {"kind": "dpo", "model": base, "labels": "label", "batch_size": ROWS // 2, "epochs": 2}
    stage = DPO.model_validate(given | more)
    return stage, lambda: train_dpo(base, pairs(ROWS // 2), stage, session)


def orm(base: str, more: dict, session: Session) -> tuple:
    if "trl" in more:
        more = {"gradient_checkpointing": True, **{k: v for k, v in more.items() if k != "trl"}}
    given = {"kind": "orm", "model": base, "labels": "label", "batch_size": ROWS, "holdout": 0.3}
    stage = ORM.model_validate(given | more)
    labelled = [OutcomeLabel(str(i), "", "", i % 2 == 0, ids(PROMPT), ids(SOLUTION)) for i in range(3 * ROWS)]
    data = from_outcomes(labelled, 10**6)
    return stage, lambda: train_reward_model(base, data, stage, session, "orm")


def pairwise(base: str, more: dict, session: Session) -> tuple:
    given = {
        "kind": "pairwise",
        "model": base,
        "labels": "label",
        "batch_size": ROWS // 2,
        "epochs": 2,
        "holdout": 0.3,
    }
    stage = PairwiseORM.model_validate(given | more)
    return stage, lambda: train_pairwise(base, pairs(2 * ROWS), stage, session, "orm")


def check(base: str, make, more: dict, out: Path) -> None:
    ledger = Ledger()
    stage, train = make(base, more, Session(out, ledger))
    work = Work(sequence=float(PROMPT + SOLUTION))
    sets = ProblemSet(8, 8, PROMPT, PROMPT, SOLUTION)
    need = need_of(stage, AutoConfig.from_pretrained(base), sets, CPU, work)
    assert need is not None
    gc.collect()
    with LiveBytes() as live, ledger.stage("x"):
        train()
    gc.collect()
    told = f"{need.total / 2**20:.0f} MiB planned, {live.peak / 2**20:.0f} measured, {need.total / live.peak - 1:+.1%}"
    print(f"{make.__name__} {more or 'full'}: {told}")
    assert need.total == pytest.approx(live.peak, rel=CLOSE), told


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("needs") / "base"
    make_base(folder, argparse.Namespace(layers=3, width=384, vocab=2048))
    return str(folder)


SLOW = pytest.mark.slow
WAYS = [
    (sft, {}),
    (orm, LORA | TRL),
    *(pytest.param(make, more, marks=SLOW) for make in (dpo, pairwise) for more in ({}, LORA, TRL)),
    *(
        pytest.param(make, more, marks=SLOW)
        for make, more in ((sft, LORA), (sft, TRL), (orm, {}), (orm, LORA))
    ),
]


def named(value) -> str:
    return getattr(value, "__name__", None) or "-".join(value) or "full"


@pytest.mark.parametrize(("make", "more"), WAYS, ids=named)
def test_stages_of_a_small_model_need_what_is_planned(small, make, more, tmp_path):
    check(small, make, more, tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("more", [{}, TRL, LORA, LORA | TRL], ids=named)
@pytest.mark.parametrize("make", [sft, dpo, orm, pairwise], ids=named)
def test_stages_of_a_real_model_need_what_is_planned(real_model, make, more, tmp_path):
    check(real_model, make, more, tmp_path)
