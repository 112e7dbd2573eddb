"""Keeps the layers: lower never imports higher, and each heavy library stays where it belongs."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    "verifiers",
    "tree records store columns config registry ledger metrics folder seal parts interrupt watchdog",
    "data losses policy engine tracking economics report",
    "scoring search signals",
    "trainers evals export",
    "stages run_config planning doctor commands pipeline cluster api serving viewing cli __main__",
]
LAYER_OF = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
ALLOWED = {
    "trl": [f"reasoner.trainers.{name}" for name in ("sft", "dpo", "distill", "pairwise")],
    "wandb": ["reasoner.tracking"],
}
NO_TORCH = (
    [f"reasoner.{name}" for name in LAYERS[1].split()]
    + ["verifiers", "reasoner.report", "reasoner.search", "reasoner.signals"]
    + [f"reasoner.scoring.{name}" for name in ("outcome", "aggregate")]
)
BAD_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "handler", "base"}
MAX_LINES = 400


def is_in(module: str, packages: list[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def layer(module: str) -> int | None:
    """The layer of one of our modules, -1 for the bare package, None for one without a layer."""
    parts = module.split(".")
    if parts[0] == "verifiers":
        return LAYER_OF["verifiers"]
    return LAYER_OF.get(parts[1]) if len(parts) > 1 else -1


def imported(source: str, module: str, is_package: bool) -> set[str]:
    """Every module that the source may import, at its top or inside functions, under its full name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            # `from reasoner import search` names a module, `from reasoner.tree import Tree` does not.
            found |= {f"{origin}.{alias.name}" for alias in node.names} if origin == "reasoner" else {origin}
    return found


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with a module, by its source and full name."""
    found = []
    own = layer(module)
    if own is None:
        found.append(f"{module} has no layer: give it one in LAYERS")
    for target in sorted(imported(source, module, is_package)):
        top = target.split(".")[0]
        if top in ("reasoner", "verifiers") and own is not None:
            other = layer(target)
            if module == "reasoner":
                continue  # the face, imported when it is used (tests/test_api.py)
            if module.startswith("verifiers") and top == "reasoner":
                found.append(f"{module} imports {target}: verifiers is a leaf")
            elif other is not None and other > own:
                found.append(f"{module} (layer {own}) imports {target} (layer {other})")
        if is_in(module, ["reasoner.search"]) and is_in(target, ["reasoner.scoring"]):
            found.append(f"{module} imports {target}: a search gets its scorer as an argument")
        if top in ALLOWED and not is_in(module, ALLOWED[top]):
            found.append(f"{module} imports {top}: only {', '.join(ALLOWED[top])} may")
        if top == "torch" and is_in(module, NO_TORCH):
            found.append(f"{module} imports torch")
    stem = module.split(".")[-1]
    if stem in BAD_NAMES or (stem in sys.stdlib_module_names and stem != "__main__"):
        found.append(f"{module} is called {stem}: name it after what it does, and not like a standard module")
    num_lines = len(source.splitlines())
    if num_lines > MAX_LINES:
        found.append(f"{module} has {num_lines} lines, over {MAX_LINES}: split it")
    return found


def all_modules() -> list[tuple[str, Path]]:
    paths = sorted(path for top in ("reasoner", "verifiers") for path in (ROOT / top).rglob("*.py"))
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts), path) for path in paths]


def test_repository_keeps_the_layers():
    assert len(all_modules()) > 5
    found = []
    for module, path in all_modules():
        is_package = path.name == "__init__.py"
        found += faults(path.read_text("utf-8"), module.removesuffix(".__init__"), is_package)
    assert found == []


def test_no_two_packages_import_each_other():
    assert mutual({m: p.read_text("utf-8") for m, p in all_modules()}) == []


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("import reasoner.signals.pairs", "from reasoner.scoring.outcome import judge", ["scoring, signals"]),
        (
            "import reasoner.signals.pairs",
            "def f():\n    from reasoner.scoring import outcome",
            ["scoring, signals"],
        ),
        ("import reasoner.signals.pairs", "from reasoner.signals.gae import gae", []),
    ],
)
def test_two_packages_that_import_each_other_are_found(first, second, found):
    assert mutual({"reasoner.scoring.critique": first, "reasoner.signals.reward": second}) == found


def mutual(sources: dict[str, str]) -> list[str]:
    """Pairs of our packages, or modules beside them, each of which imports the other."""
    edges = {
        (module.split(".")[1], target.split(".")[1])
        for module, source in sources.items() if module.startswith("reasoner.")
        for target in imported(source, module, False) if target.startswith("reasoner.")
    }  # fmt: skip
    return [f"{one}, {other}" for one, other in sorted(edges) if one < other and (other, one) in edges]


def test_the_wheel_holds_every_package_config_and_launch_file():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    there = {module.removesuffix(".__init__") for module, path in all_modules() if path.name == "__init__.py"}
    assert set(setuptools["packages"]) == there | {"reasoner.configs", "reasoner.launch"}, (
        "name the package in pyproject.toml"
    )
    carried = {
        package: {path for one in patterns
                  for path in (ROOT / setuptools["package-dir"].get(package, package.replace(".", "/"))).glob(one)}
        for package, patterns in setuptools["package-data"].items()
    }  # fmt: skip
    assert carried.pop("reasoner.configs") == {p for p in files_in("configs") if p.suffix != ".md"}
    launch = carried.pop("reasoner.launch")
    assert launch == files_in("launch") and ROOT / "launch/accelerate/two_processes.yaml" in launch
    # what documents show is for those who read them in the repository
    not_run = (".py", ".md", ".png", ".pyc")
    beside = {p for p in files_in("reasoner") if p.suffix and p.suffix not in not_run}
    assert set().union(*carried.values()) == beside, "name the files in pyproject.toml"


def files_in(folder: str) -> set[Path]:
    return {p for p in (ROOT / folder).rglob("*") if p.is_file()}


def test_ray_in_one_file():
    assert len(importers_of("ray", {m: p.read_text("utf-8") for m, p in all_modules()})) <= 1
    assert importers_of("ray", {"a": "import ray", "b": "import rays", "c": "from ray import remote"}) == [
        "a",
        "c",
    ]


def importers_of(library: str, sources: dict[str, str]) -> list[str]:
    return [m for m, s in sources.items() if any(t.split(".")[0] == library for t in imported(s, m, False))]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("verifiers.logic", "import reasoner.tree"),
        ("verifiers.logic", "import torch"),
        ("verifiers.sandbox.pool", "def f():\n    from reasoner import tree"),
        ("reasoner.tree", "from reasoner.engine.protocol import Engine"),
        ("reasoner.tree", "import torch.nn.functional as F"),
        ("reasoner.store", "def f():\n    import torch"),
        ("reasoner.config", "from reasoner import pipeline"),
        ("reasoner.data.sources", "from reasoner.search import chain"),
        ("reasoner.losses", "from .trainers.loop import run"),
        ("reasoner.engine.protocol", "from ..signals import packing"),
        ("reasoner.engine.protocol", "from .. import cli"),
        ("reasoner.search.beam", "from reasoner.scoring.prm import score"),
        ("reasoner.search.beam", "from torch import nn"),
        ("reasoner.signals.pairs", "import torch"),
        ("reasoner.signals.backup", "import torch"),
        ("reasoner.trainers.loop", "import trl"),
        ("reasoner.trainers.policy_gradient", "from trl import DPOTrainer"),
        ("reasoner.evals.run", "import reasoner.cli"),
        ("reasoner.trainers.loop", "import wandb"),
        ("reasoner.pipeline", "x = 1\n" * 401),
        ("reasoner.policy.utils", ""),
        ("reasoner.data.types", ""),
        ("reasoner.extras", ""),
    ],
)
def test_a_broken_rule_is_found(module, source):
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("verifiers.logic", "from verifiers.sandbox import pool\nimport ast"),
        ("reasoner.tree", "from verifiers import Verdict"),
        ("reasoner.store", "from reasoner.registry import UserError"),
        ("reasoner.scoring.prm", "import torch\nfrom reasoner import policy"),
        ("reasoner.trainers.pairwise", "from trl import RewardTrainer"),
        ("reasoner.tracking", "def f():\n    import wandb"),
        ("reasoner.__main__", "from reasoner.cli import main"),
        ("reasoner.pipeline", "x = 1\n" * 400),
    ],
)
def test_a_kept_rule_passes(module, source):
    assert faults(source, module) == []


def test_relative_imports_in_a_package_init():
    assert imported("from .beam import search", "reasoner.search", True) == {"reasoner.search.beam"}
    assert imported("from ..scoring import prm", "reasoner.search", True) == {"reasoner.scoring"}
    assert imported("from ..scoring import prm", "reasoner.search.beam", False) == {"reasoner.scoring"}


def test_layer_one_loads_without_torch():
    names = ", ".join(f"reasoner.{name}" for name in LAYERS[1].split())
    code = f"import sys, {names}; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


def test_help_is_there_at_once_and_the_shell_completes():
    """Half a second on one core: none of the libraries that take long to load."""
    code = (
        "import sys, time; sys.argv = ['reasoner', *sys.argv[1:]]; from reasoner.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy') if m in sys.modules], time.process_time())"
    )
    run = [sys.executable, "-c", code]
    shown = subprocess.run([*run, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, _, seconds = shown.stdout.splitlines()[-1].rpartition(" ")
    assert "Commands" in shown.stdout and loaded == "[]" and float(seconds) < 2
    asks = {
        **os.environ,
        "_REASONER_COMPLETE": "complete_bash",
        "COMP_WORDS": "reasoner ev",
        "COMP_CWORD": "1",
    }
    shown = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, env=asks)
    assert shown.stdout.splitlines()[0] == "evaluate"
