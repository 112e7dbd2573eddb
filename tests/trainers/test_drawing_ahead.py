"""Rounds that servers draw ahead: by which weights, in which order, and what becomes of them after a kill or an error."""

import copy
import threading
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small_models import save_small_qwen, small_lm

from reasoner.config import ConfigError, validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.engine.asking import EngineClosed
from reasoner.engine.connect import EngineConfig, connect
from reasoner.engine.protocol import Request
from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA, SharedBase
from reasoner.policy.heads import PolicyNet
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.policy.snapshot import Snapshot, snapshot_of
from reasoner.records import PolicySample
from reasoner.trainers import policy_gradient
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.policy_batch import Models, prepare
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_draw import Position, Round
from reasoner.trainers.policy_gradient import train_policy
from reasoner.trainers.policy_update import update_once
from reasoner.trainers.rounds import Rounds
from reasoner.tree import Node, Problem, Tree
from tests.engine.stand_in import StandIn, serve
from tests.trainers.test_policy_gradient import QUICK, TEXTS, moved, problems

# --- which weights draw what


class Weights(Snapshot):
    """Of a trainer whose weights are the number of updates so far."""

    def __init__(self):
        super().__init__(None, None)
        self.now = 0

    def take(self) -> None:
        self.taken.append(self.now)  # pyright: ignore[reportArgumentType]

    def put(self) -> None:
        self.copy = self.taken.popleft() if self.taken else self.now


def scheduled(
    overlap: int, num: int, start: int = 0, at: Position | None = None, slow: str = ""
) -> list[str]:
    """What is loaded and drawn in which order by which weights, where each round is followed by one update."""
    told: list[str] = []
    weights, at = Weights(), at or Position()
    weights.now = start

    def load(version: int) -> None:
        weights.put()
        assert weights.copy == version

    def draw(number: int) -> Round:
        time.sleep(0.02 * (slow == "drawing"))
        told.append(f"{number} by {weights.copy}")
        return Round(generated=number)

    rounds = Rounds(draw, load, at, num, overlap, weights)
    for number in range(start, num):
        rounds.offer(number)
        assert rounds.take(number).generated == number
        time.sleep(0.02 * (slow == "learning"))
        weights.now += 1
    rounds.close()
    assert rounds.thread is None or not rounds.thread.is_alive()
    assert at.ahead == [] and at.generated == sum(range(num)) - sum(range(start))
    return told


@pytest.mark.parametrize("slow", ["drawing", "learning"])
@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (0, ["0 by 0", "1 by 1", "2 by 2", "3 by 3", "4 by 4"]),
        (1, ["0 by 0", "1 by 0", "2 by 1", "3 by 2", "4 by 3"]),
        (2, ["0 by 0", "1 by 0", "2 by 0", "3 by 1", "4 by 2"]),
    ],
)
def test_rounds_are_drawn_by_weights_of_fixed_age_whoever_is_faster(overlap, expected, slow):
    assert scheduled(overlap, 5, slow=slow) == expected


def test_a_run_that_goes_on_draws_what_was_not_drawn():
    """After two rounds with an overlap of 2 the third and fourth are in the checkpoint; with none there, three are drawn."""
    kept = Position(ahead=[Round(generated=2), Round(generated=3)])
    assert scheduled(2, 6, start=2, at=kept) == ["4 by 2", "5 by 3"]
    assert scheduled(2, 6, start=2) == ["2 by 2", "3 by 2", "4 by 2", "5 by 3"]


def test_rounds_that_are_dropped_are_drawn_anew_and_count():
    weights, at, told = Weights(), Position(), []
    rounds = Rounds(
        lambda n: told.append((n, weights.copy)) or Round(generated=10), lambda version: weights.put(), at, 9, 1, weights
    )  # fmt: skip
    rounds.offer(0)
    rounds.take(0)
    rounds.drop()
    assert at.ahead == [] and at.generated == 20
    weights.now = 7
    rounds.offer(1)
    rounds.take(1)
    rounds.rest()
    assert told == [(0, 0), (1, 0), (1, 7), (2, 7)] and len(at.ahead) == 1
    rounds.close()


@pytest.mark.parametrize(
    "ask", [lambda rounds: rounds.take(0), lambda rounds: rounds.rest()], ids=["take", "rest"]
)
def test_an_error_of_the_drawing_thread_comes_up_untouched(ask):
    fault = ZeroDivisionError("in the thread")

    def draw(number: int) -> Round:
        raise fault

    rounds = Rounds(draw, lambda version: None, Position(), 3, 1, Weights())
    rounds.offer(0)
    with pytest.raises(ZeroDivisionError) as found:
        ask(rounds)
    assert found.value is fault
    rounds.close()
    assert rounds.thread is not None and not rounds.thread.is_alive()


# --- copies of the weights


