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

from reasoner.policy.adapters import load_merged
from reasoner.policy.attention import layer_masks
from reasoner.policy.logprobs import LogitHead, token_logprobs
from reasoner.policy.models import save
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
        return token_logprobs(hidden_ND, LogitHead(self.lm), ids_BT.flatten()[target_N], with_entropy)


class LabelTokens(torch.nn.Module):
    """Reads log p(good) - log p(bad) of two tokens of the vocabulary: the logit of their two-way softmax."""

    def __init__(self, lm, label_ids: tuple[int, int]):
        super().__init__()
        self.register_buffer("label_ids", torch.tensor(label_ids))
        self._output = [lm.get_output_embeddings()]  # in a list: the model's module, not a second owner of it

    def forward(self, hidden_SD) -> torch.Tensor:
        good, bad = self._output[0].weight[self.label_ids].float()
        return (hidden_SD @ (good - bad))[:, None]


class ScoreNet(torch.nn.Module):
    """A causal LM that reads one number (a logit) at the last token of a state.

    A linear head reads it, or with `label_ids` the (good, bad) tokens of the model's own vocabulary.
    """

    def __init__(self, lm, label_ids: tuple[int, int] | None = None):
        super().__init__()
        self.lm = lm
        self.head: torch.nn.Module = (
            _zero_head(lm.config.hidden_size) if label_ids is None else LabelTokens(lm, label_ids)
        )

    def forward(self, ids_BT, positions_BT, mask_B1TT, at_S) -> torch.Tensor:
        hidden_BTD = packed_hidden(self.lm, ids_BT, positions_BT, mask_B1TT)
        return self.head(hidden_BTD.flatten(0, 1)[at_S].float())[:, 0]

    def save(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """The language model in its own format, the head beside it."""
        save(self.lm, tokenizer, folder)
        save_file({k: v.contiguous() for k, v in self.head.state_dict().items()}, folder / HEAD_FILE)

    @classmethod
    def load(cls, folder: Path, lm=None) -> ScoreNet:
        """A ScoreNet as `save` wrote it, an adapter merged into its base unless `lm` is that adapter already.

        A folder without a head is a UserError.
        """
        if not (folder / HEAD_FILE).is_file():
            raise UserError(f"{folder} has no {HEAD_FILE}; expected a reward model that this program trained")
        saved = load_file(folder / HEAD_FILE)
        good_bad = tuple(saved["label_ids"].tolist()) if "label_ids" in saved else None
        net = cls(load_merged(str(folder)) if lm is None else lm, good_bad)
        net.head.load_state_dict(saved)
        return net


def _zero_head(width: int) -> torch.nn.Linear:
    """A head that says one half everywhere."""
    head = torch.nn.Linear(width, 1, dtype=torch.float32)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def packed_hidden(lm, ids_BT, positions_BT, mask_B1TT) -> torch.Tensor:
    """Last hidden states of packed rows; every architecture takes a mask of four dimensions as it is."""
    return lm.base_model(
        input_ids=ids_BT,
        position_ids=positions_BT,
        attention_mask=layer_masks(lm, mask_B1TT, positions_BT),
        use_cache=False,
    ).last_hidden_state
