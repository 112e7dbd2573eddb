"""One place that knows how a model family is prompted, where steps end, and how text comes back from tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from reasoner.config import Config
from reasoner.data.steps import RULES, Marking, StepConfig
from reasoner.registry import UserError, lookup


class PromptConfig(Config):
    """How a problem becomes a prompt."""

    template: str = Field(
        default="{prompt}", description="text around the problem; `{prompt}` is replaced literally"
    )
    chat: bool = Field(
        default=False, description="wrap the text as a user turn of the tokenizer's chat template"
    )
    system: str = Field(default="", description="system message, with `chat` only")
    delimiter: str = Field(default="\n", min_length=1, description="text that ends a step")
    steps: StepConfig = StepConfig()


class Prompting:
    """A tokenizer together with a PromptConfig."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig):
        if "{prompt}" not in config.template:
            raise UserError(f"prompt.template is {config.template!r}; expected it to contain {{prompt}}")
        if config.chat and not tokenizer.chat_template:
            raise UserError(
                "prompt.chat is true but the tokenizer has no chat template; set prompt.chat=false"
            )
        # its methods return one text or a list of texts, by what they are given, which no checker can tell
        self.tokenizer: Any = tokenizer
        self.config = config
        self.eos_id: int = self.tokenizer.eos_token_id
        pieces: list[str] = [
            self.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in range(len(tokenizer))
        ]
        self._marking = Marking(config.steps, config.delimiter, pieces)
        self._rule = lookup(RULES, config.steps.rule, "rule for steps")
        # a token such as ".\n\n" holds the delimiter without being it
        self.step_end_ids = frozenset(i for i, text in enumerate(pieces) if config.delimiter in text)
        tails = tuple(config.delimiter[k:] for k in range(1, len(config.delimiter)))
        by_delimiter = config.steps.rule == "delimiter"
        # where a single step may stop: the delimiter may also end in a token that holds its tail alone
        self.step_stop_ids = (
            self.step_end_ids | {i for i, text in enumerate(pieces) if text.startswith(tails)}
            if by_delimiter
            else frozenset()
        )
        self.step_stop_tokens = config.steps.size if config.steps.rule == "count" else 0

    def prompt_text(self, problem_text: str) -> str:
        # replace, not format: the problem's own braces are data
        text = self.config.template.replace("{prompt}", problem_text)
        if not self.config.chat:
            return text
        messages = [{"role": "user", "content": text}]
        if self.config.system:
            messages.insert(0, {"role": "system", "content": self.config.system})
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def prompt_ids(self, problem_text: str) -> list[int]:
        return self.encode(self.prompt_text(problem_text))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def completion_ids(self, text: str) -> list[int]:
        """Tokens of a whole completion, closed by the end-of-text token."""
        return [*self.encode(text), self.eos_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def mark_steps(
        self, token_ids: Sequence[int], logprobs: Sequence[float] = (), before: Sequence[int] = ()
    ) -> list[int]:
        """Positions of the last token of each step by the rule of `steps`, and the last token.

        `before` are the completion's tokens that precede these: a formula or code block may have begun there.
        """
        ends = self._rule(token_ids, logprobs, before, self._marking)
        last = len(token_ids) - 1
        return ends if last < 0 or (ends and ends[-1] == last) else [*ends, last]

    def is_step_end(self, token_ids: Sequence[int]) -> bool:
        """True where the last of a completion's tokens ends a step by the rule, and not for being the last."""
        return len(token_ids) - 1 in self._rule(token_ids, (), (), self._marking)

    def step_texts(self, token_ids: Sequence[int], step_ends: Sequence[int]) -> list[str]:
        starts = [0, *(e + 1 for e in step_ends)][: len(step_ends)]
        return [self.decode(token_ids[a : b + 1]) for a, b in zip(starts, step_ends, strict=True)]
