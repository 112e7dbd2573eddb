"""Answer one question by a test-time method, and show the tree as it grows and the answer with its votes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.text import Text
from rich.tree import Tree as Drawing

from reasoner.engine.protocol import Completion, Request
from reasoner.evals.tools import Solver, tools_of
from reasoner.search.method import Choice
from reasoner.search.methods import answer
from reasoner.search.thinking import Thinking
from reasoner.tree import ROOT, Problem, Tree

MAX_SHOWN = 400


@dataclass
class Watched:
    """An engine that tells of each completion when it comes back; in all else the engine itself."""

    engine: Any
    on_completion: Callable[[Completion], None]

    def submit(self, requests: Iterable[Request]) -> None:
        self.engine.submit(requests)

    def poll(self) -> list[Completion]:
        done = self.engine.poll()
        for completion in done:
            self.on_completion(completion)
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


@dataclass(frozen=True)
class Solved:
    """The tree that was grown for a question, what was chosen from it, and the counts of all that it took."""

    tree: Tree
    choice: Choice
    text: str
    counts: dict[str, dict[str, int | float]]
    seconds: float


def solve(
    question: str,
    verifier: str,
    solver: Solver,
    method,
    max_tokens: int,
    seed: int,
    show: Callable[[str], None] = lambda text: None,
    prompt_ids: Sequence[int] | None = None,
    thinking: Thinking | None = None,
) -> Solved:
    """Answer a question; `show` gets the text of every continuation as it comes back.

    `prompt_ids` stand for the question where it is the last of a conversation. `verifier` names how the answer is read
    and compared with other answers; nothing is verified. `thinking`: after how many tokens thoughts are closed.
    """
    problem = Problem("question", question, verifier, {})
    ids = solver.prompting.prompt_ids(question) if prompt_ids is None else prompt_ids
    tree = Tree.of_prompt(problem, list(ids))
    tools = tools_of(solver, max_tokens, seed)
    watched = Watched(solver.engine, lambda c: show(solver.prompting.decode(c.token_ids)))
    for booked in (solver.ledger.counts, solver.ledger.seconds):
        booked.pop("solve", None)  # of the question before
    with solver.ledger.stage("solve"):
        tools = replace(tools, engine=watched, verify=None, thinking=thinking)
        (choice,) = answer([tree], tools, method)
    text = "" if choice.leaf is None else solver.prompting.decode(tree.completion_ids(choice.leaf))
    return Solved(tree, choice, text, solver.ledger.counts["solve"], solver.ledger.seconds["solve"])


def printable(text: str, most: int | None = MAX_SHOWN) -> str:
    """Model text for a terminal: no control characters but line ends, and at most so many characters."""
    clean = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    return clean if most is None or len(clean) <= most else clean[:most] + " …"


def drawing(tree: Tree, choice: Choice, decode: Callable[[Sequence[int]], str]) -> Drawing:
    """The tree for a terminal: each node's text with its step scores, the chosen trajectory in bold."""
    chosen = {span.node for span in tree.path(choice.leaf)} if choice.leaf is not None else set()
    root = Drawing(Text(printable(tree.problem.prompt), style="bold"))
    branches = {ROOT: root}
    for i, node in enumerate(tree.nodes[1:], start=1):
        text = Text(printable(decode(node.token_ids)).strip() or "·", style="bold" if i in chosen else "")
        scores = tree.scores.get("prm", {}).get(i)
        if scores:
            text.append("  " + " ".join(f"{s:.2f}" for s in scores), style="dim")
        if node.parent != ROOT and node.offset < len(tree.nodes[node.parent].token_ids):
            text = Text(f"(after {node.offset} tokens) ", style="dim") + text
        branches[i] = branches[node.parent].add(text)
    return root
