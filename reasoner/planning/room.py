"""How many bytes a run writes at least: models, checkpoints and trees, stage by stage, against what is free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.economics.memory import SINGLE, lora_parameters
from reasoner.economics.shape import count_parameters
from reasoner.planning.models import config_from, origin
from reasoner.planning.of_model import gigabytes
from reasoner.planning.work import chains_of
from reasoner.policy.models import TinyModel
from reasoner.registry import UserError
from reasoner.signals.advantages import CRITIC
from reasoner.stages.references import MAKES, Names, named
from reasoner.trainers.checkpoint import NUM_KEPT

TOKEN_BYTES = 12  # of a stored tree: an id, two log-probabilities and an entropy, compressed
FILLED = 0.25  # of the longest completion, where nobody knows how long answers get
MOMENTS = 2  # of the optimizer, beside each trained weight


@dataclass(frozen=True)
class Written:
    """What a stage writes, in bytes: what stays, what goes when it ends, and the keys that would make it less."""

    stage: str
    stays: float
    passes: float
    remedy: str


def written(stages: Sequence[Any], problems: Mapping[str, Sequence[Any]]) -> Iterator[Written]:
    """Per stage; what is known of no model on this machine is not counted."""
    earlier: dict[str, Any] = {}
    tokens: dict[str, float] = {}
    for stage in stages:
        key = f"stages.{stage.name}"
        source = [tokens.get(name, 0.0) for _, _, name in named(stage, Names)]
        stays, passes, remedy = 0.0, 0.0, ""
        if MAKES[stage.kind] in ("model", "reward model"):
            moved = _trained_values(stage, origin(stage, earlier))
            stays = moved * SINGLE
            if hasattr(stage, "optimizer"):
                passes = _checkpoints_at_once(stage) * (1 + MOMENTS) * moved * SINGLE
                if getattr(stage, "lora", None) is None:
                    remedy = f"train an adapter by {key}.lora={{r: 16, alpha: 32}}"
        elif MAKES[stage.kind] in ("trees", "records"):
            drawn = _tokens_drawn(stage, problems)
            tokens[stage.name] = drawn + max(source, default=0.0)
            stays = tokens[stage.name] * TOKEN_BYTES
            if drawn:
                remedy = f"lower {key}.num_problems"
        earlier[stage.name] = stage
        yield Written(stage.name, stays, passes, remedy)


def check_room(
    stages: Sequence[Any],
    problems: Mapping[str, Sequence[Any]],
    out: Path,
    is_done: Callable[[str], bool] = lambda name: False,
    free: float | None = None,
) -> None:
    """A UserError where the stages that are not done write more than is free in the run's folder, by the most at once."""
    there = next(p for p in (out.expanduser().absolute(), *out.expanduser().absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free if free is None else free
    needed = 0.0
    for part in written(stages, problems):
        if is_done(part.stage):
            continue
        had = _size(out / "models" / part.stage) + _size(out / "stages" / part.stage)
        at_once = needed + part.stays + part.passes - had
        if at_once > free:
            beside = f", or {part.remedy}" if part.remedy else ""
            raise UserError(
                f"out: by the stage {part.stage} the run will have written about {gigabytes(at_once)} and {gigabytes(free)} "
                f"are free in {there}; expected as much: free some, set out= to a larger disk{beside}"
            )
        needed += max(0.0, part.stays - had)


def _checkpoints_at_once(stage: Any) -> int:
    """Those that are kept and the one that is being written, or fewer where a stage saves less often in all."""
    given = getattr(stage, "trl", {}).get("max_steps")
    updates = getattr(stage, "rounds", None) or getattr(stage, "max_steps", None) or given
    most = NUM_KEPT + 1
    return min(most, updates // stage.save_every) if updates and hasattr(stage, "save_every") else most


def _trained_values(stage: Any, of: TinyModel | str) -> float:
    """Numbers that a stage trains and stores; 0 where its model is not on this machine."""
    if not isinstance(of, TinyModel) and not (of and Path(of).expanduser().is_dir()):
        return 0.0
    config = config_from(of)
    lora = getattr(stage, "lora", None)
    values = (
        float(count_parameters(config).total)
        if lora is None
        else float(lora_parameters(config, lora.r, lora.target_modules))
    )
    has_critic = hasattr(stage, "advantage") and stage.advantage.method in CRITIC
    return values * (2 if has_critic else 1)


def _tokens_drawn(stage: Any, problems: Mapping[str, Sequence[Any]]) -> float:
    """Tokens of the trees that a stage grows from prompts."""
    if not (hasattr(stage, "tree") and hasattr(stage, "num_problems")):
        return 0.0
    there = sum(source.size for name in stage.problems for source in problems.get(name, ()))
    whole, inside = chains_of(stage.tree)
    return min(stage.num_problems, there) * (whole + inside / 2) * FILLED * stage.max_tokens


def _size(folder: Path) -> float:
    files = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    return float(sum(os.path.getsize(file) for file in files if os.path.isfile(file)))
