"""Stages that are gone through again and again: each round becomes stages of its own before anything is checked or run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from reasoner.config import Config, marked
from reasoner.folder import StageName
from reasoner.stages import StageConfig
from reasoner.stages.references import MAKES, AmongKey, Names, NamesProblems


class Repeat(Config):
    """Rounds of the same stages: in round 2 of `r` the stage `rollout` is called r2_rollout, with files of its own.

    A name of one of the stages means that of the same round where it stands above, else that of the round before.
    """

    kind: Literal["repeat"]
    name: StageName = Field("r", description="what stands before a round's number in the names of its stages")
    rounds: int = Field(ge=1, description="how often the stages are gone through")
    first: dict[str, str] = Field(
        {}, description="what the first round takes for a stage of the round before it, e.g. {keep: sft}"
    )
    stages: list[Annotated[StageConfig, Field(discriminator="kind")]] = Field(
        min_length=1, description="the stages of a round, in order"
    )


def expanded(stages: Sequence[Any]) -> list[Any]:
    """The stages with every `repeat` as the stages of its rounds; a name that no round has is a ValueError."""
    found: list[Any] = []
    for stage in stages:
        found += _rounds(stage) if isinstance(stage, Repeat) else [stage]
    for stage in found:
        if stage.kind == "rollout" and not stage.of_round and stage.mixture and stage.mixture.at_end:
            raise ValueError(
                f"got mixture.at_end in {stage.name}, which is gone through once; expected rounds over which its shares move: "
                "put it into a stage of kind repeat, or leave at_end out"
            )
    return found


def _rounds(repeat: Repeat) -> Iterator[Any]:
    own = [stage.name for stage in repeat.stages]
    sets = [stage.name for stage in repeat.stages if MAKES[stage.kind] == "problems"]
    for name in repeat.first:
        if name not in own:
            raise ValueError(
                f"first names {name!r}, which is no stage of the rounds; expected one of: {', '.join(own)}"
            )
    for number in range(1, repeat.rounds + 1):
        for i, stage in enumerate(repeat.stages):

            def spoken(name: str, i: int = i, number: int = number) -> str:
                if name not in own:
                    return name
                before = own.index(name) >= i
                if before and number == 1:
                    return _first(repeat, name)
                return f"{repeat.name}{number - before}_{name}"

            yield _renamed(
                stage, f"{repeat.name}{number}_{stage.name}", number, repeat.rounds, spoken, sets
            )  # fmt: skip


def _first(repeat: Repeat, name: str) -> str:
    if name not in repeat.first:
        raise ValueError(
            f"the first round reads {name!r} of a round before it, and there is none; expected it in first, e.g. "
            f"first: {{{name}: sft}}"
        )
    return repeat.first[name]


def _renamed(
    stage: Any, name: str, number: int, rounds: int, spoken: Callable[[str], str], sets: Sequence[str]
) -> Any:
    """The stage of a round: other names, and the round's number where the stage counts rounds or versions."""
    plain = stage.model_dump(mode="json")
    by_kind = {Names: spoken, AmongKey: spoken, NamesProblems: lambda n: spoken(n) if n in sets else n}
    for kind, say in by_kind.items():
        for key, _, value in marked(stage, kind):
            if value:
                new = say(value) if isinstance(value, str) else [say(one) for one in value]
                _put(plain, key.split("."), new)
    if plain.get("mixture"):
        for key in ("weights", "at_end"):
            named = plain["mixture"][key].items()
            plain["mixture"][key] = {spoken(n) if n in sets else n: weight for n, weight in named}
    counted = {key: number for key in ("of_round", "version") if key in plain}
    if plain.get("mixture") and "of_rounds" in plain:
        counted["of_rounds"] = rounds
    return type(stage).model_validate({**plain, **counted, "name": name})


def _put(place: Any, keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[keys[-1]] = value
