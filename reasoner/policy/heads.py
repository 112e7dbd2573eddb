"""Networks around a causal language model that compute exactly what training needs from a packed batch.

`PolicyNet` gives log-probabilities of chosen tokens; `ScoreNet` a scalar at chosen positions, and is PRM, ORM
and critic alike. Both do all their work in `forward`, so that DDP and FSDP see every call.

Shape suffixes: B rows, T packed positions, X all packed positions row by row, N sampled tokens, S states,
D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from reasoner.policy.adapters import as_it_starts, load_merged
from reasoner.policy.attention import layer_masks, tree_mask
from reasoner.policy.flex_attention import flexes, to_blocks
from reasoner.policy.logprobs import LogitHead, token_logprobs
from reasoner.policy.models import check_finite, save
from reasoner.policy.shard import gathered
from reasoner.policy.shard import whole as whole_of
from reasoner.policy.tree_attention import blocks_of, suits
from reasoner.registry import UserError
from reasoner.store import whole

HEAD_FILE = "score_head.safetensors"
REFERENCE = "reference"  # folder with the model that an implicit reward refers to


class PolicyNet(torch.nn.Module):
    """log p and entropy of tokens, from packed rows; `lm` is the causal LM, shared with whoever samples from it."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm

    def forward(
        self,
        ids_BT,
        positions_BT,
        tour_B2T,
        source_N,
        target_N,
        with_entropy: bool = False,
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden_BTD = packed_hidden(self.lm, ids_BT, positions_BT, tour_B2T)
        hidden_ND = hidden_BTD.flatten(0, 1)[source_N]
        targets_N = ids_BT.flatten()[target_N]
        return token_logprobs(hidden_ND, LogitHead(self.lm), targets_N, with_entropy, temperature)


class LabelTokens(torch.nn.Module):
    """Reads log p(good) - log p(bad) of two tokens of the vocabulary: the logit of their two-way softmax."""

    def __init__(self, lm, label_ids: tuple[int, int]):
        super().__init__()
        self.register_buffer("label_ids", torch.tensor(label_ids))
        self._output = [lm.get_output_embeddings()]  # in a list: the model's module, not a second owner of it

    def forward(self, hidden_SD) -> torch.Tensor:
        good, bad = self._output[0].weight[self.label_ids].float()
        return (hidden_SD @ (good - bad))[:, None]


class Likelihood(torch.nn.Module):
    """Reads how probable the model finds what was written so far: a · least + b · total log-probability + c.

    A small model that can compute a step, but was never asked to check one, knows of a wrong result by how little it
    expects it; a linear head on the state after the step does not see that. As in implicit process rewards (Yuan
    et al. 2024, "Free Process Rewards without Process Labels") the reading is made of token log-probabilities, here
    without a reference model and with weights that are fitted to the labels.
    """

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.5, 0.5]]))
        self.bias = torch.nn.Parameter(torch.tensor([0.5]))

    def forward(self, least_S, total_S) -> torch.Tensor:
        return torch.stack([least_S, total_S], -1) @ self.weight.T + self.bias


class Implicit(torch.nn.Module):
    """Reads beta · Σ log(π / π_ref) of the tokens written so far: an implicit reward (Yuan et al. 2024, equation 3).

    Fitted to verdicts alone (cross-entropy at the end of whole solutions), it is the logit of a right end; what a token adds
    to it is that token's process reward. `reference` is the model as it starts. It is no part of this net: nothing trains
    it, and it is saved beside.
    """

    beta: torch.Tensor

    def __init__(self, reference, beta: float = 0.05):
        super().__init__()
        self.register_buffer("beta", torch.tensor([beta]))
        self._reference = [PolicyNet(reference).eval()]  # in a list, so that it is no submodule

    @property
    def reference(self):
        return self._reference[0].lm

    @torch.no_grad()
    def before(self, *packed) -> torch.Tensor:
        """The reference's log-probabilities of a packed batch's sampled tokens."""
        return self._reference[0](*packed)[0]

    def forward(self, total_S) -> torch.Tensor:
        return (self.beta * total_S)[:, None]

    def _apply(self, fn: Any, recurse: bool = True) -> Implicit:
        """A move to another device takes the reference along."""
        self._reference[0]._apply(fn)
        return super()._apply(fn, recurse)


