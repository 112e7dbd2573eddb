"""The stages that a run is made of: each reads files of earlier stages, calls one function and writes files of its own."""

from __future__ import annotations

from collections.abc import Callable

from reasoner.stages.complete import Complete, run_complete
from reasoner.stages.critiques import Critiques, run_critiques
from reasoner.stages.distill import Distill, run_distill
from reasoner.stages.dpo import DPO, run_dpo
from reasoner.stages.evaluate import Evaluate, run_evaluate
from reasoner.stages.import_labels import ImportLabels, run_import
from reasoner.stages.init import InitStage, run_init
from reasoner.stages.invent import Invent, run_invent
from reasoner.stages.keep import Keep, run_keep
from reasoner.stages.label import Label, run_label
from reasoner.stages.ppo import PPO, run_ppo
from reasoner.stages.reward_models import ORM, PRM, PairwiseORM, run_orm, run_pairwise, run_prm
from reasoner.stages.rollout import Rollout, run_rollout
from reasoner.stages.self_correction import SelfCorrection, run_self_correction
from reasoner.stages.sft import SFT, run_sft
from reasoner.stages.step_benchmarks import StepBenchmarks, run_step_benchmarks
from reasoner.stages.verify import Verify, run_verify

StageConfig = (
    InitStage | ImportLabels | SFT | Invent | Rollout | Verify | Complete | Label | Critiques | PRM | ORM | PairwiseORM
    | PPO | DPO | Distill | Evaluate | StepBenchmarks | SelfCorrection | Keep
)  # fmt: skip

STAGES: dict[str, Callable] = {
    "init": run_init,
    "import": run_import,
    "sft": run_sft,
    "invent": run_invent,
    "rollout": run_rollout,
    "verify": run_verify,
    "complete": run_complete,
    "label": run_label,
    "critiques": run_critiques,
    "prm": run_prm,
    "orm": run_orm,
    "pairwise": run_pairwise,
    "ppo": run_ppo,
    "dpo": run_dpo,
    "distill": run_distill,
    "keep": run_keep,
    "evaluate": run_evaluate,
    "step_benchmarks": run_step_benchmarks,
    "self_correction": run_self_correction,
}
TRAINERS = ("sft", "prm", "orm", "pairwise", "ppo", "dpo", "distill")
MAKERS = (*TRAINERS, "init", "keep")  # these write models
MEASURES = ("evaluate", "self_correction", "keep")  # what they measure on is not trained on
# shared out, and gone on with part by part
IN_PARTS = ("invent", "rollout", "verify", "complete", "label", "evaluate")
EVERYWHERE = (*TRAINERS, *IN_PARTS)  # these run on every process, the others on the first
