"""What an answer costs in money: floating-point operations on an accelerator, and seconds of a CPU for verifiers."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from reasoner.config import Config
from reasoner.ledger import flops


class Prices(Config):
    """A machine to price tokens on; the defaults are one H100 at a rental price of 2025."""

    gpu_hour: float = Field(2.5, ge=0, description="dollars per accelerator hour")
    peak_tflops: float = Field(989.0, gt=0, description="dense bfloat16 TFLOP/s of the accelerator")
    parallel_utilisation: float = Field(
        0.4, gt=0, le=1, description="share of the peak reached on prefill and reward models"
    )
    decode_utilisation: float = Field(
        0.05, gt=0, le=1, description="share of the peak reached on decoding, which waits for memory"
    )
    cpu_hour: float = Field(0.05, ge=0, description="dollars per CPU-core hour")
    verification_seconds: float = Field(0.02, ge=0, description="core seconds of one verification")


def price(counts: Mapping[str, float], num_params: int, num_scorer_params: int, prices: Prices) -> float:
    """Dollars for counts of the ledger's counters; reused prefixes cost no operations, and so nothing here.

    2N operations per token (Kaplan et al. 2020, section 2.1), at the utilisation of its kind.
    """
    per_flop = prices.gpu_hour / 3600 / (prices.peak_tflops * 1e12)
    parallel = flops(num_params, int(counts.get("prefilled", 0)), False)
    parallel += flops(num_scorer_params, int(counts.get("scored", 0)), False)
    decoded = flops(num_params, int(counts.get("decoded", 0)), False)
    checked = counts.get("verifications", 0) * prices.verification_seconds * prices.cpu_hour / 3600
    return per_flop * (parallel / prices.parallel_utilisation + decoded / prices.decode_utilisation) + checked
