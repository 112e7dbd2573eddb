"""reasoning-gym's scorers, called inside the sandbox only: several of them evaluate the answer."""

import json


def score(family: str, item: str, answer: str) -> float | str:
    """The family's score of an answer; a text says what is wrong with family or item."""
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        return f"unknown family {family!r}"
    try:
        entry = json.loads(item)
    except ValueError as problem:
        return f"item is no JSON: {problem}"
    if not isinstance(entry, dict) or "question" not in entry:
        return "item has no question"
    cls, configuration = DATASETS[family]
    return float(cls(configuration()).score_answer(answer, entry))


def warm_up() -> None:
    """Import what every scorer needs."""
    import reasoning_gym  # noqa: F401
