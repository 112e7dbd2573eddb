"""The stages that a run is made of: each reads files of earlier stages, calls one function and writes files of its own.

A stage's models go to models/<stage>, its trees to trees/<stage>, its records to records/<stage>/<kind>.
A stage that needs an earlier one's output names that stage; a model may also be a folder or a hub name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from reasoner.config import Config
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.data.sources import Item, SourceConfig, load_items
from reasoner.evals.reward_quality import calibration_curve
from reasoner.evals.rows import to_json
from reasoner.evals.run import RewardModels, Subject, calibrated_threshold, measure
from reasoner.policy.adapters import load_merged
from reasoner.policy.engine import Sampling
from reasoner.policy.heads import ScoreNet
from reasoner.policy.local import LocalEngine
from reasoner.policy.models import TinyModel, load_tokenizer, make_tiny
from reasoner.records import OutcomeLabel, SFTExample, StepLabels
from reasoner.registry import UserError
from reasoner.scoring.aggregate import AGGREGATES, BY_LABEL_KIND
from reasoner.scoring.outcome import judge
from reasoner.scoring.prm import score_steps
from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.grow import Growth, grow
from reasoner.signals.outcome_labels import outcome_labels
from reasoner.signals.pairs import PairConfig, sibling_pairs
from reasoner.signals.step_labels import KINDS, StepLabelConfig, step_labels
from reasoner.store import read_records, read_trees, write_json, write_records, write_text, write_trees
from reasoner.trainers.dpo import DPOStage, train_dpo
from reasoner.trainers.loop import Session
from reasoner.trainers.policy_gradient import PolicyGradientStage, train_policy
from reasoner.trainers.reward_model import RewardModelStage, from_outcome, from_steps, train_reward_model
from reasoner.trainers.sft import SFTStage, train_sft
from reasoner.tree import Tree


@dataclass
class Context:
    """What stages share: the run's folder, its problem sets, how to prompt, and the session of the present stage."""

    out: Path
    problems: dict[str, list[SourceConfig]]
    prompt: PromptConfig
    session: Session

    def items(self, names: list[str]) -> list[Item]:
        """The items of the named sets, distinct by prompt, without any whose prompt is in a set called test."""
        held = (
            {i.problem.prompt for i in self._set("test")}
            if "test" in self.problems and "test" not in names
            else set()
        )
        distinct = {
            i.problem.prompt: i for name in names for i in self._set(name) if i.problem.prompt not in held
        }
        if not distinct:
            raise UserError(
                f"the problem sets {', '.join(names)} are empty once test problems are left out; expected at least one"
            )
        return list(distinct.values())

    def _set(self, name: str) -> list[Item]:
        if name not in self.problems:
            raise UserError(
                f"problem set {name!r} is not there; expected one of {', '.join(self.problems) or 'none'}"
            )
        return [item for source in self.problems[name] for item in load_items(source)]

    def model(self, name: str) -> str:
        """The folder of a stage's model, or the name itself: a folder or a hub name."""
        folder = self.out / "models" / name
        return str(folder / "model") if (folder / "model").is_dir() else name

    def prompting(self, model: str) -> Prompting:
        return Prompting(load_tokenizer(self.model(model)), self.prompt)

    def trees(self, stage: str) -> list[Tree]:
        return list(read_trees(self.out / "trees" / stage))


class InitStage(TinyModel):
    """Make a small random model and a tokenizer from the demonstrations."""

    kind: Literal["init"]
    name: str = "base"
    problems: list[str] = Field(
        ["demonstrations"], description="problem sets whose text the tokenizer learns"
    )


def run_init(config: InitStage, context: Context) -> None:
    prompt = context.prompt.template
    items = context.items(config.problems)
    texts = [prompt.replace("{prompt}", i.problem.prompt) + (i.solution or "") for i in items]
    make_tiny(config, texts, context.session.out / "model")


