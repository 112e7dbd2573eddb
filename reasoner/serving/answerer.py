"""One answer to a conversation: a tree is grown by a test-time method, and what it chose is told with its price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner.evals.solve import Solved, solve
from reasoner.evals.tools import Solver
from reasoner.registry import UserError

MOST_CHARACTERS = 64  # for each token of room, on average; what has more is not tokenized to find that out


@dataclass(frozen=True)
class Answer:
    """The chosen text, its thinking apart, with what was spent: `prompt` and `drawn` tokens of all chains together."""

    text: str
    thinking: str
    prompt: int
    drawn: int
    own: int  # tokens of the chosen chain
    is_whole: bool  # False where the chosen chain was cut off at its limit, or none was chosen
    solved: Solved = field(repr=False)


@dataclass(frozen=True)
class Answerer:
    """A solver with the method by which it answers.

    end_think: text that ends thinking inside a completion; what stands before it is told apart. verifier: names how
    answers are read and compared for votes; nothing is verified.
    """

    solver: Solver
    method: Any
    max_tokens: int = 512
    end_think: str = "</think>"
    verifier: str = "math"

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
    ) -> Answer:
        """Answer; `show` gets the text of each continuation as it comes back."""
        room = self.solver.engine.max_context - len(prompt_ids)
        longest = min(max_tokens or self.max_tokens, self.max_tokens, room)
        solved = solve(question, self.verifier, self.solver, self.method, longest, seed, show, prompt_ids)
        leaf = solved.choice.leaf
        thinking, mark, text = (
            solved.text.rpartition(self.end_think) if self.end_think else ("", "", solved.text)
        )
        counts = solved.counts.get("policy", {})
        return Answer(
            text.strip() if mark else text,
            thinking.replace(self.end_think.replace("/", ""), "", 1).strip(),
            len(prompt_ids),
            int(counts.get("decoded", 0)),
            0 if leaf is None else len(solved.tree.completion_ids(leaf)),
            leaf is not None and solved.tree.nodes[leaf].stop_reason in ("eos", "stop"),
            solved,
        )
