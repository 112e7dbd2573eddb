"""Attention over slots: one function that transformers' own modules call, in place of their attention and masks.

What a query sees follows from where it stands: all earlier positions of its slot, or those within the layer's
sliding window. So no mask is built or passed, and every architecture's window and soft cap are its own.

Shape suffixes: R rows (slots), H heads, K key/value heads, G query heads per key/value head, T query tokens,
S key positions, D head size, N rows times key/value heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "reasoner_slots"


class Group(NamedTuple):
    """Neighbouring rows `start` to `end`, of which no more than `width` key positions are read."""

    start: int
    end: int
    width: int


class Seen:
    """What the queries of one forward pass see: positions up to their own among the first `width` of their slots.

    With `groups`, which cover all rows in order, single queries read no more than their group's width on a CPU.
    """

    def __init__(
        self, positions_RT: torch.Tensor, width: int, dtype: torch.dtype, groups: Sequence[Group] = ()
    ):
        self.positions_RT, self.width, self.dtype = positions_RT, width, dtype
        self.groups = groups or (Group(0, len(positions_RT), width),)
        self.biases: dict[int | None, torch.Tensor] = {}
        self.biases_of_heads: dict[int | None, torch.Tensor] = {}

    def bias(self, window: int | None) -> torch.Tensor:
        """[R, 1, T, S]: 0 where a key is seen, minus infinity where not; a window of w sees the last w positions."""
        if window is not None and window >= self.width:
            window = None
        if window not in self.biases:
            key_S = torch.arange(self.width, device=self.positions_RT.device)
            query_RT1 = self.positions_RT[..., None]
            hidden_RTS = key_S > query_RT1
            if window is not None:
                hidden_RTS |= key_S <= query_RT1 - window
            bias = torch.zeros(hidden_RTS.shape, dtype=self.dtype, device=key_S.device)
            self.biases[window] = bias.masked_fill_(hidden_RTS, float("-inf"))[:, None]
        return self.biases[window]

    def bias_of_heads(self, window: int | None, heads: int) -> torch.Tensor:
        """[R · heads, 1, S]: the bias of single queries once for each key/value head."""
        if window not in self.biases_of_heads:
            bias_R11S = self.bias(window)
            self.biases_of_heads[window] = bias_R11S.expand(-1, heads, -1, -1).flatten(0, 1)
        return self.biases_of_heads[window]


def attend(
    query_RKGTD: torch.Tensor,
    key_RKSD: torch.Tensor,
    value_RKSD: torch.Tensor,
    seen: Seen,
    window: int | None,
    scale: float,
    cap: float | None = None,
    sink_H: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(scale · q·k, soft-capped, + bias) · v, as [R, K, G, T, D]; query heads of a group share their keys.

    `sink_H` holds a logit per head that takes its share of the softmax and gives nothing (GPT-OSS).
    """
    num_queries = query_RKGTD.shape[3]
    query_RKQD = query_RKGTD.flatten(2, 3)
    if cap is None and sink_H is None and num_queries == 1:
        return attend_one(query_RKQD, key_RKSD, value_RKSD, seen, window, scale)[:, :, :, None]
    bias_R1TS = seen.bias(window)
    bias_R1QS = bias_R1TS.repeat(1, 1, query_RKGTD.shape[2], 1) if num_queries > 1 else bias_R1TS
    if cap is None and sink_H is None:
        out_RKQD = F.scaled_dot_product_attention(
            query_RKQD, key_RKSD, value_RKSD, attn_mask=bias_R1QS, scale=scale
        )
    else:
        scores_RKQS = (query_RKQD * scale) @ key_RKSD.transpose(-1, -2)
        if cap is not None:
            scores_RKQS = torch.tanh(scores_RKQS / cap) * cap
        scores_RKQS = scores_RKQS + bias_R1QS
        if sink_H is not None:
            sink_KQ = sink_H.view(key_RKSD.shape[1], -1).repeat_interleave(num_queries, 1)
            sink_RKQ1 = sink_KQ[None, :, :, None].expand(len(key_RKSD), -1, -1, 1)
            scores_RKQS = torch.cat((scores_RKQS, sink_RKQ1.to(scores_RKQS.dtype)), -1)
        weights_RKQS = torch.softmax(scores_RKQS, -1, dtype=torch.float32).to(value_RKSD.dtype)
        out_RKQD = weights_RKQS[..., : key_RKSD.shape[2]] @ value_RKSD
    return out_RKQD.unflatten(2, (-1, num_queries))