class SFT(SFTStage):
    """Supervised fine-tuning on the worked solutions of problem sets."""

    kind: Literal["sft"]
    name: str = "sft"
    model: str = Field(description="stage, folder or hub name to start from")
    problems: list[str] = Field(["demonstrations"], description="problem sets with solutions")
    seconds_of: list[str] = Field([], description="train for as many seconds as these stages took together")


def _examples(names: list[str], context: Context, prompting: Prompting) -> list[SFTExample]:
    return [
        SFTExample(
            i.problem.id, i.problem.prompt, i.solution, prompting.prompt_ids(i.problem.prompt),
            prompting.completion_ids(i.solution), i.problem.source, i.problem.licence,
        )
        for i in context.items(names)
        if i.solution
    ]  # fmt: skip


def run_sft(config: SFT, context: Context) -> None:
    if config.seconds_of:
        seconds = context.session.ledger.seconds
        missing = [s for s in config.seconds_of if s not in seconds]
        if missing:
            raise UserError(
                f"seconds_of names {', '.join(missing)}, which did not run before; expected earlier stages"
            )
        config = config.model_copy(update={"max_seconds": sum(seconds[s] for s in config.seconds_of)})
    examples = _examples(config.problems, context, context.prompting(config.model))
    train_sft(context.model(config.model), examples, config, context.session)


class Rollout(Config):
    """Grow trees of chains of thought."""

    kind: Literal["rollout"]
    name: str = "rollout"
    model: str = Field(description="stage, folder or hub name of the policy")
    problems: list[str] = Field(["train"], description="problem sets")
    num_problems: int = Field(1000, ge=1, description="most problems to roll out")
    tree: BranchConfig = BranchConfig(where="every_step", num_points=3, num_children=4)
    max_tokens: int = Field(256, ge=1, description="longest completion")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    num_slots: int = Field(256, ge=1, description="sequences decoded at once")


def _engine(model: str, context: Context, longest: int, num_slots: int) -> LocalEngine:
    prompting = context.prompting(model)
    lm = load_merged(context.model(model))
    lm.to("cuda" if torch.cuda.is_available() else "cpu")
    return LocalEngine(lm, [prompting.eos_id], num_slots, longest, ledger=context.session.ledger)


def run_rollout(config: Rollout, context: Context) -> None:
    prompting = context.prompting(config.model)
    # another order than on-policy training has, so that reward models also learn problems which it meets late
    problems = _shuffled(context.items(config.problems), context.session.seed + 1)[: config.num_problems]
    trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems]
    longest = max(len(t.nodes[0].token_ids) for t in trees) + config.max_tokens
    growth = Growth(
        prompting.mark_steps, config.max_tokens, Sampling(config.temperature), context.session.seed
    )
    grow(trees, _engine(config.model, context, longest, config.num_slots), tree_of(config.tree), growth,
         lambda done: context.session.progress(done, len(trees), ""))  # fmt: skip
    context.session.ledger.add("policy", trajectories_generated=sum(len(t.leaves()) for t in trees))
    write_trees(context.out / "trees" / config.name, trees)


class Verify(Config):
    """Judge every trajectory by its problem's verifier."""

    kind: Literal["verify"]
    name: str = "verify"
    trees: str = Field("rollout", description="stage whose trees are judged")
    model: str = Field(description="model whose tokenizer reads them")


def run_verify(config: Verify, context: Context) -> None:
    trees = context.trees(config.trees)
    total = sum(len(t.leaves()) for t in trees)
    statuses = judge(
        trees, context.prompting(config.model).decode, lambda done: context.session.progress(done, total, "")
    )
    context.session.ledger.add("verifier", verifications=total)
    context.session.log({f"verify/{status}": n for status, n in statuses.items()}, 0)
    write_trees(context.out / "trees" / config.name, trees)


