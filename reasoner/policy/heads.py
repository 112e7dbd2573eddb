"""Networks around a causal language model that compute exactly what training needs from a packed batch.

`PolicyNet` gives log-probabilities of chosen tokens; `ScoreNet` a scalar at chosen positions, and is PRM, ORM
and critic alike. Both do all their work in `forward`, so that DDP and FSDP see every call.

Shape suffixes: B rows, T packed positions, N tokens, S states, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from reasoner.policy.logprobs import token_logprobs
from reasoner.policy.models import load_model, save
from reasoner.registry import UserError

HEAD_FILE = "score_head.safetensors"


class PolicyNet(torch.nn.Module):
    """log p and entropy of tokens, from packed rows; `lm` is the causal LM, shared with whoever samples from it."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm

    def forward(
        self, ids_BT, positions_BT, mask_B1TT, source_N, target_N, with_entropy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden_BTD = packed_hidden(self.lm, ids_BT, positions_BT, mask_B1TT)
        hidden_ND = hidden_BTD.flatten(0, 1)[source_N]
        return token_logprobs(
            hidden_ND, self.lm.get_output_embeddings(), ids_BT.flatten()[target_N], with_entropy
        )


class ScoreNet(torch.nn.Module):
    """A causal LM with a linear head that reads one number (a logit) at the last token of a state."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.head = torch.nn.Linear(lm.config.hidden_size, 1, dtype=torch.float32)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, ids_BT, positions_BT, mask_B1TT, at_S) -> torch.Tensor:
        hidden_BTD = packed_hidden(self.lm, ids_BT, positions_BT, mask_B1TT)
        return self.head(hidden_BTD.flatten(0, 1)[at_S].float())[:, 0]

    def save(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """The language model in its own format, the head beside it."""
        save(self.lm, tokenizer, folder)
        save_file({k: v.contiguous() for k, v in self.head.state_dict().items()}, folder / HEAD_FILE)

    @classmethod
    def load(cls, folder: Path) -> ScoreNet:
        """A ScoreNet as `save` wrote it; a folder without a head is a UserError."""
        if not (folder / HEAD_FILE).is_file():
            raise UserError(f"{folder} has no {HEAD_FILE}; expected a reward model that this program trained")
        net = cls(load_model(str(folder)))
        net.head.load_state_dict(load_file(folder / HEAD_FILE))
        return net


def packed_hidden(lm, ids_BT, positions_BT, mask_B1TT) -> torch.Tensor:
    """Last hidden states of packed rows; a bool mask of four dimensions is taken by every architecture as it is."""
    return lm.base_model(
        input_ids=ids_BT, position_ids=positions_BT, attention_mask=mask_B1TT, use_cache=False
    ).last_hidden_state
