"""Strict YAML and `a.b=c` overrides into pydantic models. No interpolation, no reading of the environment."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from reasoner.registry import UserError, imported, lookup, nearest


class ConfigError(UserError, ValueError):
    """A config that can't be used; one line per fault: got, expected, what to do."""


class Config(BaseModel):
    """What every stage's config derives from: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Marker:
    """What a field declares about itself beside its type, as `key: Annotated[int, MayChange()]`."""


class MayChange(Marker):
    """How a stage works, or how long, and not what: the key may have another value when a half-done run goes on."""


class DataFile(Marker):
    """The key names a file or folder of data, which has to be there and to stay as it is; `unless` is a word that does not.

    `labels`: it is of a published format of labelled steps.
    """

    def __init__(self, unless: str = "", labels: bool = False):
        self.unless, self.labels = unless, labels


class Entry(Marker):
    """The key names entries of tables, or outside code as "package.module:function"; empty: none.

    The tables are named, "package.module:TABLE", since they stand behind the config in its module, or in a higher one.
    `what` says in errors what they hold; `also` are words that the key knows beside.
    """

    def __init__(self, what: str, *tables: str, also: tuple[str, ...] = ()):
        self.what, self.tables, self.also = what, tables, also

    def known(self) -> dict[str, Any]:
        tables = [imported(table, f"table of the {self.what}") for table in self.tables]
        return {
            **{name: entry for table in tables for name, entry in table.items()},
            **dict.fromkeys(self.also),
        }


M = TypeVar("M", bound=BaseModel)
K = TypeVar("K", bound=Marker)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the plain scalars of `_SCALARS`, string keys, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _fault(f"got the key {key!r}, expected a string; put it in quotes", key_node)
            if key in seen:
                raise _fault(f"got the key {key!r} twice, expected it once; remove one", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_truth(self, node: yaml.ScalarNode) -> bool:
        if node.value.lower() not in ("true", "false"):
            # YAML 1.1 reads these as booleans, YAML 1.2 as text, which `save_strategy: no` means.
            raise _fault(f'got {node.value}, expected true, false, or "{node.value}" in quotes', node)
        return node.value.lower() == "true"


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that `_Loader` would read as something else."""


# PyYAML reads 1e-3 as a string, 1:30 as 90, 010 as 8 and 2024-01-01 as a date. Here numbers are decimal and
# the rest is text.
_SCALARS = [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"(?i:true|false|yes|no|on|off)", list("tTfFyYnNoO")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
]
for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _SCALARS:
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.construct_truth)


def _fault(text: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        advice = "" if problem.startswith("got ") else "; expected valid YAML, correct it there"
        raise ConfigError(f"{place}: {problem}{advice}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError for a missing file, broken YAML, a key twice, or no mapping."""
    from reasoner.store import no_utf8  # it loads Arrow, which no help needs

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"got config {path}: {error.strerror}; expected a readable YAML file, check the path"
        ) from error
    if why := no_utf8(data):
        raise ConfigError(f"got config {path}: {why}")
    raw = _parse(data.decode("utf-8-sig"), str(path))
    if not isinstance(raw, dict):
        got = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise ConfigError(f"{path}: got {got}, expected a mapping; write lines of `key: value`")
    return raw


def apply_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """A copy of `raw` with each `a.b=c` set (keys or list indices; YAML values); else ConfigError."""
    result = copy.deepcopy(raw)
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"got override {override!r}, expected key=value; write e.g. stages.1.optimizer.lr=1e-5"
            )
        place: Any = result
        for i, part in enumerate(parts):
            if not isinstance(place, dict | list):
                above = ".".join(parts[:i])
                raise ConfigError(
                    f"override {override!r}: got {place!r} at {above}, expected a mapping or list; "
                    f"set {above} itself"
                )
            index: Any = _index(place, part, override) if isinstance(place, list) else part
            if i == len(parts) - 1:
                place[index] = override_value(text.strip(), override)
            elif isinstance(place, dict) and place.get(index) is None:
                place[index] = {}
            place = place[index]
    return result