class ScoreNet(torch.nn.Module):
    """A causal LM that reads one number (a logit) at the last token of a state.

    `head` is what reads it: a linear layer on the hidden state (if none is given, one of zeros), two tokens of the
    vocabulary (LabelTokens) or the log-probabilities of the tokens that lead there (Likelihood, Implicit).
    """

    def __init__(self, lm, head: torch.nn.Module | None = None):
        super().__init__()
        self.lm = lm
        self.head: torch.nn.Module = head if head is not None else _zero_head(lm)

    def forward(self, ids_BT, positions_BT, tour_B2T, at_S, source_N, target_N) -> torch.Tensor:
        hidden_BTD = packed_hidden(self.lm, ids_BT, positions_BT, tour_B2T)
        hidden_XD = hidden_BTD.flatten(0, 1)
        if not isinstance(self.head, Likelihood | Implicit):
            return self.head(hidden_XD[at_S].float())[:, 0]
        ids_X = ids_BT.flatten()
        logprobs_N, _ = token_logprobs(hidden_XD[source_N], LogitHead(self.lm), ids_X[target_N])
        if isinstance(self.head, Implicit):
            logprobs_N = logprobs_N - self.head.before(ids_BT, positions_BT, tour_B2T, source_N, target_N)
        logprobs_X = logprobs_N.new_zeros(len(ids_X)).index_put((target_N,), logprobs_N)
        width = ids_BT.shape[1]
        rows_S = at_S // width
        enter_ST, leave_ST = tour_B2T[rows_S].unbind(1)
        own_S1 = enter_ST.gather(1, (at_S % width)[:, None])
        of_state_ST = logprobs_X.view(-1, width)[rows_S] * ((enter_ST <= own_S1) & (own_S1 < leave_ST))
        total_S = of_state_ST.sum(-1)
        if isinstance(self.head, Implicit):
            return self.head(total_S)[:, 0]
        return self.head(of_state_ST.amin(-1), total_S)[:, 0]

    def save(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """The language model in its own format, the head and what it refers to beside it.

        Weights that are no numbers are a UserError.
        """
        check_finite(self.head, "reward model's head")
        with whole(folder):
            save(self.lm, tokenizer, folder)
            save_file({k: v.contiguous() for k, v in self.head.state_dict().items()}, folder / HEAD_FILE)
            if isinstance(self.head, Implicit):
                save(self.head.reference, tokenizer, folder / REFERENCE)

    @classmethod
    def load(cls, folder: Path, lm=None, dtype: torch.dtype | None = None) -> ScoreNet:
        """A ScoreNet as `save` wrote it, an adapter merged into its base unless `lm` is that adapter already.

        A folder without a head is a UserError.
        """
        if not (folder / HEAD_FILE).is_file():
            raise UserError(f"{folder} has no {HEAD_FILE}; expected a reward model that this program trained")
        saved = load_file(folder / HEAD_FILE)
        lm = load_merged(str(folder), dtype) if lm is None else lm
        net = cls(lm, _head_like(saved, lm, folder / REFERENCE, dtype))
        net.head.load_state_dict(saved)
        return net


def gathered_net(net: ScoreNet) -> ScoreNet:
    """A whole copy of a cut ScoreNet in the CPU's memory, to save; all processes together."""
    lm = gathered(net.lm)
    state = {name: whole_of(tensor).cpu() for name, tensor in net.head.state_dict().items()}
    plain = ScoreNet(lm, _head_like(state, lm))
    plain.head.load_state_dict(state)
    return plain


def train_what_is_read(net: ScoreNet, trained: bool = True) -> ScoreNet:
    """Let all weights be trained but an output layer that nothing reads; with `trained` false, none.

    DDP waits for the gradient of every trained weight.
    """
    net.requires_grad_(trained)
    output, embedding = net.lm.get_output_embeddings(), net.lm.get_input_embeddings()
    if isinstance(net.head, torch.nn.Linear) and output.weight is not embedding.weight:
        output.requires_grad_(False)
    return net


def check_scores(logits_S: torch.Tensor, name: str) -> torch.Tensor:
    """The logits of a reward model or critic; one that is no number is a UserError that names the model."""
    if not torch.isfinite(logits_S).all():
        bad = int((~torch.isfinite(logits_S)).sum())
        raise UserError(
            f"the model behind {name} gave {bad} of {logits_S.numel()} scores that are no numbers; expected finite ones: "
            "check its weights, or train it again at a lower learning rate"
        )
    return logits_S


def _head_like(
    saved: dict[str, torch.Tensor], lm, reference: Path | None = None, dtype: torch.dtype | None = None
) -> torch.nn.Module:
    """A head of the kind that was saved; the `reference` of an implicit reward is loaded from its folder."""
    if "beta" in saved:
        return Implicit(load_merged(str(reference), dtype).requires_grad_(False))
    if "label_ids" in saved:
        good, bad = saved["label_ids"].tolist()
        return LabelTokens(lm, (good, bad))
    return Likelihood() if saved["weight"].shape == (1, 2) else _zero_head(lm)


def _zero_head(lm) -> torch.nn.Linear:
    """A head that says one half everywhere."""
    head = torch.nn.Linear(lm.config.hidden_size, 1, dtype=torch.float32)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


HEADS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "state": _zero_head,
    "likelihood": lambda lm: Likelihood(),
    "implicit": lambda lm: Implicit(as_it_starts(lm)),
}


def packed_hidden(lm, ids_BT, positions_BT, tour_B2T) -> torch.Tensor:
    """Last hidden states of packed rows; every architecture takes a mask of four dimensions as it is."""
    if flexes(lm, ids_BT.device, ids_BT.shape[1]):
        ids, positions, mask = to_blocks(ids_BT, positions_BT, tour_B2T)
        inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "use_cache": False}
        return lm.base_model(**inputs).last_hidden_state[:, : ids_BT.shape[1]]
    mask = layer_masks(lm, tree_mask(tour_B2T), positions_BT)
    inputs = {
        "input_ids": ids_BT, "position_ids": positions_BT, "attention_mask": mask, "use_cache": False,
    }  # fmt: skip
    blocks = blocks_of(mask, lm.dtype) if isinstance(mask, torch.Tensor) and suits(lm, mask) else None
    if blocks is not None:
        inputs["blocks"] = blocks
    return lm.base_model(**inputs).last_hidden_state
