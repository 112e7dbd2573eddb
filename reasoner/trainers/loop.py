"""What every training loop needs from outside, and the optimizers that it may choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from pydantic import Field
from torch.distributed.tensor import DTensor

from reasoner.config import Config, Entry
from reasoner.engine.servers import Host
from reasoner.ledger import Ledger
from reasoner.policy.shard import Sharding
from reasoner.registry import UserError, lookup


@dataclass
class Session:
    """Where a stage writes and whom it tells: `log(metrics, step)`, `progress(done, total, note)`.

    `checkpoints` is the folder from which a killed loop goes on; None keeps none. `parts` is that of the marks from which
    a killed stage of many trees does (reasoner/parts). What must be ended with the stage, as servers, is given to
    `ending`. `crew(do, numbers, facts)` has the stage's parts of those numbers done by workers elsewhere
    (reasoner/cluster); None: they are done here. `hosts(number)` are machines elsewhere for the servers that it starts.
    """

    out: Path
    ledger: Ledger = field(default_factory=Ledger)
    log: Callable[[Mapping[str, Any], int], None] = lambda metrics, step: None
    progress: Callable[[int, int, str], None] = lambda done, total, note: None
    seed: int = 0
    checkpoints: Path | None = None
    parts: Path | None = None
    ending: ExitStack = field(default_factory=ExitStack)
    crew: Callable[[Callable[..., Any], list[int], tuple[Any, ...]], list[Any]] | None = None
    hosts: Callable[[int], list[Host]] | None = None


class OptimizerConfig(Config):
    """Which optimizer, and its learning rate over the run."""

    name: Annotated[str, Entry("optimizer", "reasoner.trainers.loop:OPTIMIZERS")] = Field(
        default="adamw", description="adamw | muon (orthogonalised momentum for matrices, AdamW for the rest)"
    )
    lr: float = Field(default=1e-5, gt=0, description="peak learning rate (of AdamW)")
    muon_lr: float = Field(default=0.02, gt=0, description="peak learning rate of Muon's matrices")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    betas: tuple[float, float] = Field(default=(0.9, 0.98), description="AdamW's moment decays")
    eps: float = Field(
        default=1e-8, gt=0, description="added to AdamW's denominator: gradients far below it move nothing"
    )
    schedule: Annotated[str, Entry("schedule", "reasoner.trainers.loop:SCHEDULES")] = Field(
        default="cosine", description="cosine | linear | constant, after the warm-up"
    )
    warmup: float = Field(
        default=0.03, ge=0, le=1, description="share of the run over which the rate rises from 0"
    )
    floor: float = Field(default=0.05, ge=0, le=1, description="share of the peak that is left at the end")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are scaled down to this norm")


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    "linear": lambda x: 1 - x,
    "constant": lambda x: 1.0,
}


def rate(config: OptimizerConfig, progress: float) -> float:
    """The share of the peak learning rate when `progress` (0 to 1) of the run is done."""
    shape = lookup(SCHEDULES, config.schedule, "schedule")
    if progress < config.warmup:
        return progress / config.warmup
    after = min(1.0, (progress - config.warmup) / max(1e-9, 1 - config.warmup))
    return config.floor + (1 - config.floor) * shape(after)


class _Muon(torch.optim.Muon):
    """torch's Muon in the parameters' own format on CPUs: it orthogonalises in bfloat16, which few CPUs multiply fast."""

    @torch.no_grad()
    def step(self, closure=None):
        if any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                moment = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                moment.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(moment, group["momentum"]) if group["nesterov"] else moment
                p.mul_(1 - group["lr"] * group["weight_decay"])
                scale = group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5
                p.add_(
                    _orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"]),
                    alpha=-scale,
                )
        return None


def _orthogonal(x: torch.Tensor, coefficients: Sequence[float], steps: int, eps: float) -> torch.Tensor:
    """Nearly the nearest orthogonal matrix, by Newton-Schulz iteration (Jordan et al. 2024, "Muon")."""
    a, b, c = coefficients
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


class Muon(torch.optim.Optimizer):
    """torch's Muon for the matrices inside the blocks and AdamW for the rest, behind one optimizer's face."""

    def __init__(self, named_parameters: Iterable[tuple[str, torch.nn.Parameter]], config: OptimizerConfig):
        named = [(n, p) for n, p in named_parameters if p.requires_grad]
        hidden = [
            p for n, p in named if p.ndim == 2 and not any(k in n for k in ("embed", "lm_head", "head."))
        ]
        inside = set(map(id, hidden))
        rest = [p for _, p in named if id(p) not in inside]
        self.parts: list[torch.optim.Optimizer] = []
        if hidden:
            self.parts.append(_Muon(hidden, lr=config.muon_lr, weight_decay=config.weight_decay))
        if rest:
            self.parts.append(_adamw_of(rest, config))
        super().__init__([p for _, p in named], {})
        # the parts' own groups, so that a scheduler which sets "lr" here sets it there
        self.param_groups = [g for part in self.parts for g in part.param_groups]

    def step(self, closure=None):
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [g for part in self.parts for g in part.param_groups]


def _adamw(named_parameters, config: OptimizerConfig) -> torch.optim.Optimizer:
    return _adamw_of([p for _, p in named_parameters if p.requires_grad], config)


def _adamw_of(parameters: list[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": _adamw, "muon": Muon}


def make_optimizer(net: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    return lookup(OPTIMIZERS, config.name, "optimizer")(net.named_parameters(), config)


def check_cut(options: Sharding, optimizer: OptimizerConfig, is_adapter: bool) -> None:
    """A UserError for what does not go with networks that are cut over the processes."""
    if optimizer.name == "muon":
        raise UserError(
            "got optimizer.name=muon with shard: it orthogonalises whole matrices, of which each process has a part; "
            "expected adamw"
        )
    if options.offload and is_adapter:
        raise UserError(
            "got shard.offload with lora: adapters are not cut; expected one of the two, or lora.four_bit"
        )


def norm_of(found: torch.Tensor | None) -> float:
    """A gradient's norm as a number, also where each process has a part of it."""
    return 0.0 if found is None else float(found.full_tensor() if isinstance(found, DTensor) else found)


