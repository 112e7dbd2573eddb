"""The last line of a run names what the run has made, and nothing else."""

import shlex
from types import SimpleNamespace

from reasoner.commands.onward import next_commands


def test_only_what_was_made_is_named(tmp_path):
    stages = [
        SimpleNamespace(kind=kind, name=name)
        for kind, name in (("init", "base"), ("sft", "first"), ("ppo", "second"), ("prm", "steps"))
    ]
    stages.append(SimpleNamespace(kind="sft", name="for_as_long", seconds_of=["second"]))
    run = tmp_path / "my run"
    config = SimpleNamespace(out=str(run), stages=stages)

    def words() -> list[list[str]]:
        return [shlex.split(command) for command in next_commands(config)]

    view = ["reasoner", "view", str(run)]
    for folder in ("base/model", "steps/model", "second/critic", "for_as_long/model"):
        (run / "models" / folder).mkdir(parents=True)
    (run / "trees/rollout").mkdir(parents=True)
    assert words() == [view, ["reasoner", "chat", str(run / "models/for_as_long/model")]]
    (run / "models/first/model").mkdir(parents=True)
    assert words() == [view, ["reasoner", "chat", str(run / "models/first/model")]]
    (run / "models/second/model").mkdir()
    (run / "trees/rollout/0.parquet").touch()
    chat = ["reasoner", "chat", str(run / "models/second/model")]
    assert words() == [view, ["reasoner", "show", str(run)], chat]
