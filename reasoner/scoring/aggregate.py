"""From the scores of steps to the score of a solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from reasoner.store import read_json

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda s: s[-1],
    "min": min,
    "product": math.prod,
    "mean": lambda s: sum(s) / len(s),
    "geometric_mean": lambda s: math.prod(s) ** (1 / len(s)),
}

# The last step's score is a Monte-Carlo PRM's guess of the verdict, so that ranking by it is an outcome model's ranking;
# the weakest step ranks by what is inside (Wang et al. 2024, "Math-Shepherd", section 3.4). Labels by people or judges
# are about one step alone: the product is the chance that all are right (Lightman et al. 2023, section 2.6).
MONTE_CARLO, ABOUT_ONE_STEP = "min", "product"
BESIDE = ("last", "min", "product")  # best-of-n is reported by each of these
BY_LABEL_KIND = {
    **dict.fromkeys(("hard", "soft", "posterior", "spread"), MONTE_CARLO),
    **dict.fromkeys(("human", "judge", "exact"), ABOUT_ONE_STEP),
}
LABELS_FILE = "labels.json"  # beside a PRM's weights: {"kind": of the labels that it learned}


def default_aggregate(prm: str | Path | None) -> str:
    """What fits the labels that a PRM's folder says it learned; Monte-Carlo's where it says nothing."""
    file = Path(prm or "") / LABELS_FILE
    return BY_LABEL_KIND.get(read_json(file)["kind"], MONTE_CARLO) if file.is_file() else MONTE_CARLO