def clip_and_step(
    nets: Sequence[torch.nn.Module | None], optimizers: Sequence[Any], limits: Sequence[float],
    taught: Sequence[bool], accelerator: Accelerator, ceiling: float = math.inf,
) -> list[tuple[float, bool]]:  # fmt: skip
    """Clip each network's gradient and step it if it is taught; the norms, and whether each step was taken.

    A gradient that is no number is not taken, nor one of the first network beyond the `ceiling`. Networks share one loss
    scale in float16: it is divided out of each once, and adapted once, also where a step was not taken, since else it
    would never come down.
    """
    scaler = getattr(accelerator, "scaler", None)
    if scaler is not None:
        accelerator.unscale_gradients([*optimizers])
    found = []
    for net, optimizer, limit, is_taught in zip(nets, optimizers, limits, taught, strict=True):
        assert net is not None
        clip = accelerator.clip_grad_norm_ if scaler is None else torch.nn.utils.clip_grad_norm_
        norm = norm_of(clip(net.parameters(), limit))
        is_beyond = norm > (ceiling if optimizer is optimizers[0] else math.inf)
        takes = is_taught and math.isfinite(norm) and not is_beyond
        if takes and scaler is None:
            optimizer.step()
        elif takes and scaler is not None:
            scaler.step(optimizer.optimizer)
        optimizer.zero_grad()
        found.append((norm, takes))
    if scaler is not None:
        scaler.update()
    return found


def by_steps(optimizer, config: OptimizerConfig, total: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule over `total` optimizer steps: the k-th has the rate of k / total, so that none has rate 0."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(config, min(1.0, (step + 1) / max(1, total)))
    )


def by_share(
    optimizer, config: OptimizerConfig, share: Callable[[], float]
) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule over the share of a budget that is spent, as `share` says at each step.

    The first hundredth counts as spent from the start, so that no step has rate 0.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: rate(config, min(1.0, max(0.01, share()))))
