"""Every key that an error or a warning names is a key of some configuration, and every shown command can be given."""

import ast
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from test_documents import documents

import reasoner
from reasoner.config import Config, apply_overrides, read_yaml, validate

ROOT = Path(__file__).parent.parent
for _module in pkgutil.walk_packages(reasoner.__path__, "reasoner."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)

TELLING = {"UserError", "ConfigError", "warning"}
NOT_OURS = {
    *(
        "config.yaml",
        "metrics.jsonl",
        "config.json",
        "tokenizer.json",
        "e.g",
        "package.module",
        "llama.cpp",
    ),  # other words with a dot
    *("key", "eos_token", "base_model_name_or_path"),  # in "key=value", of tokenizers and adapters
}


def keys() -> set[str]:
    """The keys of all configurations, and the names that a literal table gives to functions."""
    found, waiting = set(), [Config]
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        found |= set(config.model_fields)
    return found | NOT_OURS


def tables() -> set[str]:
    """The keys of every literal table of names at a module's top."""
    found = set()
    for path in (ROOT / "reasoner").rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            table = getattr(node, "value", None)
            if isinstance(table, ast.Dict):
                found |= {
                    k.value for k in table.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)
                }
    return found


def named(text: str) -> set[str]:
    """What is given as a key: dotted names, what stands before "=", and what one is told to set, raise or lower."""
    text = re.sub(r"\S*/\S*", " ", text)  # paths
    dotted = re.findall(r"(?<![\w.])[a-z_]+(?:\.[a-z_0-9]+)+(?!\w)", text)
    parts = {
        part for name in dotted if name not in NOT_OURS for part in name.split(".") if not part.isdigit()
    }
    given = re.findall(r"(?<![\w.-])([a-z_]+)=", text)
    told = re.findall(r"\b(?:set|raise|lower) ([a-z]+(?:_[a-z0-9]+)+)\b", text)
    return parts | set(given) | set(told)


def unknown(source: str, known: set[str]) -> list[tuple[int, str]]:
    """(line, name) of what errors and warnings of a source name and nothing knows."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in TELLING:
            texts = [
                n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            found += [(node.lineno, name) for text in texts for name in sorted(named(text) - known)]
    return found


def test_the_keys_that_errors_name_exist():
    known = keys() | tables()
    found = [
        (str(path.relative_to(ROOT)), *place)
        for path in sorted((ROOT / "reasoner").rglob("*.py"))
        for place in unknown(path.read_text("utf-8"), known)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["write e.g. trainer.lr=1e-5", "set learning_rat", "set lrr=1"])
def test_a_key_that_is_none_is_found(text):
    assert unknown(f"raise UserError({text!r})", keys() | tables())
    assert not unknown("raise UserError('set stages.1.optimizer.lr=1e-5, or num_slots')", keys())


def commands() -> list[str]:
    """The lines of documents and of shipped comments that start a run."""
    texts = [*documents(), *sorted((ROOT / "configs").rglob("*.yaml"))]
    lines = [
        line.lstrip("# ").partition(" #")[0]
        for path in texts
        for line in path.read_text("utf-8").splitlines()
    ]
    return [line for line in lines if re.match(r"reasoner (run|train|evaluate) configs/", line)]


@pytest.mark.parametrize("command", commands())
def test_a_shown_command_can_be_given(command):
    from reasoner.pipeline import RunConfig

    config, *overrides = [word for word in shlex.split(command)[2:] if word != "…"]
    assert validate(RunConfig, apply_overrides(read_yaml(ROOT / config), overrides), command).stages