def _index(place: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(place):
        expected = f"an index 0 to {len(place) - 1}" if place else "no index, since the list is empty"
        raise ConfigError(f"override {override!r}: got {part!r}, expected {expected}; correct it")
    return int(part)


def override_value(text: str, override: str) -> Any:
    """The value in an override's text, as YAML reads it; `override` is named in errors."""
    if text[:1] in ("[", "{", '"', "'"):
        return _parse(text, f"override {override!r}")
    # Anything else is one plain scalar, so that colons and hashes in prompts and paths need no quotes.
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    if tag == "tag:yaml.org,2002:bool":
        return _parse(text, f"override {override!r}")
    return loader.construct_object(yaml.ScalarNode(tag, text))


def validate(model: type[M], raw: dict[str, Any], where: str) -> M:
    """`raw` as a `model`; ConfigError with one line per fault, naming `where` and the full dotted key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [f"{where}: {_explain(model, raw, fault)}" for fault in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from error


def _explain(model: type[BaseModel], raw: Any, fault: Any) -> str:
    loc, kind = fault["loc"], fault["type"]
    key = _dotted(raw, loc, kind) or "the config"
    if kind == "extra_forbidden":
        known = sorted({name for m in _models_at(model, loc[:-1]) for name in m.model_fields})
        close = nearest(str(loc[-1]), known)
        todo = f"did you mean {close[0]}?" if close else "remove it"
        return f"{key}: got an unknown key, expected one of {', '.join(known) or 'none'}; {todo}"
    owner = [
        m.model_fields[loc[-1]] for m in _models_at(model, loc[:-1]) if loc and loc[-1] in m.model_fields
    ]
    meaning = f" ({owner[0].description})" if owner and owner[0].description else ""
    if kind == "missing":
        return f"{key}: got nothing, expected a value{meaning}; add the key"
    if kind == "value_error":
        return f"{key}: {fault['msg'].removeprefix('Value error, ')}{meaning}"
    expected = fault["msg"].removeprefix("Input should be ").rstrip(".")
    return f"{key}: got {fault['input']!r}, expected {expected}{meaning}; change it"


def _dotted(raw: Any, loc: tuple[str | int, ...], kind: str) -> str:
    """The key as the file's author wrote it: pydantic adds the names of union members, which are left out."""
    parts: list[str] = []
    place = raw
    part: Any
    for i, part in enumerate(loc):
        is_there = (isinstance(place, dict) and part in place) or (
            isinstance(place, list) and isinstance(part, int)
        )
        if is_there:
            place = place[part]
        if is_there or (kind == "missing" and i == len(loc) - 1):
            parts.append(str(part))
    return ".".join(parts)


def _models_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[type[BaseModel]]:
    """The models that may stand at one of pydantic's locations: several only for an untagged union."""
    models = [model]
    for part in loc:
        if isinstance(part, int):  # a place in a list, which a Literal of numbers may hold as well
            continue
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        named = [m for m in models if m.__name__ == part or _has_literal(m, part)]
        if fields:
            models = [m for field in fields for m in configs_in(field.annotation)]
        elif named:
            models = named
    return models


def _has_literal(model: type[BaseModel], value: str) -> bool:
    return any(value in get_args(field.annotation) for field in model.model_fields.values())


def configs_in(annotation: Any) -> list[type[BaseModel]]:
    """The configs that a type is made of, in the order in which they stand."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in get_args(annotation) for m in configs_in(argument)]


def save_resolved(model: BaseModel, path: str | Path) -> None:
    """Write the config with every default filled in, so that `read_yaml` gives back the same; atomic."""
    text = yaml.dump(
        model.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    from reasoner.store import write_text

    write_text(path, text)


def decisive(model: BaseModel, defaults: bool = True) -> dict[str, Any]:
    """The config in plain values without the keys that may change in a half-done run, or stand at their defaults."""

    def kept(value: Any, dumped: Any) -> Any:
        if isinstance(value, BaseModel):
            fields = type(value).model_fields
            names = [n for n in fields if not any(isinstance(m, MayChange) for m in fields[n].metadata)]
            names = [n for n in names if defaults or not _is_default(fields[n], getattr(value, n))]
            return {n: kept(getattr(value, n), dumped[n]) for n in names}
        if isinstance(value, dict):
            return {k: kept(v, d) for (k, v), d in zip(value.items(), dumped.values(), strict=True)}
        if isinstance(value, list | tuple):
            return [kept(v, d) for v, d in zip(value, dumped, strict=True)]
        return dumped

    return kept(model, model.model_dump(mode="json"))


def _is_default(field: FieldInfo, value: Any) -> bool:
    return not field.is_required() and field.get_default(call_default_factory=True) == value


def with_new_keys(known: Any, present: Any, given: Any) -> Any:
    """What was `known`, and of `present` the keys that are not in it and not `given` either: new ones at their defaults."""
    if isinstance(known, dict) and isinstance(present, dict) and isinstance(given, dict):
        new = {name: x for name, x in present.items() if name not in known and name not in given}
        return new | {
            name: with_new_keys(x, present.get(name), given.get(name, {})) for name, x in known.items()
        }
    if isinstance(known, list) and isinstance(present, list) and isinstance(given, list):
        return [with_new_keys(*three) for three in zip(known, present, given, strict=False)] + known[
            len(given) :
        ]
    return known


def check_entries(config: BaseModel, spoken: Callable[[str], str] = lambda key: key) -> None:
    """Every name of a table's entry is one; the first that is not is a UserError, which has the key as it is `spoken`."""
    for key, entry, value in marked(config, Entry):
        for name in filter(None, [value] if isinstance(value, str) else value or ()):
            try:
                lookup(entry.known(), name, entry.what)
            except UserError as problem:
                raise UserError(f"{spoken(key)}: {problem}") from problem


def marked(model: BaseModel, kind: type[K]) -> Iterator[tuple[str, K, Any]]:
    """(dotted key, marker, value) of every field that declares a marker of a kind, also inside nested configs."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        found = [m for m in (*field.metadata, *_metadata_in(field.annotation)) if isinstance(m, kind)]
        yield from ((name, m, value) for m in found)
        for part, inner in _configs_in(value, name):
            yield from ((f"{part}.{key}", m, v) for key, m, v in marked(inner, kind))


def declared(model: type[BaseModel], kind: type[K]) -> list[K]:
    """Every marker of a kind that the fields of a config declare, also inside configs that it may hold; once each."""
    found: list[K] = []
    models = [model]
    for owner in models:  # which grows while it is read
        for field in owner.model_fields.values():
            found += [m for m in (*field.metadata, *_metadata_in(field.annotation)) if isinstance(m, kind)]
            models += [m for m in configs_in(field.annotation) if m not in models]
    return list(dict.fromkeys(found))


def _configs_in(value: Any, key: str) -> Iterator[tuple[str, BaseModel]]:
    """(dotted key, config) of the configs that a value is or holds, in lists and mappings at any depth."""
    if isinstance(value, BaseModel):
        yield key, value
    elif isinstance(value, dict | list):
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _configs_in(inner, f"{key}.{part}")


def _metadata_in(annotation: Any) -> Iterator[Any]:
    """What Annotated carries anywhere inside a type, as in list[Annotated[...]] | None."""
    yield from getattr(annotation, "__metadata__", ())
    for argument in get_args(annotation):
        if not isinstance(argument, Marker):
            yield from _metadata_in(argument)


def difference(a: Any, b: Any) -> list[str]:
    """One line "dotted.key: a's value != b's value" per difference, of two `model_dump(mode="json")`."""
    return [f"{key}: {left} != {right}" for key, left, right in _differing(a, b, "")]


def _differing(a: Any, b: Any, key: str) -> list[tuple[str, str, str]]:
    if isinstance(a, dict) and isinstance(b, dict):
        names = [*a, *(name for name in b if name not in a)]
        pairs = [(name, a.get(name, _ABSENT), b.get(name, _ABSENT)) for name in names]
    elif isinstance(a, list) and isinstance(b, list):
        size = range(max(len(a), len(b)))
        pairs = [(i, a[i] if i < len(a) else _ABSENT, b[i] if i < len(b) else _ABSENT) for i in size]
    else:
        # By text, since NaN equals itself there and True does not equal 1.
        return [] if repr(a) == repr(b) else [(key, repr(a), repr(b))]
    return [line for name, x, y in pairs for line in _differing(x, y, f"{key}.{name}" if key else str(name))]


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()
