"""Checkpoints of networks that are cut over the processes; any other number of processes can go on from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from reasoner.store import saying_what_is_full
from reasoner.trainers.ranks import patient_group

OPTIONS = StateDictOptions(ignore_frozen_params=True)


def save_shards(folder: Path, nets: Sequence[torch.nn.Module], optimizers: Sequence[Any]) -> None:
    """Write the trained weights and the optimizers' states, each process its own part; all processes together."""
    with saying_what_is_full(folder):
        save(_states(nets, optimizers), checkpoint_id=str(folder), process_group=patient_group())


def load_shards(folder: Path, nets: Sequence[torch.nn.Module], optimizers: Sequence[Any]) -> None:
    """Read what `save_shards` wrote into the networks and optimizers; all processes together."""
    states = _states(nets, optimizers)
    load(states, checkpoint_id=str(folder), process_group=patient_group())
    for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
        state = states[str(i)]
        set_state_dict(
            net, optimizer, model_state_dict=state["weights"], optim_state_dict=state["optimizer"],
            options=StateDictOptions(strict=False),
        )  # fmt: skip


def _states(nets: Sequence[torch.nn.Module], optimizers: Sequence[Any]) -> dict[str, Any]:
    states = {}
    for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
        weights, moments = get_state_dict(net, optimizer, options=OPTIONS)
        states[str(i)] = {"weights": weights, "optimizer": moments}
    return states
