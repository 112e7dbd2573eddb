"""Points of test-time methods: what is charged, exact values over one pool of samples, the frontier, its picture."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from pydantic import TypeAdapter
from small_models import save_small_qwen

from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.economics.cost import Prices, price
from reasoner.engine.local import LocalEngine
from reasoner.evals.frontier import (
    Bench,
    Point,
    Spent,
    against,
    from_plain,
    frontier,
    points_of,
    rows_of,
    to_plain,
)
from reasoner.evals.tools import Solver, tools_of, view_of
from reasoner.ledger import Ledger
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.registry import UserError
from reasoner.report.frontier_chart import frontier_chart, frontier_of, method_curves
from reasoner.report.rows import grids
from reasoner.scoring.prm import score_steps
from reasoner.search.choose import majority
from reasoner.search.method import extend, from_end, from_root
from reasoner.search.methods import MethodConfig
from reasoner.store import to_json
from reasoner.tree import Problem, Tree
from verifiers import Verdict

METHODS = TypeAdapter(list[MethodConfig])
PRICES = Prices.model_validate({})


def spent(tokens: float) -> Spent:
    return Spent(tokens / 2, 7.0, tokens / 2, 0.0, 0.0, 0.0, 0.0)


def point(method: str, tokens: float, outcomes, num=4) -> Point:
    return Point("b", "m", method, num, 1.0, "independent", spent(tokens), {}, [float(x) for x in outcomes])


@pytest.fixture(scope="module")
def solver(tmp_path_factory):
    folder = save_small_qwen(tmp_path_factory.mktemp("lm"), ["1+2=\n3\n#### 3 and 4 5 6 7"], 300)
    lm = load_model(str(folder))
    prompting = Prompting(
        load_tokenizer(str(folder)), PromptConfig.model_validate({"template": "{prompt}=\n"})
    )
    ledger = Ledger()
    engine = LocalEngine(lm, [prompting.eos_id], 16, 64, ledger=ledger)
    prm, orm = ScoreNet(load_model(str(folder))).eval(), ScoreNet(load_model(str(folder))).eval()
    for net in (prm, orm):
        net.head.weight.data.fill_(0.3)
    return Solver("small", engine, prompting, ledger, prm, orm)


def parity(response: str) -> Verdict:
    """A verifier of this test: a response is right where its length is even; its answer is the length modulo 4."""
    return Verdict(
        "correct" if len(response) % 2 == 0 else "incorrect", "ok" if len(response) % 2 == 0 else "wrong"
    )


def sometimes(response: str, breaks: bool) -> Verdict:
    """A verifier of this test, which fails on some problems."""
    return Verdict("error", "internal_error", detail="down") if breaks else parity(response)


def bench(num=4) -> Bench:
    problems = [Problem(f"p{i}", f"{i}+{i + 1}", "test_frontier:parity", {}) for i in range(num)]
    return Bench("sums", problems, 12, 0, PRICES)


@pytest.fixture(scope="module")
def points(solver):
    methods = METHODS.validate_python([
        {"name": "greedy"}, {"name": "majority"}, {"name": "best_of"}, {"name": "best_of", "scorer": "orm"},
        {"name": "weighted_majority"}, {"name": "early_stop"}, {"name": "beam", "branching": 2},
    ])  # fmt: skip
    return points_of(bench(), solver, methods, [1, 2, 4])


def test_every_method_at_every_budget(points):
    names = {p.name for p in points}
    assert {
        "greedy",
        "majority",
        "majority @2",
        "majority @4",
        "best_of orm @4",
        "beam @4",
        "early_stop @4",
    } <= names
    assert "early_stop @2" not in names  # below its first wave
    assert all(len(p.outcomes) == 4 and sum(p.causes.values()) == pytest.approx(4) for p in points)
    assert {p.drawn for p in points if p.method == "beam"} == {"tree"}


def test_progress_moves_within_a_method(solver):
    told: list[tuple[int, int, str]] = []
    methods = METHODS.validate_python([
        {"name": "majority", "num_samples": 2}, {"name": "best_of", "num_samples": 2},
        {"name": "beam", "num_samples": 2, "branching": 2},
    ])  # fmt: skip
    points_of(bench(), solver, methods, [], lambda *it: told.append(it))
    done = [at for at, _, _ in told]
    assert done == sorted(done) and {total for _, total, _ in told} == {12}  # four problems by three methods
    assert {at for at, _, note in told if note == "2 samples each"} == {0, 1, 2, 3, 4}
    assert min(at for at, _, note in told if note == "beam") == 8


def test_one_sample_is_the_same_whatever_chooses(points):
    ones = [p for p in points if p.num_samples == 1 and p.method != "greedy"]
    assert len(ones) == 4
    for p in ones:
        assert p.outcomes == pytest.approx(ones[0].outcomes)


def test_pool_equals_enumeration_of_subsets(solver, points):
    """Majority and best of 2 of 4 samples against all six pairs."""
    trees = [Tree.of_prompt(p, solver.prompting.prompt_ids(p.prompt)) for p in bench().problems]
    tools = tools_of(solver, 12, 0)
    with solver.ledger.stage("test"):
        new = extend(
            trees,
            [from_root(t, 4) for t in trees],
            tools,
            METHODS.validate_python([{"name": "majority"}])[0].sampling,
        )
        tools.prm(trees)
    found = {p.name: p for p in points}
    for i, (tree, leaves) in enumerate(zip(trees, new, strict=True)):
        texts = [tools.decode(tree.completion_ids(leaf)) for leaf in leaves]
        right = [len(t) % 2 == 0 for t in texts]
        scores = [tree.path_scores("prm", leaf)[-1] for leaf in leaves]
        from reasoner.search.answers import answer_classes, read_answer

        classes = answer_classes(tree.problem, [read_answer(tree.problem, t) for t in texts])
        votes, best = [], []
        for pair in combinations(range(4), 2):
            winner = majority([classes[j] for j in pair])
            votes.append(
                next((right[j] for j in pair if classes[j] == winner), False) if winner is not None else False
            )
            key = max(pair, key=lambda j: (classes[j] is not None, scores[j]))
            best.append(right[key])
        assert found["majority @2"].outcomes[i] == pytest.approx(np.mean(votes))
        assert found["best_of @2"].outcomes[i] == pytest.approx(np.mean(best))


def test_what_a_pool_charges_is_what_its_method_alone_takes(solver, points):
    """Against the ledger of drawing and scoring the four samples on a fresh engine."""
    from reasoner.evals.frontier import _run_alone

    alone = _run_alone(bench(), solver, METHODS.validate_python([{"name": "best_of", "num_samples": 4}])[0])
    pooled = next(p for p in points if p.name == "best_of @4")
    for kind in ("decoded", "scored", "verifications"):
        assert getattr(pooled.spent, kind) == pytest.approx(getattr(alone.spent, kind))
    # alone, problems may share the first tokens of their prompts; what is prefilled or reused adds up to the same
    assert pooled.spent.prefilled + pooled.spent.reused == pytest.approx(
        alone.spent.prefilled + alone.spent.reused
    )
    assert pooled.outcomes == alone.outcomes


def test_frontier_and_equal_tokens():
    points = [
        point("greedy", 10, [1, 0, 0, 0], 1), point("majority", 40, [1, 1, 0, 0]), point("majority", 80, [1, 1, 1, 0], 8),
        point("beam", 60, [1, 1, 1, 1]), point("best_of", 90, [1, 0, 1, 0]),
    ]  # fmt: skip
    assert [p.name for p in frontier(points)] == ["greedy", "majority @4", "beam @4"]
    found = {a.name: (b.name, d.difference, d.wins, d.losses) for a, b, d in against(points)}
    assert found == {
        "greedy": ("majority @4", -0.25, 0, 1),
        "beam @4": ("majority @8", 0.25, 1, 0),  # the cheapest majority with at least as many tokens
        "best_of @4": ("majority @8", -0.25, 0, 1),  # the dearest one where none has as many
    }


def test_rows_make_tables_and_the_picture():
    points = [
        point("majority", 40, [1, 1, 0, 0]),
        point("majority", 80, [1, 1, 1, 0], 8),
        point("<b>", 60, [1, 1, 1, 1]),
    ]
    rows = rows_of(points, "evaluate")
    (title,) = [g.title for g in grids(rows) if g.title.startswith("Test-time")]
    assert title == "Test-time methods, m, b"
    ((name, curves),) = method_curves(rows).items()
    assert name == "m, b" and [(c.method, len(c.points)) for c in curves] == [("majority", 2), ("<b>", 1)]
    assert [p.tokens for p in frontier_of(curves)] == [40, 60]
    svg = frontier_chart(curves)
    assert svg.count('class="ring"') == 2 and "&lt;b&gt;" in svg and "<b>" not in svg


def test_an_empty_benchmark_is_one_line(solver):
    with pytest.raises(UserError, match="no problems"):
        points_of(bench(0), solver, METHODS.validate_python([{"name": "greedy"}]), [])


def test_a_view_scores_as_the_whole_tree_does(solver):
    """Only the new nodes and their paths are read, and get the scores that the whole tree would give them."""
    problem = bench(1).problems[0]
    tree = Tree.of_prompt(problem, solver.prompting.prompt_ids(problem.prompt))
    tools = tools_of(solver, 12, 0)
    with solver.ledger.stage("view"):
        extend(
            [tree],
            [from_root(tree, 2)],
            tools,
            METHODS.validate_python([{"name": "majority"}])[0].sampling,
            max_tokens=4,
        )
        tools.prm([tree])
        first = solver.ledger.counts["view"]["prm"]["scored"]
        extend(
            [tree],
            [from_end(tree, 1, 2)],
            tools,
            METHODS.validate_python([{"name": "majority"}])[0].sampling,
            max_tokens=8,
        )
        tools.prm([tree])
    step_scores = {i: list(v) for i, v in tree.scores["prm"].items()}
    tree.scores.clear()
    score_steps(solver.prm, [tree], "whole")
    for node, values in step_scores.items():
        assert values == pytest.approx(tree.scores["whole"][node], abs=1e-5)
    view, number = view_of(tree, {3, 4})
    assert number == [0, 1, 3, 4]
    new = sum(len(n.token_ids) for n in view.nodes)
    assert solver.ledger.counts["view"]["prm"]["scored"] == first + new


def test_price_by_hand():
    prices = Prices(
        gpu_hour=3600.0,
        peak_tflops=1.0,
        parallel_utilisation=0.5,
        decode_utilisation=0.1,
        cpu_hour=3600.0,
        verification_seconds=0.5,
    )
    # a dollar per second of 1e12 operations; 2e9 parameters: 4e9 operations a token
    counts = {"prefilled": 1000, "reused": 5000, "decoded": 100, "scored": 500, "verifications": 2}
    expected = 4e9 * 1000 / 0.5e12 + 4e9 * 100 / 0.1e12 + 2e9 * 500 / 0.5e12 + 2 * 0.5
    assert price(counts, 2 * 10**9, 10**9, prices) == pytest.approx(expected)


def test_what_our_side_failed_to_judge_is_in_no_mean(solver):
    """Two of twelve problems cannot be judged: they are missing, not wrong, in each point, row and comparison."""
    problems = [
        Problem(f"p{i}", f"{i}+{i + 1}", "test_frontier:sometimes", {"breaks": i in (3, 7)})
        for i in range(12)
    ]
    plain = [Problem(p.id, p.prompt, "test_frontier:parity", {}) for p in problems]
    methods = METHODS.validate_python(
        [{"name": "greedy"}, {"name": "majority"}, {"name": "beam", "branching": 2}]
    )
    broken, whole = (
        points_of(Bench("sums", of, 12, 0, PRICES), solver, methods, [2]) for of in (problems, plain)
    )
    kept = [i for i in range(12) if i not in (3, 7)]
    for a, b in zip(broken, whole, strict=True):
        assert [math.isnan(x) for x in a.outcomes] == [i in (3, 7) for i in range(12)]
        assert a.known == [b.outcomes[i] for i in kept]
        assert a.accuracy == pytest.approx(np.mean([b.outcomes[i] for i in kept]))
        assert a.causes["our_error"] == pytest.approx(2) and sum(a.causes.values()) == pytest.approx(12)
    rows = {(r.metric, r.method): r for r in rows_of(broken, "stage")}
    assert rows["accuracy", "greedy"].n == 10
    assert next(r for (metric, _), r in rows.items() if metric == "accuracy_gain").n == 10
    written = json.loads(to_json(to_plain(broken)))
    for a, b in zip(broken, map(from_plain, written), strict=True):
        assert a.known == b.known and (a.name, a.spent, a.causes) == (b.name, b.spent, b.causes)
    nothing = point("majority", 5, [math.nan] * 2)
    assert frontier([nothing, point("beam", 9, [0, 1])]) == [point("beam", 9, [0, 1])]
    assert against([nothing, point("beam", 9, [0, 1])]) == []
    assert [r.metric for r in rows_of([nothing], "stage") if r.metric.startswith("accuracy")] == []
