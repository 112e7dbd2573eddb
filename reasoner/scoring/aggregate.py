"""From the scores of steps to the score of a solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda s: s[-1],
    "min": min,
    "product": math.prod,
    "mean": lambda s: sum(s) / len(s),
    "geometric_mean": lambda s: math.prod(s) ** (1 / len(s)),
}

# Monte-Carlo labels are values, already about the whole future; labels by people or judges are about one
# step alone (Zhang et al. 2025, "Lessons of developing PRMs", figure 9)
BY_LABEL_KIND = {"hard": "last", "soft": "last", "human": "product", "judge": "product", "exact": "product"}