def attend_one(
    query_RKGD: torch.Tensor,
    key_RKSD: torch.Tensor,
    value_RKSD: torch.Tensor,
    seen: Seen,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """The same for one query token per row, [R, K, G, D].

    Few keys and values on a CPU are read faster by two batched products. Many are read by the fused kernel (which takes
    four dimensions, not three), and of each group only its own.
    """
    if query_RKGD.device.type != "cpu" or len(seen.groups) > 1:
        bias_R11S = seen.bias(window)
        mixed = [
            F.scaled_dot_product_attention(
                query_RKGD[start:end],
                key_RKSD[start:end, :, :width],
                value_RKSD[start:end, :, :width],
                attn_mask=bias_R11S[start:end, :, :, :width],
                scale=scale,
            )
            for start, end, width in seen.groups
        ]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)
    heads = key_RKSD.shape[1]
    query_NGD, key_NSD, value_NSD = (x.flatten(0, 1) for x in (query_RKGD, key_RKSD, value_RKSD))
    bias_N1S = seen.bias_of_heads(window, heads)
    scores_NGS = torch.baddbmm(bias_N1S, query_NGD, key_NSD.transpose(-1, -2), alpha=scale)
    weights_NGS = torch.softmax(scores_NGS, -1, dtype=torch.float32).to(value_NSD.dtype)
    return torch.bmm(weights_NGS, value_NSD).unflatten(0, (-1, heads))


def _slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    seen: Seen | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' signature: query [R, H, T, D], keys and values [R, K, S, D]; returns [R, T, H, D]."""
    assert seen is not None
    query_RKGTD = query.unflatten(1, (key.shape[1], -1))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out_RKGTD = attend(query_RKGTD, key, value, seen, sliding_window, scale, softcap, s_aux)
    return out_RKGTD.flatten(1, 2).transpose(1, 2), None


AttentionInterface.register(NAME, _slot_attention)


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Within, the model is in evaluation mode: nothing is dropped out."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


@contextmanager
def slot_attention(model) -> Iterator[None]:
    """Within, the model's layers call the function above, in evaluation mode."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        with evaluating(model):
            yield
    finally:
        config._attn_implementation = before


def tree_mask(tour_B2T: torch.Tensor) -> torch.Tensor:
    """[B, 1, T, T]: True where a position of packed rows may be seen; takes the square of a row.

    `tour_B2T` holds each token's number in a walk through its tree, and the number after those of all that follow it: what
    lies between is what sees the token.
    """
    is_cpu = tour_B2T.device.type == "cpu"
    tour: Any = tour_B2T.numpy() if is_cpu else tour_B2T  # numpy compares faster
    enter_BT, leave_BT = tour[:, 0], tour[:, 1]
    mask_BTT = enter_BT[:, None, :] <= enter_BT[:, :, None]
    mask_BTT &= enter_BT[:, :, None] < leave_BT[:, None, :]
    return (torch.from_numpy(mask_BTT) if is_cpu else mask_BTT)[:, None]


def is_plain(lm) -> bool:
    """Whether a model's attention is softmax over one mask in torch's kernel, with nothing dropped out."""
    config = lm.config.get_text_config()
    drops = max(getattr(config, "attention_dropout", None) or 0.0, getattr(config, "attn_pdrop", None) or 0.0)
    return config._attn_implementation == "sdpa" and not (lm.training and drops)


def windows(lm) -> bool:
    """Whether some of a model's layers see a sliding window only."""
    config = lm.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ("sliding_attention",)
    return getattr(config, "sliding_window", None) is not None and "sliding_attention" in kinds


def layer_masks(
    lm, mask_B1TT: torch.Tensor, positions_BT: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """A bool mask of packed rows in the form that the model's own attention takes, its sliding windows applied.

    Positions are depths in a trajectory, so a window of w sees the ancestors less than w before a token.
    """
    config = lm.config.get_text_config()
    masks = {"full_attention": mask_B1TT}
    if windows(lm):
        distance_BTT = positions_BT[:, :, None] - positions_BT[:, None, :]
        masks["sliding_attention"] = mask_B1TT & (distance_BTT < config.sliding_window)[:, None]
    if config._attn_implementation == "eager":  # adds its mask to the scores
        low = torch.finfo(lm.dtype).min
        masks = {k: torch.zeros_like(m, dtype=lm.dtype).masked_fill_(~m, low) for k, m in masks.items()}
    if getattr(config, "layer_types", None):
        return masks if len(masks) > 1 else masks["full_attention"]
    return masks.get("sliding_attention", masks["full_attention"])
