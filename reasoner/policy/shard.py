"""Weights, gradients and optimizer states cut over all processes: torch's fully_shard, layer by layer.

The one place that knows about it, with the same code over gloo and NCCL. The weights that are kept are float32; where
the hardware has bfloat16 a layer is gathered and computed in it. A network is called as a whole (heads.PolicyNet,
heads.ScoreNet), and every process calls it equally often.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from reasoner.config import Config
from reasoner.policy.machine import autocasts, own_device
from reasoner.policy.recompute import Contexts
from reasoner.registry import UserError

FREE_SHARE = 0.5  # of a GPU's free memory, that a whole copy to sample from may take


class Sharding(Config):
    """Cut weights, gradients and optimizer states over all processes (FSDP, Zhao et al. 2023)."""

    offload: bool = Field(
        default=False,
        description="keep them in the memory of the CPU, and on a GPU only the layer that is computed",
    )
    keep_gathered: bool = Field(
        default=False,
        description="keep layers gathered between forward and backward pass: more memory, less traffic",
    )


def shard(net: torch.nn.Module, options: Sharding, recompute: bool = False) -> None:
    """Cut a network around a causal LM (`lm`; a head as `head`) in place; its parameters are DTensors from here on.

    With `recompute` the layers are computed again in the backward pass.
    """
    lm: Any = net.lm
    _shard_layers(lm, options, recompute, _compute_format())
    head = getattr(net, "head", None)
    if head is not None and any(True for _ in head.parameters()):
        fully_shard(head, **_how(options, MixedPrecisionPolicy()))  # a head computes in float32
    fully_shard(net, **_how(options, _compute_format()))


def shard_base(
    lm: Any, adapted: set[torch.nn.Parameter], options: Sharding, around: Contexts | None = None
) -> None:
    """Cut the layers of a frozen base in place; the weights of its adapters stay whole on every process.

    With `around` the layers are computed again in the backward pass, inside its contexts.
    """
    _shard_layers(lm, options, around is not None, MixedPrecisionPolicy(), around, adapted)


def _shard_layers(
    lm: Any,
    options: Sharding,
    recompute: bool,
    precision: MixedPrecisionPolicy,
    around: Contexts | None = None,
    ignored: set[torch.nn.Parameter] | None = None,
) -> None:
    layers = [m for m in lm.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"{lm.config.model_type} models have no layers that can be cut apart; expected an architecture of "
            "transformers with decoder layers: train without shard"
        )
    for layer in layers:
        if recompute:
            # inside the hooks that gather a layer, which would else gather it once more
            layer.forward = _recomputed(layer.forward, around or (lambda: (nullcontext(), nullcontext())))
        fully_shard(layer, **_how(options, precision), ignored_params=ignored)


def _recomputed(forward: Callable, around: Contexts) -> Callable:
    def again(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=around, **kwargs)

    return again


def _how(options: Sharding, precision: MixedPrecisionPolicy) -> dict[str, Any]:
    offload = CPUOffloadPolicy() if options.offload and own_device().type != "cpu" else OffloadPolicy()
    return {
        "mesh": mesh(),
        "reshard_after_forward": not options.keep_gathered,
        "mp_policy": precision,
        "offload_policy": offload,
    }


def _compute_format() -> MixedPrecisionPolicy:
    if not autocasts():
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


@cache
def mesh() -> DeviceMesh:
    """All processes in a row; a process that is alone makes a group of one."""
    device = own_device().type
    if not dist.is_initialized():
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return init_device_mesh(device, (dist.get_world_size(),))


def is_sharded(net: torch.nn.Module) -> bool:
    """Whether any of a network's weights is cut."""
    return any(isinstance(p, DTensor) for p in net.parameters())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor: of one that is not cut, all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, on this process's device; all processes ask together."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    detached: Any = tensor.detach()
    return detached.to(own_device().type).full_tensor()


def copy_to_sample_from(lm: Any, draws: bool) -> Any:
    """A whole copy of a causal LM, or an Adapter, that is not cut yet.

    The rule: this process's engine draws from it where it takes at most half of the device's free memory, else servers
    must draw (UserError). With servers (`draws` false) it stays in the CPU's memory, to send and to prove their weights.
    """
    device = own_device()
    dtype = torch.bfloat16 if autocasts() and draws else torch.float32
    inner = getattr(lm, "shared", None)
    size = sum(p.numel() for p in (inner.lm if inner else lm).parameters()) * dtype.itemsize
    if draws and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if size > FREE_SHARE * free:
            raise UserError(
                f"a whole copy of the model to sample from takes {size / 2**30:.1f} GiB of the {free / 2**30:.1f} GiB that "
                "are free; expected at most half: let servers draw, engine={kind: vllm, urls: [...]}"
            )
    plain = copy.deepcopy(lm).requires_grad_(False).eval()
    return plain.to(device, dtype) if draws else plain


def gather_into(plain: torch.nn.Module, trained: torch.nn.Module) -> None:
    """Give a whole copy the weights that are trained, one tensor at a time; all processes together."""
    targets = dict(plain.named_parameters())
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            targets[name].copy_(whole(weight))


def gathered(lm: Any) -> Any:
    """A whole copy of a cut causal LM in the CPU's memory of the first process, without weights on the others, to save.

    All processes together.
    """
    is_kept = dist.get_rank() == 0
    state: dict[str, torch.Tensor] = {}
    for name, tensor in lm.state_dict().items():
        full = whole(tensor)
        if is_kept:
            state[name] = full.cpu()
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(lm.config)
    plain.load_state_dict(state, strict=False, assign=True)
    plain.tie_weights()
    plain.generation_config = lm.generation_config
    return plain
