"""What a run tells: the same numbers beside a bar and as lines, a line per round and stage, and nothing from other ranks."""

import io
import re

import pytest
from rich.console import Console

from reasoner.commands import progress
from reasoner.commands.progress import Pace, clock, speed, telling, told

ROUND = {
    "ppo/reward": 0.4123,
    "ppo/loss": 1e-9,
    "ppo/kl_ref": 0.0,
    "ppo/kl_step": 0.00217,
    "ppo/length": 24.06,
}


@pytest.fixture
def seconds(monkeypatch):
    """The clock, in a list that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(report, seconds, is_first=True, **options):
    console = Console(file=io.StringIO(), width=80, **options)
    with telling(["sft", "ppo"], console, is_first) as tell:
        report(tell, seconds)
    return console.file.getvalue().splitlines()


def two_rounds(tell, seconds):
    tell("ppo", 0, 0, "", {})
    for i in (1, 2):
        seconds[0] += 10
        tell("ppo", i, 4, "rounds", {**ROUND, "decoded": 5000 * i, "trained": 9e9})
    seconds[0] += 20
    tell("ppo", 1, 1, "", {**ROUND, "decoded": 20100, "seconds": 40.2})


def test_a_line_for_each_round_and_for_the_stage(seconds):
    assert lines(two_rounds, seconds) == [
        "ppo           1/4 rounds  reward 0.412  KL 0.00217  length 24.1  500 tokens/s  ETA 0:30",
        "ppo           2/4 rounds  reward 0.412  KL 0.00217  length 24.1  500 tokens/s  ETA 0:20",
        "ppo           40 s  reward 0.412  KL 0.00217  length 24.1  500 tokens/s",
    ]


def test_the_tokens_of_earlier_starts_go_with_their_seconds(seconds):
    def resumed(tell, seconds):
        seconds[0] += 1
        tell("ppo", 1, 1, "", {**ROUND, "decoded": 20100, "seconds": 40.2})

    assert lines(resumed, seconds)[-1].endswith("  500 tokens/s")


def test_a_stage_that_goes_on_has_no_speed_of_what_was_done_before(seconds):
    def resumed(tell, seconds):
        tell("ppo", 0, 0, "", {"goes_on": 1.0})
        for i in (3, 4, 5):
            seconds[0] += 10
            tell("ppo", i, 7, "rounds", {"ppo/reward": 0.5, "decoded": 5000 * i})

    assert lines(resumed, seconds) == [
        "ppo           3/7 rounds  reward 0.5",
        "ppo           4/7 rounds  reward 0.5  500 tokens/s  ETA 0:30",
        "ppo           5/7 rounds  reward 0.5  500 tokens/s  ETA 0:20",
    ]


def test_the_bar_has_the_same_numbers_and_fits_80_columns(seconds):
    shown = lines(two_rounds, seconds, force_terminal=True, color_system=None)
    assert any("40 s reward 0.412 KL 0.00217 500 tokens/s" in line for line in shown)
    assert all(len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)) <= 80 for line in shown)


def test_what_does_not_fit_beside_the_bar_is_left_out_from_the_end(seconds):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with progress._bars(console) as bars:
        tell = progress._on_bars(bars, {"ppo": bars.add_task("ppo", total=None, start=False, note="")})
        tell("ppo", 0, 0, "", {})
        seconds[0] += 1000
        tell("ppo", 1, 400, "", {**ROUND, "decoded": 5_000_000})
        note = bars.tasks[0].fields["note"]
    assert note == "1/400 reward 0.412 5,000 tokens/s ETA 110:50:00"


def test_updates_between_rounds_are_told_at_times(seconds):
    def many(tell, seconds):
        tell("sft", 0, 0, "", {})
        for i in range(1, 601):  # ten minutes
            seconds[0] += 1
            tell("sft", i, 1200, "", {"sft/loss": 2.5})
        tell("sft", 1, 1, "", {"sft/loss": 2.5, "seconds": 600.0})

    shown = lines(many, seconds)
    assert 20 < len(shown) < 60
    assert shown[0] == "sft           11/1,200  loss 2.5  ETA 19:49"
    assert shown[-1] == "sft           600 s  loss 2.5"


def test_a_stage_that_was_done_before_and_other_ranks():
    done = lines(lambda tell, _: tell("sft", 1, 1, "done before", {"seconds": 3.0}), None)
    assert done == ["sft           done before"]
    assert (
        lines(lambda tell, _: tell("sft", 1, 1, "done before", {"seconds": 3.0}), None, is_first=False) == []
    )


def test_a_resumed_stage_tells_its_own_speed():
    pace = Pace(0.0)
    pace.add(
        10.0, 50, 1000
    )  # fifty rounds were done before, ten seconds went into loading and one more round
    pace.add(20.0, 51, 1200)
    assert speed(pace, 51, 61) == ["20 tokens/s", "ETA 1:40"]


def test_verdicts_are_told_as_a_share():
    counts = {"rollout/correct": 3, "rollout/incorrect": 5, "rollout/no_answer": 2, "rollout/error": 90}
    assert told(counts) == ["reward 0.3"]
    assert told({"x/loss": float("nan"), "stage": "x"}) == []


def test_clock():
    assert [clock(s) for s in (0.4, 62, 7205)] == ["0:00", "1:02", "2:00:05"]
