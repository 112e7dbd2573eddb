"""Stored trees under other rewards and advantages, compared with the run's own, and nothing generated.

For each variant of the advantage options: how its advantages and returns relate to the run's own, and the
cosine between the policy gradients that the two would give at the policy which grew the trees.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from reasoner.config import apply_overrides, validate
from reasoner.policy.adapters import load_merged
from reasoner.policy.heads import PolicyNet, ScoreNet
from reasoner.policy.machine import own_device
from reasoner.policy.packing import batches, pack
from reasoner.records import PolicySample
from reasoner.registry import UserError, lookup
from reasoner.signals.advantages import ADVANTAGES, CRITIC
from reasoner.signals.backup import mean_outcomes
from reasoner.signals.credit import AdvantageConfig
from reasoner.signals.reward import RewardConfig, return_range
from reasoner.store import read_trees
from reasoner.trainers.policy_batch import STATES, score_states
from reasoner.tree import Tree


@dataclass(frozen=True)
class Comparison:
    """One variant against the run's own, over the tokens that both train on (weighted by the product of their weights)."""

    variant: str
    mean: float  # of the advantages, weighted
    deviation: float
    correlation: float
    same_sign: float  # share of the tokens that both raise or both lower
    return_gap: float | None  # mean absolute difference of the critic's targets; None without common states
    gradient_norm: float
    gradient_cosine: float


def compare_variants(
    run: Path, variants: Sequence[str], stage: str = "", num_trees: int = 128, tokens_per_batch: int = 4096
) -> list[Comparison]:
    """The run's own advantage options first, then each variant: overrides joined by commas, "method=grpo,gamma=0.9".

    `stage` names the judged trees, by default the run's last verify stage. Reward models that a variant needs
    are the run's; where it has no critic, the mean outcome below a state stands for its value.
    """
    config = _run_config(run)
    stage = stage or _last(config, "verify", "name", run)
    trees = list(read_trees(run / "trees" / stage))[:num_trees]
    trees = [
        t
        for t in trees
        if len({v.status == "correct" for v in t.verdicts.values() if v.status != "error"}) > 1
    ]
    if not trees:
        raise UserError(
            f"{run} has no tree in {stage} with right and wrong answers; expected some, try another stage"
        )
    own = next((s.get("advantage", {}) for s in config["stages"] if s["kind"] == "ppo"), {})
    options = {"own": validate(AdvantageConfig, own, "advantage")}
    for variant in variants:
        raw = apply_overrides(json.loads(json.dumps(own)), variant.split(","))
        options[variant] = validate(AdvantageConfig, raw, variant)
    device = own_device()
    _score(trees, list(options.values()), config, run, device, tokens_per_batch)
    samples = {
        name: [lookup(ADVANTAGES, o.method, "advantage method")(t, o) for t in trees]
        for name, o in options.items()
    }
    policy = (
        load_merged(_model(run, _last(config, "rollout", "model", run)), torch.float32)
        .to(device)
        .requires_grad_(True)
    )
    gradients = surrogate_gradients(PolicyNet(policy), list(samples.values()), tokens_per_batch)
    return [
        _compare(name, samples[name], samples["own"], gradient, gradients[0])
        for name, gradient in zip(samples, gradients, strict=True)
    ]


def surrogate_gradients(
    net: PolicyNet, variants: Sequence[Sequence[PolicySample]], tokens_per_batch: int
) -> list[torch.Tensor]:
    """Per variant, the gradient of Σ weight · A · log p / Σ weight over its samples, in one forward pass a batch."""
    weights = [p for p in net.parameters() if p.requires_grad]
    totals = [sum(float(w.sum()) for s in samples for w in s.weights.values()) or 1.0 for samples in variants]
    found = [torch.zeros(sum(p.numel() for p in weights)) for _ in variants]
    trees = [s.tree for s in variants[0]]
    for numbers in batches(trees, tokens_per_batch):
        packed = pack([trees[t] for t in numbers], weights[0].device)
        logprobs_N, _ = net(
            packed.ids_BT, packed.positions_BT, packed.tour_B2T, packed.source_N, packed.target_N
        )
        for v, samples in enumerate(variants):
            of_batch = [samples[t] for t in numbers]
            pull_N = packed.flat([s.advantages for s in of_batch]) * packed.flat(
                [s.weights for s in of_batch]
            )
            parts = torch.autograd.grad(
                (pull_N * logprobs_N).sum() / totals[v],
                weights,
                retain_graph=v + 1 < len(variants),
                allow_unused=True,
            )
            found[v] += torch.cat([
                (torch.zeros_like(p) if g is None else g).flatten().float().cpu() for p, g in zip(weights, parts, strict=True)
            ])  # fmt: skip
    return found


