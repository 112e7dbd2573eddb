"""Names of table entries in a config: every field that holds one declares it, and all are looked up before the first stage."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

import reasoner
from reasoner.config import (
    Config,
    Entry,
    Marker,
    _metadata_in,
    apply_overrides,
    configs_in,
    read_yaml,
    validate,
)
from reasoner.pipeline import RunConfig, check, run
from reasoner.registry import UserError
from tests.stages.test_references import SMOKE, of

# keys that hold text, or names of what is outside this program: everything else names a stage, a set, a file or an entry
FREE_TEXT = {
    "RunConfig": {"out", "title", "wandb", "problems", "ray"},
    "SolveConfig": {"model", "question", "prm", "orm", "prompt"},
    "PromptConfig": {"template", "chat_template", "system", "stop", "delimiter"},
    "SourceConfig": {"split", "families", "domain"},
    "EngineConfig": {"urls", "executable", "arguments", "served", "dtype"},
    "LoRA": {"target_modules"},
    "Budget": {"end_think", "end_text", "wait_text"},
    "SelfCritique": {"ask_text", "yes_text", "no_text", "revise_text"},
    "Sampled": {"label"},
    "TraceConfig": {"link"},
    "SelfCorrection": {"link"},
    "Invent": {"prompt"},
    "Repeat": {"first"},
    "RewardModelStage": {"label_tokens"},
    "StepBenchmarks": {"benchmarks"},
    "Mixture": {"weights", "at_end"},  # of the stage's own problem sets, which checks them
    "TwoTasks": {"label_prefix", "rationale_prefix"},
    **{trl: {"trl"} for trl in ("SFTStage", "DPOStage", "DistillStage", "PairwiseStage")},
    **{
        reads: {"label_kind"} for reads in ("PRM", "Critiques")
    },  # beside the key that names the stage, which checks it
}


def all_configs() -> list[type[Config]]:
    for module in pkgutil.walk_packages(reasoner.__path__, "reasoner."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type) -> Iterator[type]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    return sorted(
        {k for k in below(Config) if k.__module__.startswith("reasoner.")}, key=lambda k: k.__qualname__
    )


def markers(config: type[BaseModel], name: str) -> list[Marker]:
    field = config.model_fields[name]
    return [m for m in (*field.metadata, *_metadata_in(field.annotation)) if isinstance(m, Marker)]


def holds_text(annotation: Any) -> bool:
    return annotation is str or (
        get_origin(annotation) is not Literal and any(map(holds_text, get_args(annotation)))
    )


def test_every_key_of_text_says_what_it_names():
    """The next field that names an entry cannot be forgotten: without a declaration it is told here."""
    configs, silent, declared = all_configs(), [], 0
    for config in configs:
        free = set().union(*(FREE_TEXT.get(k.__name__, set()) for k in config.__mro__))
        for name, field in config.model_fields.items():
            is_own_name = name == "name" and "kind" in config.model_fields
            if holds_text(field.annotation) and not is_own_name and name not in free:
                declared += bool(markers(config, name))
                if not markers(config, name):
                    silent.append(f"{config.__qualname__}.{name}")
    assert silent == []
    assert declared > 60


def places(config: type[BaseModel], above: tuple[tuple[type[BaseModel], str], ...] = ()) -> Iterator[tuple]:
    """Every key below a config that names entries, as the (config, field) on the way to it."""
    for name, field in config.model_fields.items():
        way = (*above, (config, name))
        if any(isinstance(m, Entry) for m in markers(config, name)):
            yield way
        for inner in configs_in(field.annotation):
            yield from places(inner, way)


PLACES = list(places(RunConfig))


def wrapped(annotation: Any, inner: Any) -> Any:
    """A value of the annotation's form that holds `inner`."""
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is list:
        return [wrapped(arguments[0], inner)]
    if kind is dict:
        names_by_key = isinstance(inner, str) and not holds_text(arguments[1])
        return {inner: 1.0} if names_by_key else {"x": wrapped(arguments[1], inner)}
    holding = [
        a for a in arguments if type(inner) in configs_in(a) or (isinstance(inner, str) and holds_text(a))
    ]
    return wrapped(holding[0], inner) if holding else inner


def required(config: type[BaseModel], name: str) -> Any:
    """Anything that a key which has no default may hold."""
    annotation = config.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    entries = [next(iter(m.known())) for m in markers(config, name) if isinstance(m, Entry)]
    return entries[0] if entries else {} if get_origin(annotation) is dict else []


def holding(way: tuple, value: Any) -> Any:
    """A RunConfig whose one key has a value, all others as they are by default."""
    for config, name in reversed(way):
        needed = {n: required(config, n) for n, field in config.model_fields.items() if field.is_required()}
        value = config.model_construct(
            **{**needed, name: wrapped(config.model_fields[name].annotation, value)}
        )
    return value


def spoken(way: tuple) -> str:
    return ".".join(f"{config.__name__}.{name}" for config, name in way[1:] or way)


@pytest.mark.parametrize("way", PLACES, ids=spoken)
def test_an_unknown_entry_is_told_before_the_first_stage(way):
    config, name = way[-1]
    (entry,) = (m for m in markers(config, name) if isinstance(m, Entry))
    known = next(iter(entry.known()))
    for wrong in (f"{known}x", "no_such_module:function", "math:no_such_function"):
        with pytest.raises(UserError, match=f"got {entry.what} '{wrong}'") as fault:
            check(holding(way, wrong))
        assert f".{name}: " in str(fault.value) and "\n" not in str(fault.value)


def test_all_defaults_are_entries():
    looked_at = 0
    for config in all_configs():
        for name, field in config.model_fields.items():
            for entry in markers(config, name):
                if isinstance(entry, Entry) and isinstance(field.default, str | list) and field.default:
                    values = [field.default] if isinstance(field.default, str) else field.default
                    assert set(values) <= set(entry.known()), (config, name)
                    looked_at += 1
    assert looked_at > 25


@pytest.mark.parametrize(
    ("name", "key", "value", "parts"),
    [
        ("ppo", "advantage.method", "grpoo", ["stages.ppo.advantage.method: got advantage method 'grpoo'", "grpo"]),
        ("ppo", "loss", "gpso", ["stages.ppo.loss: got loss 'gpso'", "did you mean gspo?"]),
        ("evaluate", "aggregate", "mim", ["stages.evaluate.aggregate: got aggregate 'mim'", "min"]),
        ("label", "kinds", "[hard, sotf]", ["stages.label.kinds: got label kind 'sotf'", "did you mean soft?"]),
    ],
)  # fmt: skip
def test_a_run_is_refused_before_it_has_a_folder(tmp_path, name, key, value, parts):
    raw = apply_overrides(read_yaml(SMOKE), [f"out={tmp_path / 'run'}", of(name, key, value)])
    with pytest.raises(UserError) as fault:
        run(validate(RunConfig, raw, "smoke"))
    assert all(part in str(fault.value) for part in parts)
    assert not (tmp_path / "run").exists()


def test_outside_code_is_an_entry_everywhere(tmp_path):
    """Also where a table was once indexed: what is named "module:function" is called."""
    raw = apply_overrides(
        read_yaml(SMOKE), [f"out={tmp_path}", of("evaluate", "aggregate", "statistics:median")]
    )
    check(validate(RunConfig, raw, "smoke"))
