"""One place that knows how a model family is prompted, where steps end, and how text comes back from tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from reasoner.config import Config
from reasoner.data.steps import RULES, Marking, StepConfig
from reasoner.policy.models import base_of, load_tokenizer
from reasoner.policy.vocabulary import end_of_turn, generation_ends, opening, token_bytes
from reasoner.registry import UserError, lookup
from reasoner.store import no_utf8


class PromptConfig(Config):
    """How a problem becomes a prompt."""

    template: str = Field(
        default="{prompt}", description="text around the problem; `{prompt}` is replaced literally"
    )
    chat: bool = Field(
        default=False, description="wrap the text as a user turn of the tokenizer's chat template"
    )
    chat_template: str = Field(
        default="", description="with `chat`: Jinja text, or a file that holds it, instead of the tokenizer's own template"
    )  # fmt: skip
    system: str = Field(default="", description="system message, with `chat` only")
    stop: list[str] = Field(
        default=[], description="tokens that end a completion beside the tokenizer's and generation_config's"
    )
    delimiter: str = Field(default="\n", min_length=1, description="text that ends a step")
    steps: StepConfig = StepConfig()


class Prompting:
    """A tokenizer together with a PromptConfig, and the model's own end-of-text ids.

    `eos_ids` end a completion; `eos_id` is the one among them that closes an answer in training data.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, model_ends: Sequence[int] = ()
    ):
        if "{prompt}" not in config.template:
            raise UserError(f"prompt.template is {config.template!r}; expected it to contain {{prompt}}")
        if config.chat_template:
            tokenizer.chat_template = _jinja(config.chat_template)
        if config.chat and not tokenizer.chat_template:
            raise UserError(
                "prompt.chat is true but the tokenizer has no chat template; set prompt.chat=false or "
                "prompt.chat_template"
            )
        # its methods return one text or a list of texts, by what they are given, which no checker can tell
        self.tokenizer: Any = tokenizer
        self.config = config
        of_turn = end_of_turn(tokenizer)
        self.eos_id: int = self.tokenizer.eos_token_id
        if config.chat and of_turn is not None:
            self.eos_id = of_turn
        pieces = token_bytes(tokenizer)
        stops = [i for text in config.stop for i in _stop_ids(text, pieces)]
        ends = {self.eos_id, self.tokenizer.eos_token_id, *model_ends, *stops}
        self.eos_ids: list[int] = sorted(ends if of_turn is None else {*ends, of_turn})
        # ends that are tokens of their own, though the tokenizer does not call them special, are no text either
        self._silent = frozenset(self.eos_ids) & frozenset(self.tokenizer.added_tokens_decoder)
        self._opening = opening(tokenizer)
        self._marking = Marking(config.steps, config.delimiter, pieces)
        self._rule = lookup(RULES, config.steps.rule, "rule for steps")
        delimiter = config.delimiter.encode()
        tails = tuple(delimiter[k:] for k in range(1, len(delimiter)))
        # where a single step may stop: a token such as ".\n\n" holds the delimiter, one such as "\n" may be its tail
        self.step_stop_ids = (
            frozenset(i for i, piece in enumerate(pieces) if delimiter in piece or piece.startswith(tails))
            if config.steps.rule == "delimiter"
            else frozenset[int]()
        )
        self.step_stop_tokens = config.steps.size if config.steps.rule == "count" else 0

    def bare(self) -> Prompting:
        """The same for texts that are whole prompts already, as critiques have: no template, no turns of a chat."""
        whole = {"template": "{prompt}", "chat": False, "chat_template": "", "system": ""}
        return Prompting(self.tokenizer, self.config.model_copy(update=whole), self.eos_ids)

    def prompt_text(self, problem_text: str) -> str:
        # replace, not format: the problem's own braces are data
        text = self.config.template.replace("{prompt}", problem_text)
        if not self.config.chat:
            return text
        return self._in_template([{"role": "user", "content": text}])

    def conversation_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Tokens of a conversation (role, content) by the chat template; the config's system message is its default."""
        return self.encode(self._in_template(list(messages)))

    def _in_template(self, messages: list[dict[str, str]]) -> str:
        if self.config.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.config.system}, *messages]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as problem:
            remedy = "leave prompt.system empty, or give" if messages[0]["role"] == "system" else "give"
            raise UserError(
                f"the chat template does not take these messages ({problem}); {remedy} another prompt.chat_template"
            ) from problem

    def prompt_ids(self, problem_text: str) -> list[int]:
        """Tokens of a prompt: what the tokenizer puts before a text comes once, and from a chat template only."""
        ids = self.encode(self.prompt_text(problem_text))
        begin = self._opening
        return ids if self.config.chat or ids[: len(begin)] == begin else [*begin, *ids]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def completion_ids(self, text: str) -> list[int]:
        """Tokens of a whole completion, closed by the token that ends an answer."""
        return [*self.encode(text), self.eos_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(
            [i for i in token_ids if i not in self._silent],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
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


def load_prompting(path: str, config: PromptConfig) -> Prompting:
    """How the model of a folder or hub name is prompted; an adapter's ends are its base's."""
    tokenizer = load_tokenizer(path)
    return Prompting(tokenizer, config, generation_ends(base_of(path), tokenizer))


def _stop_ids(text: str, pieces: Sequence[bytes]) -> list[int]:
    """The tokens that are this text: more than one where a byte has a token of its own."""
    found = [i for i, piece in enumerate(pieces) if piece == text.encode()]
    if not found:
        raise UserError(
            f"prompt.stop has {text!r}, which is no token of this tokenizer; expected one token, as <|im_end|>"
        )
    return found


def _jinja(given: str) -> str:
    """A template's text: itself, or what the file of that name holds."""
    if "{{" in given or "{%" in given:
        return given
    try:
        data = Path(given).read_bytes()
    except OSError as problem:
        raise UserError(
            f"prompt.chat_template is {given!r}, which is neither Jinja nor a readable file; expected either"
        ) from problem
    if why := no_utf8(data):
        raise UserError(f"prompt.chat_template is {given!r}: {why}")
    return data.decode("utf-8-sig")
