"""Train language models to reason: trees of chains of thought, verifiers, process rewards, step-level PPO.

The names below are the Python face; each is imported when it is first used, so that `import reasoner` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoner.api import grow, labels, pass_at_k, problems, run, score, solve, train
    from reasoner.evals.load import load
    from reasoner.evals.solve import Solved
    from reasoner.evals.tools import Solver
    from reasoner.records import StepLabels
    from reasoner.registry import UserError
    from reasoner.search.grow import Branch
    from reasoner.store import read_records, read_trees, write_trees
    from reasoner.tree import Node, Problem, Trajectory, Tree
    from verifiers import Verdict, verify

__version__ = "0.1.0"
__all__ = [
    "Branch", "Node", "Problem", "Solved", "Solver", "StepLabels", "Trajectory", "Tree", "UserError", "Verdict", "grow",
    "labels", "load", "pass_at_k", "problems", "read_records", "read_trees", "run", "score", "solve", "train", "verify",
    "write_trees",
]  # fmt: skip

_FROM = {
    "reasoner.api": "grow labels pass_at_k problems run score solve train",
    "reasoner.evals.load": "load",
    "reasoner.evals.solve": "Solved",
    "reasoner.evals.tools": "Solver",
    "reasoner.records": "StepLabels",
    "reasoner.registry": "UserError",
    "reasoner.search.grow": "Branch",
    "reasoner.store": "read_records read_trees write_trees",
    "reasoner.tree": "Node Problem Trajectory Tree",
    "verifiers": "Verdict verify",
}
_MODULE_OF = {name: module for module, names in _FROM.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'reasoner' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
