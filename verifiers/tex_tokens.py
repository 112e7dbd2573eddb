"""The words of mathematical notation, and a cursor over them that knows units and prose."""

# ruff: noqa: SIM905 - long word lists read better as words
import re

from verifiers.units import UNIT_OF, is_letter, unit_of

MAX_TOKENS = 500
MAX_DEPTH = 40
MAX_DIGITS = 1_000


class Unreadable(Exception):
    """The text is not in the grammar; the message says where."""


class OverBudget(Unreadable):
    """The text is too long, too deep, or its numbers are too large."""


_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?(?![0-9])(?:\.(?![0-9.]))?|\.[0-9]+)"
    r"|(?P<command>\\[a-zA-Z]+|\\[{}|&%$#_\\])"
    r"|(?P<word>[a-zA-Z]+)"
    r"|(?P<sign>\*\*|\.{3}|<=|>=|!=|:=|[-+*/^_=<>()\[\]{}|!,;:'&%$€£])"
)
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
RELATIONS = {
    "=": "=", ":=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", r"\le": "<=", r"\leq": "<=",
    r"\leqslant": "<=", r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", r"\lt": "<", r"\gt": ">",
    r"\ne": "!=", r"\neq": "!=", r"\in": "in", r"\approx": "~", r"\equiv": "=", r"\simeq": "~",
}  # fmt: skip
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp det gcd lcm max min "
    "floor ceil abs lg".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma "
    "tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar "
    "triangle angle circ square".split()
)
SETS = {r"\emptyset": "emptyset", r"\varnothing": "emptyset", r"\infty": "inf"}
CLOSERS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", "|": "|", r"\langle": r"\rangle"}
MATRICES = frozenset("pmatrix bmatrix vmatrix matrix Bmatrix smallmatrix array".split())
ACCENTS = frozenset(r"\overrightarrow \vec \hat \bar \overline \underline \mathbb \mathcal \tilde".split())


def tokens_of(text: str) -> list[tuple[str, str]]:
    """(kind, text) pairs; thousands are joined outside brackets, where a comma cannot separate."""
    tokens: list[tuple[str, str]] = []
    at = depth = 0
    while at < len(text):
        joined = _THOUSANDS.match(text, at) if not depth and text[at].isdigit() else None
        if joined:
            tokens.append(("number", joined.group().replace(",", "")))
            at = joined.end()
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable(f"unexpected {text[at]!r}")
        kind, token = match.lastgroup or "", match.group()
        at = match.end()
        if kind == "space":
            if tokens:
                tokens.append(("space", " "))
            continue
        if token in ("(", "[", r"\{"):
            depth += 1
        elif token in (")", "]", r"\}"):
            depth -= 1
        tokens.append((kind, token))
        if len(tokens) > MAX_TOKENS:
            raise OverBudget(f"more than {MAX_TOKENS} tokens")
    return tokens


class Tokens:
    """A cursor over (kind, text) pairs."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    def peek(self, skip_space: bool = True) -> str:
        if skip_space:
            while self.at < len(self.tokens) and self.tokens[self.at][0] == "space":
                self.at += 1
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def expect(self, token: str) -> None:
        found = self.take()
        if found != token:
            raise Unreadable(f"{found!r} where {token!r} was expected")

    def following(self) -> str:
        at = self.at + 1
        while at < len(self.tokens) and self.tokens[at][0] == "space":
            at += 1
        return self.tokens[at][1] if at < len(self.tokens) else ""

    def ends_item(self, at: int) -> bool:
        while at < len(self.tokens) and self.tokens[at][0] == "space":
            at += 1
        return at >= len(self.tokens) or self.tokens[at][1] in (
            ",",
            ";",
            ")",
            "]",
            r"\}",
            "and",
            "or",
            "}",
            "=",
        )

    def ends_before(self, at: int) -> bool:
        return at == 0 or self.tokens[at - 1][1] in (",", ";", "(", r"\{", "and", "or", "=")

    def mark_condition(self) -> None:
        r"""Where a set is { x | ... } or { x : ... }, the sign becomes \mid."""
        depth, at = 0, self.at
        bars = []
        while at < len(self.tokens) and depth >= 0:
            token = self.tokens[at][1]
            depth += (token in ("(", "[", "{", r"\{")) - (token in (")", "]", "}", r"\}"))
            if depth == 0 and token == "|":
                bars.append(at)
            if depth == 0 and token == r"\mid":
                return
            at += 1
        second = self.at + 1 + (self.at + 1 < len(self.tokens) and self.tokens[self.at + 1][0] == "space")
        if len(bars) % 2 and bars[0] <= second + 8:
            self.tokens[bars[0]] = ("command", r"\mid")
        elif second < len(self.tokens) and self.tokens[second][1] == ":":
            self.tokens[second] = ("command", r"\mid")

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise OverBudget(f"nested more than {MAX_DEPTH} deep")

    def argument_text(self) -> str:
        """A subscript as text; it names, it is not evaluated."""
        if self.peek() != "{":
            return self.take()
        self.take()
        parts = []
        depth = 1
        while depth:
            token = self.take()
            if not token:
                raise Unreadable("an open brace")
            depth += (token == "{") - (token == "}")
            parts.append(token if depth else "")
        return "".join(parts)

    def unit(self) -> str | None:
        """A unit behind a value: percent, degrees, money, or words that end the expression."""
        token = self.peek()
        if token in ("%", r"\%"):
            self.take()
            return "%"
        if token in ("$", r"\$", "€", "£"):
            self.take()
            return token.removeprefix("\\")
        if self.kind() != "word" or token in ("and", "or") or (token in FUNCTIONS and token not in UNIT_OF):
            return None
        start = self.at
        while self.kind() in ("word", "space") or self.peek() in ("^", "/", "*", "{", "}", "2", "3", "4"):
            if self.peek() in ("and", "or"):
                break
            self.at += 1
        phrase = "".join(part for _, part in self.tokens[start : self.at]).strip()
        unit = unit_of(phrase) if self.ends_item(self.at) and not is_letter(phrase) else None
        if unit is None:
            self.at = start
        return unit

    def all_words(self) -> tuple | None:
        """An item that is nothing but words, one of them longer than two letters, is text."""
        at = self.at
        words = []
        if (
            at
            and self.tokens[at - 1][1] not in (",", ";", "(", "{", r"\{", "and", "or")
            and not (self.tokens[at - 1][0] == "space" and self.ends_before(at - 1))
        ):
            return None
        while at < len(self.tokens) and self.tokens[at][0] in ("word", "space"):
            if self.tokens[at][1] in ("and", "or"):
                break
            words.append(self.tokens[at][1])
            at += 1
        text = "".join(words).strip()
        if not self.ends_item(at) or max(map(len, text.split()), default=0) < 3:
            return None
        self.at = at
        return ("text", text)