@pytest.mark.parametrize("is_adapter", [False, True], ids=["whole", "adapter"])
def test_a_snapshot_stays_as_it_is_and_shares_what_is_frozen(folder, is_adapter):
    lm = (
        SharedBase(str(folder), LoRA(r=2)).view("policy")
        if is_adapter
        else load_model(str(folder), torch.float32)
    )
    ids = torch.tensor([[5, 6, 7]])

    def says(model) -> torch.Tensor:
        with torch.no_grad():
            return model(ids).logits

    if not is_adapter:
        lm.requires_grad_(True)
    snapshot = snapshot_of(lm)
    versions = []
    for _ in range(3):
        with torch.no_grad():
            for p in lm.parameters():
                p.add_(0.1)
        versions.append(says(lm))
        snapshot.take()
    for said in versions:
        snapshot.put()
        assert torch.equal(says(snapshot.copy), said)
    assert not torch.equal(versions[0], versions[1])
    own = {p.data_ptr() for p in snapshot.copy.parameters()}
    assert own and own.isdisjoint(p.data_ptr() for p in lm.parameters())
    if is_adapter:
        bases = [m.shared.lm.get_input_embeddings().weight for m in (lm, snapshot.copy)]
        assert bases[0].data_ptr() == bases[1].data_ptr()


# --- importance weights


def test_old_trees_teach_what_new_ones_would():
    """Of one token each, and so enumerable: the expected gradient over what older weights draw is the present policy's own."""
    now = small_lm("qwen2")
    before = copy.deepcopy(now)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in before.parameters():
            p.add_(0.03 * torch.randn_like(p))
    prompt, num = [1, 2, 3], now.config.vocab_size
    chances = {name: torch.log_softmax(m(torch.tensor([prompt])).logits[0, -1].double(), -1).detach()
               for name, m in (("now", now), ("before", before))}  # fmt: skip
    earned = torch.linspace(-1, 1, num, dtype=torch.double).roll(7)
    assert float((chances["now"] - chances["before"]).abs().max()) > 0.3

    def gradient(reported: torch.Tensor) -> list[torch.Tensor]:
        """Of an update on every token, as often as the older weights draw it, whose log-probabilities are as reported."""
        tree = Tree.of_prompt(Problem("p", "", "", {}), prompt)
        for token in range(num):
            tree.add(Node(0, 3, (token,), logprobs=(float(reported[token]),)))
        drawn = chances["before"].exp()
        sample = PolicySample(
            tree,
            {i + 1: np.array([float(earned[i])]) for i in range(num)},
            {i + 1: np.array([float(drawn[i])]) for i in range(num)},
            [],
        )
        config = PolicyGradientStage(
            minibatches=1,
            importance_limit=1e6,
            sampler_limit=1e6,
            optimizer=OptimizerConfig(max_grad_norm=1e9),
        )
        lm = copy.deepcopy(now)
        models = Models(lm, PolicyNet(lm), None, None, None)
        batch = prepare([sample], models, config, "cpu")
        update_once(
            [batch], [], models, [torch.optim.SGD(lm.parameters(), lr=1.0)], config, Accelerator(cpu=True)
        )
        return [a.detach() - b.detach() for a, b in zip(lm.parameters(), now.parameters(), strict=True)]

    logp = torch.log_softmax(now(torch.tensor([prompt])).logits[0, -1], -1)
    exact = torch.autograd.grad(
        (logp.exp() * earned.float()).sum(), list(now.parameters()), allow_unused=True
    )
    size = torch.cat([g.flatten() for g in exact if g is not None]).norm()

    def off(found: list[torch.Tensor]) -> float:
        apart = [(a - g).flatten() for a, g in zip(found, exact, strict=True) if g is not None]
        return float(torch.cat(apart).norm() / size)

    assert off(gradient(chances["before"])) < 1e-3
    assert off(gradient(chances["now"])) > 0.05  # where nobody knew that older weights drew them


# --- in the loop, through a server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_qwen(tmp_path_factory.mktemp("small") / "model", TEXTS, vocab_size=280)


@pytest.fixture
def standing(folder):
    server = StandIn(str(folder))
    http = serve(server)
    yield server, {"kind": "vllm", "urls": [f"http://127.0.0.1:{http.server_port}"], "tolerance": 1e-3}
    http.shutdown()
    http.server_close()


def trained(folder, out, engine, options, log=None, checkpoints=None, of=None) -> tuple[dict, list[dict]]:
    """Final weights and the metrics of every round but wall times; no thread is left behind."""
    rows: list[dict] = []
    session = Session(
        out, Ledger(), lambda metrics, step: (rows.append(dict(metrics)), log and log(step)), checkpoints=checkpoints
    )  # fmt: skip
    config = validate(PolicyGradientStage, QUICK | {"engine": engine} | options, "test")
    prompting = Prompting(load_tokenizer(str(folder)), PromptConfig())
    try:
        with session.ledger.stage("ppo"):
            train_policy(str(folder), prompting, of or problems(), config, session)
    finally:
        session.ending.close()
        assert not [t for t in threading.enumerate() if t.name in ("rounds", "remote-engine")]
    for row in rows:
        del row["ppo/verdict_wait"]
        row.pop("ppo/draw_wait", None)
    (weights,) = (out / "model").glob("*.safetensors")
    return load_file(weights), rows


