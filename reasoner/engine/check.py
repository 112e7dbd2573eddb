"""Before anything is drawn: the engine says what the model's own forward pass says, on one short prompt.

The engine runs a model's modules with its own cache and attention. An architecture that keeps other state, or whose
attention has more to it, would be sampled wrongly without a sign of it.
"""

from __future__ import annotations

import torch

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling
from reasoner.policy.adapters import activate
from reasoner.registry import UserError

TOLERANCE = 1e-3  # nats, of one token
ROUNDINGS = (
    3  # of the largest logit; in 16 bits SmolLM2-135M moves by 1.3 at most where sums are in another order
)
LENGTHS = (9, 4, 6)  # of prefixes that are drawn together: one that a batch changes would differ
NUM_TOKENS = 4
SCALED_BY_LENGTH = ("dynamic", "longrope")


def check_sampler(engine: LocalEngine) -> None:
    """UserError that names the architecture where drawing differs from a plain forward pass, or is not possible at all."""
    lm = engine.model
    kind = lm.config.model_type
    _check_positions(engine)
    room = min(engine.length, 1 << 20) - NUM_TOKENS - 1
    prefixes = [
        [(7 * i + 3 * n) % min(engine.vocab_size, 997) for i in range(max(1, min(n, room)))] for n in LENGTHS
    ]
    greedy = Sampling(temperature=0.0)
    kept = engine.ledger
    engine.ledger = None  # not part of the run's cost
    try:
        asked = [Request(("check", i), p, NUM_TOKENS, i, greedy) for i, p in enumerate(prefixes)]
        done = engine.sample(asked)
        engine.load_weights(engine.weights_version)  # forgets what it has just computed
    except Exception as problem:
        raise UserError(
            f"the local engine cannot run {kind} models ({type(problem).__name__}: {problem}); expected an architecture "
            "with ordinary attention: draw through a server, engine={kind: vllm, spawn: 1}"
        ) from problem
    finally:
        engine.ledger = kept
    furthest = largest = 0.0
    activate(engine.given)
    for prefix, completion in zip(prefixes, done, strict=True):
        if not completion.token_ids:
            continue
        ids = torch.tensor([[*prefix, *completion.token_ids]], device=engine.device)
        with torch.inference_mode():
            logits = lm(ids, use_cache=False).logits[0, len(prefix) - 1 : -1].float()
        largest = max(largest, float(logits.abs().max()))
        own = torch.log_softmax(logits, -1).gather(-1, ids[0, len(prefix) :, None])[:, 0].cpu()
        furthest = max(furthest, float((own - torch.tensor(completion.logprobs_full)).abs().max()))
    limit = tolerance(lm.dtype, largest)
    if not furthest <= limit:
        raise UserError(
            f"the local engine draws {kind} models wrongly: log-probabilities are off by up to {furthest:.2g} on a short "
            f"prompt; expected at most {limit:g}: draw through a server, engine={{kind: vllm, spawn: 1}}"
        )


def tolerance(dtype: torch.dtype, largest: float) -> float:
    """How far one log-probability may be off for rounding alone, in nats, where no logit is above `largest`."""
    return max(TOLERANCE, ROUNDINGS * torch.finfo(dtype).eps * largest)


def _check_positions(engine: LocalEngine) -> None:
    """Rotations whose factor follows the longest sequence of a batch would make draws depend on company."""
    config = engine.model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    each = rope.values() if any(isinstance(v, dict) for v in rope.values()) else [rope]
    for one in each:
        if not isinstance(one, dict) or one.get("rope_type") not in SCALED_BY_LENGTH:
            continue
        original = one.get("original_max_position_embeddings") or config.max_position_embeddings
        if engine.max_context > original:
            raise UserError(
                f"the rotations of this {config.model_type} model ({one['rope_type']}) change where a sequence passes "
                f"{original} tokens, and with it those beside it; expected a context of at most {original}: lower "
                "max_tokens, or draw through a server"
            )
