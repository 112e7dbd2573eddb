"""Answers and chains as two tasks: what each shows, the loss by hand, and a teacher with another tokenizer."""

import math
from types import SimpleNamespace

import pytest
import torch
from small_models import save_small_qwen

from reasoner.config import ConfigError, validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.ledger import Ledger
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.records import SFTExample
from reasoner.signals.two_tasks import TwoTasks, two_tasks
from reasoner.stages.sft import as_told
from reasoner.trainers.loop import Session
from reasoner.trainers.sft import SFTStage, train_sft
from reasoner.trainers.trl_settings import PairedRows

A, B, C = 10, 11, 12
TEXTS = ["one and two are three\n", "three and four are seven\n"] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of bigrams: after A comes B with 1/2, after B comes C with 1/4, after C comes B with 1/8."""
    path = save_small_qwen(tmp_path_factory.mktemp("small") / "model", TEXTS, vocab_size=280)
    lm = load_model(str(path), torch.float32)
    size, width = lm.get_input_embeddings().weight.shape
    head = torch.zeros(size, width)
    for at, (after, chance) in enumerate([(B, 1 / 2), (C, 1 / 4), (B, 1 / 8)]):
        head[:, at] = math.log((1 - chance) / (size - 1)) / math.sqrt(width)
        head[after, at] = math.log(chance) / math.sqrt(width)
    with torch.no_grad():
        for p in lm.base_model.layers.parameters():
            p.zero_()
        lm.get_input_embeddings().weight.zero_()
        for at, token in enumerate((A, B, C)):
            lm.get_input_embeddings().weight[token, at] = 1.0
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = torch.nn.Parameter(head)
    save(lm, load_tokenizer(str(path)), path)
    return path


def example(prompt: list[int], completion: list[int]) -> SFTExample:
    return SFTExample("p", "", "", prompt, completion)


LABELS = [example([A], [B]), example([1, A], [B, C])]  # in units of log 2: 1 | 1 + 2
RATIONALES = [example([A], [B, C, B]), example([1, 2, A], [B])]  # 1 + 2 + 3 | 1


@pytest.mark.parametrize(("options", "expected"), [
    ({"batch_size": 2, "two_tasks": {}}, 4 / 3 + 7 / 4),
    ({"batch_size": 2, "two_tasks": {"rationale_weight": 0.5}}, 4 / 3 + 0.5 * 7 / 4),
    # two pairs one after the other: the mean of (1 + 6/3) and (3/2 + 1)
    ({"batch_size": 1, "two_tasks": {}, "trl": {"gradient_accumulation_steps": 2}}, 2.75),
    ({"batch_size": 4}, 11 / 7),  # as one task: a mean over all tokens
])  # fmt: skip
def test_the_loss_is_the_sum_of_two_means_over_tokens(folder, tmp_path, options, expected):
    rows = []
    session = Session(tmp_path, Ledger(), lambda metrics, step: rows.append(dict(metrics)))
    of_test = {"max_steps": 1, "trl": {"logging_steps": 1, **options.pop("trl", {})}}
    config = validate(SFTStage, options | of_test, "test")
    with session.ledger.stage("sft"):
        train_sft(str(folder), [*LABELS, *RATIONALES], config, session)
        assert session.ledger.total("trained") == 14
    assert rows[-1]["sft/loss"] == pytest.approx(expected * math.log(2), rel=1e-3)


def test_pairs_are_given_out_together_and_fit_together(folder, tmp_path):
    rows = PairedRows([1, 9, 3, 4, 2, 2, 2, 2], 2, seed=0, by_length=True)
    assert len(rows) == 2 and rows.per_process == 2
    batches = list(rows)
    assert all(b == [*b[:2], *(i + 4 for i in b[:2])] for b in batches)
    assert sorted(i for b in batches for i in b) == list(range(8)) and rows.tokens == 25
    logged = {}
    session = Session(tmp_path, Ledger(), lambda metrics, step: logged.update(metrics))
    config = validate(SFTStage, {"batch_size": 2, "max_steps": 1, "two_tasks": {}}, "test")
    too_long = example([A], [B] * 1100)
    with session.ledger.stage("sft"):
        train_sft(str(folder), [LABELS[0], *LABELS, RATIONALES[0], too_long, RATIONALES[1]], config, session)
    assert logged["sft/too_long"] == 2  # the label of the one that is too long goes with it
    assert session.ledger.total("trained") == 2 + 4 + 4 + 4


def test_a_label_is_the_last_line_and_a_rationale_the_whole():
    of = [
        SFTExample("p", "2+3", "2+3=5\n\n#### 5 \n", [1], [2, 3, 4], mask=[0, 1, 1]),
        SFTExample("q", "1", "one", [1], [5]),
    ]
    made = two_tasks(of, TwoTasks(), lambda text: [len(text)], lambda text: [len(text), 0])  # pyright: ignore[reportCallIssue]
    assert [(e.problem_id, e.prompt, e.completion) for e in made] == [
        ("p", "predict: 2+3", "#### 5"), ("q", "predict: 1", "one"),
        ("p", "explain: 2+3", of[0].completion), ("q", "explain: 1", "one"),
    ]  # fmt: skip
    assert [(e.prompt_ids, e.completion_ids, e.mask) for e in made] == [
        ([12], [6, 0], []), ([10], [3, 0], []), ([12], [2, 3, 4], [0, 1, 1]), ([10], [5], []),
    ]  # fmt: skip


def test_tasks_that_nothing_tells_apart_and_rows_that_are_packed_are_refused():
    with pytest.raises(ConfigError, match="expected two that tell the tasks apart"):
        validate(TwoTasks, {"label_prefix": "explain: "}, "test")
    for more, got in (({"shard": {}}, "shard"), ({"trl": {"packing": True}}, "packing")):
        with pytest.raises(ConfigError, match=f"got two_tasks with {got}"):
            validate(SFTStage, {"two_tasks": {}, **more}, "test")


def test_traces_of_a_teacher_with_another_tokenizer_are_read_by_their_texts(folder, tmp_path):
    student = Prompting(load_tokenizer(str(folder)), PromptConfig())
    others = save_small_qwen(tmp_path / "teacher", ["seven is even\n"] * 40, vocab_size=270)
    teacher = Prompting(load_tokenizer(str(others)), PromptConfig())

    def trace(by: Prompting, text: str, mask: tuple[int, ...] = ()) -> SFTExample:
        ids = by.completion_ids(text)
        return SFTExample("p", "three", text, by.prompt_ids("three"), ids, mask=[*mask])

    own, foreign = trace(student, "one and two\n"), trace(teacher, "seven and two\n")
    masked = trace(teacher, "seven\n", (0, 1))
    logged = {}
    session = Session(tmp_path, Ledger(), lambda metrics, step: logged.update(metrics))
    kept = as_told([own, foreign, masked], student, SimpleNamespace(session=session))  # pyright: ignore[reportArgumentType]
    assert kept == [own, trace(student, "seven and two\n")]
    assert kept[1].completion_ids != foreign.completion_ids
    assert logged == {"sft/other_tokenizer": 1, "sft/other_tokenizer_dropped": 1}
    logged.clear()
    assert as_told([own], student, SimpleNamespace(session=session)) == [own] and logged == {}  # pyright: ignore[reportArgumentType]