@pytest.fixture
def seen(monkeypatch) -> list[Round]:
    """Every round that is learned from."""
    rounds: list[Round] = []
    sift = policy_gradient.sift

    def noted(drawn, *more):
        rounds.append(copy.deepcopy(drawn))
        sift(drawn, *more)

    monkeypatch.setattr(policy_gradient, "sift", noted)
    return rounds


def versions(rounds: list[Round]) -> list[int]:
    found = [{n.weights_version for t in r.trees for n in t.nodes[1:]} for r in rounds]
    assert all(len(of_round) == 1 for of_round in found)
    return [of_round.pop() for of_round in found]


def test_a_policy_that_stays_draws_the_same_trees_ahead(folder, tmp_path, standing, seen):
    """All answers are right, which teaches nothing: rounds drawn ahead are those that would have been drawn in turn."""
    right, drawn = problems("small_verifiers:has", {"text": ""}), {}
    for overlap in (0, 1):
        seen.clear()
        options = {"rounds": 4, "overlap": overlap, "problems_per_round": 2, "audit": "off"}
        trained(folder, tmp_path / str(overlap), standing[1], options, of=right)
        drawn[overlap] = [[[n.token_ids for n in t.nodes] for t in r.trees] for r in seen]
        assert versions(seen) == [max(0, number - overlap) for number in range(4)]
    assert drawn[0] == drawn[1]
    assert len({str(of_round) for of_round in drawn[0]}) == 4  # of other problems, and by other noise


def test_a_round_is_drawn_while_one_is_learned_from(folder, tmp_path, standing, seen, monkeypatch):
    server, engine = standing
    asked = []
    learn = policy_gradient.learn

    def patient(drawn, round, loop):
        before, until = len(server.asked), time.monotonic() + 20 * (round < 2)
        while len(server.asked) == before and time.monotonic() < until:
            time.sleep(0.01)
        asked.append(len(server.asked) > before)
        return learn(drawn, round, loop)

    monkeypatch.setattr(policy_gradient, "learn", patient)
    _, rows = trained(folder, tmp_path, engine, {"rounds": 3, "overlap": 1, "sampler_limit": 9.0})
    assert asked == [True, True, False]  # the last one has nothing behind it
    assert [row["ppo/staleness"] for row in rows] == [0, 1, 1] == [row["ppo/staleness_max"] for row in rows]
    assert [row["ppo/kl_sampler"] > 1e-6 for row in rows] == [False, True, True]  # older weights drew them
    assert versions(seen) == [0, 0, 1]


@pytest.mark.parametrize(
    "options",
    [pytest.param({"overlap": 1}, marks=pytest.mark.slow), {"overlap": 2, "lora": {"r": 2}}],
    ids=["1", "2 with an adapter"],
)
def test_a_run_that_was_cut_off_ends_with_the_same_weights(folder, tmp_path, standing, options):
    """What was drawn ahead is in the checkpoint, curriculum and all: weights and every number are those of the whole run."""
    options = options | {"rounds": 4, "save_every": 2, "sampler_limit": 9.0, "curriculum": {"candidates": 2}}
    whole, rows = trained(folder, tmp_path / "whole", standing[1], options)

    def cut(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(folder, tmp_path / "cut", standing[1], options, log=cut, checkpoints=tmp_path / "kept")
    again, late = trained(folder, tmp_path / "cut", standing[1], options, checkpoints=tmp_path / "kept")
    assert late and late == rows[2:]
    assert moved(whole, again) == 0


def test_a_budget_that_is_spent_ends_a_draw_that_nobody_takes(folder, tmp_path, standing):
    """Within the draw: what ends it is the closing of the engine."""
    options = {"rounds": 50, "generated_tokens": 200, "overlap": 2, "sampler_limit": 9.0}
    _, rows = trained(folder, tmp_path, standing[1], options)
    assert 1 <= len(rows) < 6


def test_whoever_draws_from_a_closed_engine_is_told(folder, tmp_path, standing):
    server, options = standing
    engine = connect(
        validate(EngineConfig, options, ""), server.tokenizer, [0], load_model(str(folder)).config.vocab_size, 64, "", tmp_path
    )  # fmt: skip
    found, before = [], len(server.asked)
    server.lock.acquire()  # it answers nobody

    def draw() -> None:
        try:
            engine.sample([Request(0, [5, 6], 4, 0)])
            engine.sample([Request(1, [5, 6], 4, 0)])
        except EngineClosed as problem:
            found.append(problem)

    thread = threading.Thread(target=draw)
    thread.start()
    while len(server.asked) == before:
        time.sleep(0.01)
    engine.close()
    thread.join(10)
    server.lock.release()
    assert not thread.is_alive() and len(found) == 1


def test_the_local_engine_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"overlap=1 with engine\.kind local, whose draws would take the trainer's own cores",
    ):
        validate(PolicyGradientStage, {"overlap": 1}, "test")
