"""Checks that stop a run before it wastes itself: what is trained reaches the sampler, and the two agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator

from reasoner.engine.check import tolerance
from reasoner.engine.protocol import Engine
from reasoner.engine.remote import RemoteEngine
from reasoner.policy.attention import evaluating
from reasoner.policy.heads import PolicyNet
from reasoner.policy.logprobs import LogitHead
from reasoner.policy.models import load_tokenizer
from reasoner.policy.packing import pack
from reasoner.policy.shard import local
from reasoner.registry import UserError
from reasoner.trainers.ranks import highest, summed
from reasoner.tree import Node, Problem, Tree

PERTURBED, PUT_BACK = -2, -1  # versions of weights that draw nothing
NUM_PERTURBED = 4  # tensors: the last ones, among them a LoRA's B and a full model's final norm


def check_liveness(parameters: Sequence[torch.Tensor], engine: Engine, token_ids: Sequence[int]) -> None:
    """Perturbing trained weights must move the sampler's log-probabilities, else UserError; weights are put back.

    Servers prove each version that they get, which is this very check; for them loading is all.
    """
    proves_itself = isinstance(engine, RemoteEngine)
    moved = [local(p) for p in parameters[-NUM_PERTURBED:]]
    kept = [p.detach().clone() for p in moved]
    before = [] if proves_itself else engine.score([token_ids])[0]
    with torch.no_grad():
        for p in moved:
            p.add_(0.1 * p.abs().sum() / max(1, p.numel()) + 0.01)  # a process may hold nothing of it
        engine.load_weights(PERTURBED)
        after = [] if proves_itself else engine.score([token_ids])[0]
        for p, saved in zip(moved, kept, strict=True):
            p.copy_(saved)
        engine.load_weights(PUT_BACK)
    if before == after and not proves_itself:
        raise UserError(
            "changing the trained weights does not change what the sampler would say; expected the sampler to run "
            "them: check that the adapter that is trained is the one that is sampled from"
        )


def check_packed(lm) -> None:
    """The training pass over a packed tree gives each path's own log-probabilities, else UserError.

    Layers that carry a state from token to token, as in hybrids with linear attention, read a packed row as one text.
    """
    kind = lm.config.model_type
    ids = [(11 * i + 5) % min(LogitHead(lm).vocab_size, 997) for i in range(16)]
    tree = Tree.of_prompt(Problem("check", "", "", {}), ids[:4])
    for parent, offset, tokens in ((0, 4, ids[4:10]), (0, 4, ids[10:14]), (1, 3, ids[14:])):
        tree.add(Node(parent, offset, tuple(tokens)))
    packed = pack([tree], row_tokens=32)
    device = next(lm.parameters()).device
    rows = (packed.ids_BT, packed.positions_BT, packed.tour_B2T, packed.source_N, packed.target_N)
    own: list[float] = []
    largest = 0.0
    with torch.no_grad(), evaluating(lm):
        try:
            found_N, _ = PolicyNet(lm)(*(x.to(device) for x in rows))
        except Exception as problem:
            raise UserError(
                f"{kind} models cannot be trained on packed trees ({type(problem).__name__}: {problem}); expected an "
                "architecture with ordinary attention: choose another model"
            ) from problem
        for number, node in enumerate(tree.nodes[1:], start=1):
            path = tree.token_ids(number, len(node.token_ids))
            logits = lm(torch.tensor([path], device=device), use_cache=False).logits[0].float()
            start = len(path) - len(node.token_ids)
            largest = max(largest, float(logits.abs().max()))
            table = torch.log_softmax(logits[start - 1 : -1], -1)
            own += [float(table[i, t]) for i, t in enumerate(node.token_ids)]
    furthest = float((found_N.float().cpu() - torch.tensor(own)).abs().max())
    if not math.isfinite(furthest):
        raise UserError(
            f"the {kind} model gives log-probabilities that are no numbers; expected finite ones: check its weights"
        )
    limit = tolerance(lm.dtype, largest)
    if not furthest <= limit:
        raise UserError(
            f"the training pass computes {kind} models wrongly on packed trees: log-probabilities are off by up to "
            f"{furthest:.2g}; expected at most {limit:g}: choose a model with ordinary attention"
        )


class SamplerGap(NamedTuple):
    """How far the trainer's log-probabilities are from the sampler's, over all processes."""

    mean_k3: float
    p999: float  # 99.9th percentile of |Δ log p|, the highest of all processes
    effective: float  # effective sample size of the importance weights, as a share of the tokens


def sampler_gap(deltas: Sequence[torch.Tensor], accelerator: Accelerator) -> SamplerGap:
    """From trainer minus sampler log-probabilities (full softmax) of this process's tokens."""
    delta_N = torch.cat([*deltas, torch.zeros(0, device=accelerator.device)]).double().cpu()
    ratio_N = delta_N.exp()
    sums = ((ratio_N - 1 - delta_N).sum(), ratio_N.sum(), ratio_N.square().sum())
    count, k3, first, second = summed([len(delta_N), *map(float, sums)], accelerator)
    worst = torch.quantile(delta_N.abs()[: 1 << 24], 0.999).item() if len(delta_N) else 0.0
    if not count:
        return SamplerGap(0.0, 0.0, 1.0)
    return SamplerGap(k3 / count, highest(worst, accelerator), first * first / (count * second))


def check_gap(gap: SamplerGap, limit: float) -> None:
    """UserError where the mean k3 is past the limit, or no number."""
    if not gap.mean_k3 <= limit:
        raise UserError(
            f"sampler and trainer disagree: mean k3 {gap.mean_k3:.3g}, 99.9th percentile of the difference of log p "
            f"{gap.p999:.3g}, effective sample {gap.effective:.2f}; expected a mean k3 below sampler_limit={limit}: "
            "use the same dtype for both, less overlap or smaller steps where rounds are drawn ahead, or raise it"
        )


def check_same_tokens(path: str, what: str, tokenizer) -> None:
    """A reward model reads the policy's token ids, so its tokenizer must be the policy's; else UserError."""
    other = load_tokenizer(path)
    if other.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"the {what} {path} has another tokenizer ({len(other)} tokens) than the policy ({len(tokenizer)}); "
            "expected the same: train it from the policy or from a model of its family"
        )


def check_room(model_config, longest: int) -> None:
    """A prompt and its completion, `longest` tokens together, must fit the model's positions; else UserError."""
    room = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if room is not None and longest > room:
        raise UserError(
            f"the longest prompt and max_tokens are {longest} tokens together, but the model has only {room} positions; "
            "expected a sum within them: lower max_tokens or leave long problems out"
        )