class Label(Config):
    """Turn trees into step labels (hard and soft), outcome labels and preference pairs."""

    kind: Literal["label"]
    name: str = "label"
    trees: str = Field("verify", description="stage whose judged trees are labelled")
    model: str = Field(description="model whose tokenizer reads them")
    min_continuations: int = Field(1, ge=1, description="states with fewer judged continuations get no label")
    pairs: PairConfig = PairConfig()


def run_label(config: Label, context: Context) -> None:
    trees, decode = context.trees(config.trees), context.prompting(config.model).decode
    folder = context.out / "records" / config.name
    made = {}
    for kind in KINDS:
        labels = StepLabelConfig(kind=kind, min_continuations=config.min_continuations)
        made[kind] = write_records(folder / kind, step_labels(trees, labels, decode))
    made["outcome"] = write_records(folder / "outcome", outcome_labels(trees, decode))
    pairs = list(sibling_pairs(trees, config.pairs, decode))
    if pairs:
        made["pairs"] = write_records(folder / "pairs", pairs)
    kept = sum(any(v.status == "correct" for v in t.verdicts.values()) for t in trees)
    context.session.log(
        {"label/problems_solved_sometimes": kept, **{f"label/{k}": n for k, n in made.items()}}, 0
    )
    context.session.ledger.add("policy", trajectories_kept=made["outcome"])


class PRM(RewardModelStage):
    """Train a process reward model on step labels."""

    kind: Literal["prm"]
    name: str = "prm"
    model: str = Field(description="stage, folder or hub name to start from")
    labels: str = Field("label", description="stage whose step labels are learned")
    label_kind: Literal["hard", "soft"] = Field("soft", description="which Monte-Carlo labels")


def run_prm(config: PRM, context: Context) -> None:
    records = read_records(context.out / "records" / config.labels / config.label_kind, StepLabels)
    data = [d for d in map(from_steps, records) if d]
    train_reward_model(context.model(config.model), data, config, context.session, "prm")


class ORM(RewardModelStage):
    """Train an outcome reward model on verdicts."""

    kind: Literal["orm"]
    name: str = "orm"
    model: str = Field(description="stage, folder or hub name to start from")
    labels: str = Field("label", description="stage whose outcome labels are learned")


def run_orm(config: ORM, context: Context) -> None:
    records = read_records(context.out / "records" / config.labels / "outcome", OutcomeLabel)
    data = [d for d in map(from_outcome, records) if d]
    train_reward_model(context.model(config.model), data, config, context.session, "orm")


class PPO(PolicyGradientStage):
    """Step-level PPO (or another on-policy method) on fresh trees."""

    kind: Literal["ppo"]
    name: str = "ppo"
    model: str = Field(description="stage, folder or hub name to start from")
    problems: list[str] = Field(["train"], description="problem sets")
    critic: str | None = Field(None, description="stage whose reward model the critic starts from")
    prm: str | None = Field(None, description="stage of the PRM that enters the reward")
    demonstrations: list[str] = Field([], description="problem sets imitated beside, with ptx_weight")


def run_ppo(config: PPO, context: Context) -> None:
    prompting = context.prompting(config.model)
    shown = _examples(config.demonstrations, context, prompting) if config.ptx_weight else []
    if config.ptx_weight and not shown:
        raise UserError(
            "ptx_weight is set but demonstrations names no problem set with solutions; expected one, or ptx_weight=0"
        )
    train_policy(
        context.model(config.model), prompting, _shuffled(context.items(config.problems), context.session.seed), config,
        context.session, config.critic and context.model(config.critic), config.prm and context.model(config.prm), shown,
    )  # fmt: skip


def _shuffled(items: list[Item], seed: int):
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    return [items[i].problem for i in order]


class DPO(DPOStage):
    """DPO on sibling pairs from the trees."""

    kind: Literal["dpo"]
    name: str = "dpo"
    model: str = Field(description="stage, folder or hub name to start from")
    labels: str = Field("label", description="stage whose preference pairs are learned")


