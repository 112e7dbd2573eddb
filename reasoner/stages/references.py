"""What the keys of a stage name: outputs of earlier stages, problem sets, data; all of it is checked before the first stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from reasoner.config import Config, DataFile, Marker, marked
from reasoner.data.rows import SourceConfig
from reasoner.registry import UserError, nearest
from reasoner.scoring.reward_models import kind_and_path

# what each kind of stage makes for later ones, beside the rows that a report shows
MAKES: dict[str, str] = {
    "init": "model",
    "import": "records",
    "sft": "model",
    "invent": "problems",
    "rollout": "trees",
    "verify": "trees",
    "complete": "trees",
    "label": "records",
    "critiques": "records",
    "prm": "reward model",
    "orm": "reward model",
    "pairwise": "reward model",
    "ppo": "model",
    "dpo": "model",
    "distill": "model",
    "keep": "model",
    "evaluate": "rows",
    "step_benchmarks": "rows",
    "self_correction": "rows",
}
_SERVES = {"model": ("model", "reward model")}  # a reward model holds a causal LM
_NO_STAGE = {
    "anything": "no earlier stage",
    "model": "no earlier stage",
    "reward model": "no earlier stage that makes a reward model",
    "trees": "no earlier stage that makes trees",
    "records": "no earlier stage that makes records",
}
# the kinds of records that a stage may write; a stage without an entry writes what its files hold
RECORDS: dict[str, Callable[[Any], set[str]]] = {
    "label": lambda stage: {
        "outcome", "pairs", "step_pairs", "traces", *stage.kinds,
        *(f"{kind}_{what}" for kind in stage.kinds for what in ("votes", "agreed") if stage.judge or stage.critic),
    },
    "critiques": lambda stage: {"traces", "pairs", "tasks"},
}  # fmt: skip


@dataclass(frozen=True)
class Names(Marker):
    """The key names an earlier stage that makes `what`; with `elsewhere`, a folder or a hub name will do as well.

    For records, `kind` is the kind that is read, or `kind_key` the key of the same stage that says it.
    """

    what: str
    elsewhere: bool = False
    kind: str = ""
    kind_key: str = ""


@dataclass(frozen=True)
class AmongKey(Marker):
    """The key repeats values of another key of the same stage."""

    key: str


@dataclass(frozen=True)
class NamesProblems(Marker):
    """The key names problem sets; what is only read is not `judged`, and what is imitated has to be `solved`."""

    judged: bool = True
    solved: bool = False


ModelName = Annotated[str, Names("model", elsewhere=True)]
RewardModelName = Annotated[str, Names("reward model", elsewhere=True)]
TreesOf = Annotated[str, Names("trees")]
StageOf = Annotated[str, Names("anything")]
ProblemSet = Annotated[str, NamesProblems()]
ReadSet = Annotated[str, NamesProblems(judged=False)]
ShownSet = Annotated[str, NamesProblems(judged=False, solved=True)]


def check_references(stages: Sequence[Any], problems: Mapping[str, Any], out: Path) -> None:
    """Every name in a stage's keys is what the key asks for; the first that is not is a UserError."""
    earlier: dict[str, Any] = {}
    made = [stage.name for stage in stages if MAKES[stage.kind] == "problems"]
    for name in made:
        if name in problems:
            raise UserError(
                f"stages.{name} makes a problem set, and problems.{name} is one of the same name; expected another name: "
                f"rename one of the two"
            )
    for stage in stages:
        for key, _, name in named(stage, NamesProblems):
            if name in made and name not in earlier:
                raise UserError(
                    f"stages.{stage.name}.{key} is {name!r}, whose problems are made by a stage that does not stand above; "
                    f"expected one that does: move {name} up"
                )
            if name not in problems and name not in made:
                known = [*problems, *(n for n in made if n in earlier)]
                raise _fault(stage, key, name, "no problem set", "", known)
        for key, names, name in named(stage, Names):
            _check_name(stage, key, names, name, earlier, out)
        for key, among, name in named(stage, AmongKey):
            known = getattr(stage, among.key)
            if name not in known:
                raise _fault(stage, key, name, f"not among its {among.key}", "", known)
        for key, path in data_in(stage):
            check_data(f"stages.{stage.name}.{key}", path)
        earlier[stage.name] = stage


def data_in(config: Config) -> list[tuple[str, str]]:
    """(key, path) of the data that a config names."""
    return [(key, path) for key, marker, path in named(config, DataFile) if path != marker.unless]


def check_data(where: str, path: str) -> None:
    """A data file or folder that is not there is a UserError."""
    if path and not Path(path).expanduser().exists():
        raise UserError(f"{where}: no data at {path}; expected a file or a folder of them")


def named(stage: Config, kind: type[Any]) -> Iterator[tuple[str, Any, str]]:
    """(key, marker, name) for every name that the stage's keys of a kind hold, also in lists."""
    for key, marker, value in marked(stage, kind):
        for name in [value] if isinstance(value, str) else value or ():
            if name:
                yield key, marker, name


def earlier_stages(stage: Config, stages: Sequence[Any]) -> list[str]:
    """The names of those of the stages that the stage reads from."""
    outputs, sets = ({name for _, _, name in named(stage, kind)} for kind in (Names, NamesProblems))
    return [s.name for s in stages if s.name in outputs or (MAKES[s.kind] == "problems" and s.name in sets)]


def made_file(out: Path, stage: str) -> Path:
    """Where a stage writes the problem set that it makes."""
    return out / "records" / stage / "problems.jsonl"


def made_sets(stages: Iterable[Any], out: Path) -> dict[str, list[SourceConfig]]:
    """The problem sets that stages make."""
    return {
        s.name: [
            SourceConfig.model_validate(
                {"name": "jsonl", "path": str(made_file(out, s.name)), "size": s.num_problems}
            )
        ]
        for s in stages
        if MAKES[s.kind] == "problems"
    }


def _check_name(stage: Any, key: str, names: Names, name: str, earlier: dict[str, Any], out: Path) -> None:
    fitting = _SERVES.get(names.what, (names.what,))
    known = [n for n, s in earlier.items() if names.what == "anything" or MAKES[s.kind] in fitting]
    if name in known:
        kinds = RECORDS.get(earlier[name].kind, lambda _: None)(earlier[name])
        kind = getattr(stage, names.kind_key) if names.kind_key else names.kind
        if kinds is not None and kind and kind not in kinds:
            raise _fault(stage, names.kind_key or key, kind, f"not what {name} makes", "", sorted(kinds))
        return
    if names.elsewhere and name not in earlier:
        name = kind_and_path(name)[1] if names.what == "reward model" else name
        made_before = any(Path(name).is_relative_to(out / "models" / n) for n in known)
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        if Path(name).expanduser().is_dir() or made_before or ("/" in name and not looks_local):
            return
        if looks_local:
            raise UserError(
                f"stages.{stage.name}.{key}: there is no folder {name}; expected a Hugging Face model folder"
            )
    what = _NO_STAGE[names.what]
    or_else = (" and no folder", ", or a hub name like Qwen/Qwen2.5-0.5B") if names.elsewhere else ("", "")
    raise _fault(stage, key, name, what + or_else[0], or_else[1], known)


def _fault(
    stage: Any, key: str, name: str, what: str, or_else: str, known: Sequence[str] | Mapping
) -> UserError:
    close = nearest(name, known)
    hint = f"did you mean {close[0]}? " if close else ""
    return UserError(
        f"stages.{stage.name}.{key} is {name!r}, which is {what}; {hint}expected one of: "
        f"{', '.join(known) or 'none so far'}{or_else}"
    )
