"""A reward model as a classifier that transformers loads by itself, with the same scores.

Ours reads a logit z where a step ends. The classifier has two labels, wrong and right, with logits 0 and z (of a linear
head) or the two label words' own: softmax over them is sigmoid(z).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, AutoModelForTokenClassification

from reasoner.policy.heads import LabelTokens, ScoreNet
from reasoner.policy.models import load_tokenizer, save
from reasoner.registry import UserError

LABELS = {0: "wrong", 1: "right"}


def export_head(folder: Path, out: Path) -> None:
    """Save a reward model as AutoModelForTokenClassification loads it, in float32, an adapter merged into its base.

    A head that is no linear map of one hidden state, and an architecture without such a classifier, are a UserError.
    """
    net = ScoreNet.load(folder, dtype=torch.float32)
    weight_2D, bias_2 = _two_rows(net)
    config = copy.deepcopy(net.lm.config)
    config.num_labels, config.id2label = len(LABELS), LABELS
    config.label2id = {label: i for i, label in LABELS.items()}
    config.architectures = None
    if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{folder} is of the architecture {config.model_type}, for which transformers has no token classifier; expected "
            "one that has: score with this program, which needs none"
        )
    classifier = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
    classifier.base_model.load_state_dict(net.lm.base_model.state_dict())
    layer = _output_of(classifier)
    with torch.no_grad():
        layer.weight.copy_(weight_2D)
        if layer.bias is not None:
            layer.bias.copy_(bias_2)
        elif bias_2.any():
            raise UserError(
                f"{folder} has a head with a bias, and the token classifier of {config.model_type} has none; expected one "
                "that has: score with this program, which needs none"
            )
    save(classifier.eval(), load_tokenizer(str(folder)), out)


def _two_rows(net: ScoreNet) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and biases of the two labels' logits."""
    if isinstance(net.head, LabelTokens):
        good, bad = net.lm.get_output_embeddings().weight[net.head.label_ids].detach().float()
        return torch.stack([bad, good]), torch.zeros(2)
    if isinstance(net.head, torch.nn.Linear):
        zero = torch.zeros_like(net.head.weight)
        return torch.cat([zero, net.head.weight]).detach(), torch.cat(
            [torch.zeros(1), net.head.bias]
        ).detach()
    raise UserError(
        "this reward model reads the log-probabilities of all tokens so far (reads: likelihood or implicit), which no classifier "
        "of transformers does; expected a head on the hidden state: train it with reads: state, or score with this program"
    )


def _output_of(classifier: Any) -> torch.nn.Linear:
    """The layer that makes the labels' logits, whatever the architecture calls it."""
    inside = set(classifier.base_model.modules())
    (layer,) = (m for m in classifier.modules() if isinstance(m, torch.nn.Linear) and m not in inside)
    return layer
