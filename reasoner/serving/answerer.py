"""One answer to a conversation: a tree is grown by a test-time method, and what it chose is told with its price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner.data.prompting import Prompting
from reasoner.evals.solve import Solved, solve
from reasoner.evals.tools import Solver
from reasoner.registry import UserError
from reasoner.search.methods import check_thinking
from reasoner.search.thinking import END, Thinking, opens, parted, start_of, without_start
from reasoner.tree import ROOT

MOST_CHARACTERS = 64  # for each token of room, on average; what has more is not tokenized to find that out


@dataclass(frozen=True)
class Answer:
    """The chosen text, its thinking apart, with what was spent: `prompt` and `drawn` tokens of all chains together."""

    text: str
    thinking: str
    prompt: int
    drawn: int
    own: int  # tokens drawn for the text itself, behind its thinking
    is_whole: bool  # False where the chosen chain was cut off at its limit, or none was chosen
    solved: Solved = field(repr=False)


def check_end(end_think: str | None, prompting: Prompting, model: str) -> None:
    """A UserError where nobody has told how thinking ends, and the model knows no tag for it."""
    end = END if end_think is None else end_think
    pieces = len(prompting.encode(end)) if end else 0
    template = str(prompting.tokenizer.chat_template) if prompting.config.chat else ""
    if not end or (end_think is None and pieces > 1 and end not in template):
        raise UserError(
            f"a budget of thinking needs a text that ends thinking: {end!r} is {pieces} tokens to {model} and not in its "
            "chat template; expected --end-think TEXT that the model writes behind its thoughts"
        )


@dataclass(frozen=True)
class Answerer:
    """A solver with the method by which it answers.

    end_think: text that ends thinking inside a completion, None for </think>; what stands before it is told apart.
    verifier: names how answers are read and compared for votes; nothing is verified. thinking_budget: tokens after
    which thinking is closed, None for no such limit.
    """

    solver: Solver
    method: Any
    max_tokens: int = 512
    end_think: str | None = None
    verifier: str = "math"
    thinking_budget: int | None = None

    @property
    def end(self) -> str:
        return END if self.end_think is None else self.end_think

    def thinking(self, asked: int | None = None) -> Thinking | None:
        """The budget of one answer's thoughts, the lesser of what is `asked` for and the own; None where there is none.

        A UserError where the method takes none, or nobody has told how thinking ends and the model knows no tag.
        """
        budgets = [b for b in (asked, self.thinking_budget) if b is not None]
        if not budgets:
            return None
        check_thinking(self.method)
        check_end(self.end_think, self.solver.prompting, self.solver.name)
        return Thinking(min(budgets), self.end)

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Tokens of a conversation; UserError where it has no room, or the model takes no conversations."""
        prompting, room = self.solver.prompting, self.solver.engine.max_context
        characters = sum(len(message["content"]) for message in messages)
        if characters > MOST_CHARACTERS * room:
            raise UserError(
                f"got {characters:,} characters; expected room for them and an answer in {room} tokens"
            )
        if prompting.config.chat:
            ids = prompting.conversation_ids(messages)
        else:
            asked = [m for m in messages if m["role"] != "system"]
            if len(asked) != 1:
                raise UserError(
                    f"got {len(asked)} messages, and the model has no chat template; expected one question"
                )
            ids = prompting.prompt_ids(asked[0]["content"])
        self.check_room(ids)
        return ids

    def check_room(self, ids: Sequence[int]) -> None:
        room = self.solver.engine.max_context
        if len(ids) + 1 >= room:
            raise UserError(f"the prompt has {len(ids)} tokens; expected room for an answer in {room}")

    def answer(
        self,
        prompt_ids: Sequence[int],
        question: str,
        max_tokens: int | None = None,
        seed: int = 0,
        show: Callable[[str], None] = lambda text: None,
        thinking_budget: int | None = None,
    ) -> Answer:
        """Answer; `show` gets the text of each continuation as it comes back."""
        thinking = self.thinking(thinking_budget)
        room = self.solver.engine.max_context - len(prompt_ids)
        longest = min(max_tokens or self.max_tokens, self.max_tokens, room)
        solved = solve(
            question, self.verifier, self.solver, self.method, longest, seed, show, prompt_ids, thinking
        )
        leaf, tree = solved.choice.leaf, solved.tree
        is_whole = leaf is not None and tree.nodes[leaf].stop_reason in ("eos", "stop")
        thoughts, text, num = self._parted(solved, is_whole)
        path = [] if leaf is None else tree.path(leaf)[1:]
        is_drawn = [tree.nodes[span.node].drawn != "forced" for span in path for _ in range(span.end)]
        return Answer(
            text,
            thoughts,
            len(prompt_ids),
            int(solved.counts.get("policy", {}).get("decoded", 0)),
            sum(is_drawn[num:]),
            is_whole,
            solved,
        )

    def _parted(self, solved: Solved, is_whole: bool) -> tuple[str, str, int]:
        """Thoughts, text, and the tokens of the thoughts; what was cut off while it thought is nothing but thoughts."""
        decode, encode = self.solver.prompting.decode, self.solver.prompting.encode
        ids = [] if solved.choice.leaf is None else solved.tree.completion_ids(solved.choice.leaf)
        if found := parted(ids, self.end, decode, encode):
            return found
        start = start_of(self.end)
        if (
            not is_whole
            and start
            and (
                solved.text.lstrip().startswith(start)
                or opens(solved.tree.nodes[ROOT].token_ids, start, decode, encode)
            )
        ):
            return without_start(solved.text, self.end), "", len(ids)
        return "", solved.text, 0