def comparison_table(rows: Sequence[Comparison]) -> Table:
    """One line a variant, whose name folds where a terminal of 80 columns has no room for it; numbers never do."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("variant", overflow="fold")
    for head in ("mean A", "std A", "corr.", "same\nsign", "return\ngap", "|grad|", "cosine"):
        table.add_column(head, justify="right", no_wrap=True)
    for r in rows:
        gap = "–" if r.return_gap is None else f"{r.return_gap:.3f}"
        table.add_row(
            Text(r.variant), f"{r.mean:.3f}", f"{r.deviation:.3f}", f"{r.correlation:.3f}", f"{100 * r.same_sign:.0f} %", gap,
            f"{r.gradient_norm:.3g}", f"{r.gradient_cosine:.3f}",
        )  # fmt: skip
    return table


def comparison_json(rows: Sequence[Comparison]) -> str:
    return json.dumps([asdict(r) for r in rows], indent=2)


def _compare(
    name: str, samples: Sequence[PolicySample], own: Sequence[PolicySample], gradient: torch.Tensor, reference: torch.Tensor
) -> Comparison:  # fmt: skip
    a, w = _flat(samples)
    b, u = _flat(own)
    mean, deviation = _moments(a, w)
    both = w * u
    mean_a, deviation_a = _moments(a, both)
    mean_b, deviation_b = _moments(b, both)
    mass = max(both.sum(), 1e-12)
    covariance = float((both * (a - mean_a) * (b - mean_b)).sum() / mass)
    targets = [
        {(i, t.node, t.offset): t.value for i, s in enumerate(x) for t in s.targets} for x in (samples, own)
    ]
    gaps = [abs(targets[0][k] - targets[1][k]) for k in targets[0].keys() & targets[1].keys()]
    norms = float(gradient.double().norm()), float(reference.double().norm())
    return Comparison(
        variant=name,
        mean=mean,
        deviation=deviation,
        correlation=covariance / max(deviation_a * deviation_b, 1e-12),
        same_sign=float((both * (_sign(a) == _sign(b))).sum() / mass),
        return_gap=float(np.mean(gaps)) if gaps else None,
        gradient_norm=norms[0],
        gradient_cosine=float(gradient.double() @ reference.double()) / max(norms[0] * norms[1], 1e-12),
    )


def _flat(samples: Sequence[PolicySample]) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and weights of all tokens, in the order of trees, nodes and tokens."""
    places = [(s, i) for s in samples for i in range(1, len(s.tree.nodes))]
    return tuple(
        np.concatenate([getattr(s, what)[i] for s, i in places]) for what in ("advantages", "weights")
    )  # type: ignore[return-value]


def _sign(a: np.ndarray) -> np.ndarray:
    return np.sign(np.where(np.abs(a) < 1e-9, 0, a))  # what cancels leaves rounding behind


def _moments(a: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    mass = max(w.sum(), 1e-12)
    mean = float((w * a).sum() / mass)
    return mean, float(((w * (a - mean) ** 2).sum() / mass) ** 0.5)


def _score(
    trees: list[Tree], options: list[AdvantageConfig], config: dict[str, Any], run: Path, device, tokens_per_batch: int
) -> None:  # fmt: skip
    """Give the trees the scores that the variants read."""
    for kind, weight in (("prm", "prm_weight"), ("orm", "orm_weight")):
        if any(getattr(o.reward, weight) for o in options):
            net = ScoreNet.load(Path(_model(run, _last(config, kind, "name", run)))).to(device).eval()
            score_states(net, trees, kind, tokens_per_batch)
    for name in {CRITIC[o.method] for o in options if o.method in CRITIC}:
        stage = next((s for s in reversed(config["stages"]) if s["kind"] == "ppo"), None)
        folder = run / "models" / stage["name"] / "critic" if stage else None
        if stage is not None and folder is not None and folder.is_dir() and name == "value":
            bounds = return_range(RewardConfig.model_validate(stage["advantage"]["reward"]))
            score_states(ScoreNet.load(folder).to(device).eval(), trees, name, tokens_per_batch, bounds)
        else:
            for tree in trees:
                _mean_outcome_values(tree, name)


def _mean_outcome_values(tree: Tree, name: str) -> None:
    means = mean_outcomes(tree)
    known = np.concatenate(means)
    fallback = float(np.nanmean(known))
    scores: dict[int, list[float]] = {}
    for node, offset in STATES[name](tree):
        value = float(means[node][offset])
        scores.setdefault(node, []).append(fallback if np.isnan(value) else value)
    tree.scores[name] = scores


def _run_config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} has no config.yaml; expected the folder of a run")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _last(config: dict[str, Any], kind: str, key: str, run: Path) -> str:
    found = [s[key] for s in config["stages"] if s["kind"] == kind]
    if not found:
        raise UserError(f"{run} has no {kind} stage, which this comparison needs; expected a run with one")
    return found[-1]


def _model(run: Path, name: str) -> str:
    folder = run / "models" / name / "model"
    return str(folder) if folder.is_dir() else name
