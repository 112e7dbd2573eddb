"""One place that knows how a model family is prompted, where steps end, and how text comes back from tokens."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from reasoner.config import Config
from reasoner.registry import UserError


class PromptConfig(Config):
    """How a problem becomes a prompt."""

    template: str = Field("{prompt}", description="text around the problem; `{prompt}` is replaced literally")
    chat: bool = Field(False, description="wrap the text as a user turn of the tokenizer's chat template")
    system: str = Field("", description="system message, with `chat` only")
    delimiter: str = Field("\n", description="text that ends a step")


class Prompting:
    """A tokenizer together with a PromptConfig."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig):
        if "{prompt}" not in config.template:
            raise UserError(f"prompt.template is {config.template!r}; expected it to contain {{prompt}}")
        if config.chat and not tokenizer.chat_template:
            raise UserError(
                "prompt.chat is true but the tokenizer has no chat template; set prompt.chat=false"
            )
        self.tokenizer, self.config = tokenizer, config
        self.eos_id: int = tokenizer.eos_token_id
        # a token such as ".\n\n" holds the delimiter without being it
        self._ends_step = [
            config.delimiter in tokenizer.decode([i], clean_up_tokenization_spaces=False)
            for i in range(len(tokenizer))
        ]
        self.step_end_ids = frozenset(i for i, ends in enumerate(self._ends_step) if ends)

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
        """Positions of the last token of each step: those holding the delimiter (several in a row end one step), and the last."""
        last = len(token_ids) - 1
        ends = [i for i, t in enumerate(token_ids) if t < len(self._ends_step) and self._ends_step[t]]
        ends = [i for i in ends if i + 1 not in set(ends)] if ends else []
        if last >= 0 and (not ends or ends[-1] != last):
            ends.append(last)
        return ends

    def step_texts(self, token_ids: Sequence[int], step_ends: Sequence[int]) -> list[str]:
        starts = [0, *(e + 1 for e in step_ends)][: len(step_ends)]
        return [self.decode(token_ids[a : b + 1]) for a, b in zip(starts, step_ends, strict=True)]