def run_dpo(config: DPO, context: Context) -> None:
    from reasoner.records import PreferencePair

    pairs = list(read_records(context.out / "records" / config.labels / "pairs", PreferencePair))
    train_dpo(context.model(config.model), pairs, config, context.session)


class Evaluate(Config):
    """Measure policies on held-out problems."""

    kind: Literal["evaluate"]
    name: str = "evaluate"
    policies: list[str] = Field(description="stages to measure, in the order of training")
    sampled: list[str] = Field([], description="of these, the ones that are also sampled and ranked")
    problems: list[str] = Field(["test"], description="problem sets")
    num_samples: int = Field(8, ge=1, description="answers per problem for sampled policies")
    max_tokens: int = Field(256, ge=1, description="longest completion")
    prm: str | None = Field(None, description="stage of the PRM that ranks answers")
    orm: str | None = Field(None, description="stage of the ORM that ranks answers")
    aggregate: str | None = Field(
        None, description="from step scores to one score; by default fits Monte-Carlo labels"
    )
    calibrate_on: str | None = Field(
        None, description="stage whose judged trees set the PRM's error threshold"
    )
    num_slots: int = Field(256, ge=1, description="sequences decoded at once")


def run_evaluate(config: Evaluate, context: Context) -> None:
    problems = [i.problem for i in context.items(config.problems)]
    prompting = context.prompting(config.policies[0])
    longest = max(len(prompting.prompt_ids(p.prompt)) for p in problems) + config.max_tokens
    aggregate = config.aggregate or BY_LABEL_KIND["soft"]
    if aggregate not in AGGREGATES:
        raise UserError(f"aggregate is {aggregate!r}; expected one of {', '.join(AGGREGATES)}")
    models = RewardModels(
        ScoreNet.load(Path(context.model(config.prm))).eval() if config.prm else None,
        ScoreNet.load(Path(context.model(config.orm))).eval() if config.orm else None,
        aggregate,
    )
    if models.prm is not None and config.calibrate_on:
        trees = context.trees(config.calibrate_on)[:300]
        score_steps(models.prm, trees, "prm")
        models = replace(models, threshold=calibrated_threshold(trees, prompting))
    rows, samples = [], []
    for i, policy in enumerate(config.policies):
        num = config.num_samples if policy in config.sampled else 0
        subject = Subject(policy, _engine(policy, context, longest, config.num_slots), num)

        def progress(done: int, total: int, note: str, i: int = i) -> None:
            context.session.progress(i * total + done, total * len(config.policies), note)

        seed = context.session.seed + 10**6  # far from the seeds of training
        found = measure(subject, problems, prompting, models, config.max_tokens, seed, config.name, progress)
        rows += found.rows
        samples += found.samples[:6]
        if found.step_scores:
            scores, labels = zip(*found.step_scores, strict=True)
            curve = [p._asdict() for p in calibration_curve(scores, labels)]
            context.session.log({"method": "prm", "when": policy, "calibration": curve}, i)
    write_text(context.session.out / "rows.json", to_json(rows))
    write_json(context.session.out / "samples.json", samples)


StageConfig = InitStage | SFT | Rollout | Verify | Label | PRM | ORM | PPO | DPO | Evaluate

STAGES: dict[str, Callable] = {
    "init": run_init,
    "sft": run_sft,
    "rollout": run_rollout,
    "verify": run_verify,
    "label": run_label,
    "prm": run_prm,
    "orm": run_orm,
    "ppo": run_ppo,
    "dpo": run_dpo,
    "evaluate": run_evaluate,
}
TRAINERS = ("sft", "prm", "orm", "ppo", "dpo")  # these run on every process, the others on the first


def clear(name: str, out: Path) -> None:
    """Remove what an interrupted stage left behind."""
    for kind in ("models", "trees", "records"):
        shutil.rmtree(out / kind / name, ignore_errors=True)
