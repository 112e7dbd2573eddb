r"""Mathematical answers as trees: a bounded parser for LaTeX and plain notation, without evaluation.

A tree is a tuple whose first item names it:
    ("num", Fraction) ("sym", name) ("text", words) ("inf",) ("add"|"mul"|"div"|"pow", a, b) ("neg", a)
    ("root", a, n) ("fn", name, a...) ("pm", a, b) ("unit", a, unit) ("based", digits, base)
    ("tuple", open, items, close) ("set", items) ("list", items) ("union"|"meet"|"minus", a, b)
    ("rel", (sides), (signs)) ("matrix", rows) ("ratio", items)
"""

from fractions import Fraction

from verifiers.answer_text import quantity
from verifiers.tex_commands import command, function, number, symbol
from verifiers.tex_tokens import CLOSERS, FUNCTIONS, RELATIONS, OverBudget, Tokens, Unreadable, tokens_of
from verifiers.units import counted

_DOTS = frozenset((r"\ldots", r"\dots", r"\cdots", r"\dotsc", r"\dotsb", "..."))
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
          "ten": "10", "twelve": "12", "sixteen": "16"}  # fmt: skip
__all__ = ["OverBudget", "Unreadable", "parse"]


def parse(text: str) -> tuple:
    """The tree of a canonical text (verifiers.answer_text). Raises Unreadable, OverBudget."""
    plain = quantity(text)
    if plain is not None and not plain.unit.startswith("?"):
        value = ("num", plain.value)
        return ("unit", value, plain.unit) if plain.unit else value
    return Parser(tokens_of(text)).answer()


class Parser(Tokens):
    """A recursive descent over the tokens, loose operators first."""

    # --- from loose to tight ---

    def answer(self) -> tuple:
        result = self.items("")
        if self.peek():
            raise Unreadable(f"{self.peek()!r} is left over")
        return result[0] if len(result) == 1 else ("list", tuple(result))

    def items(self, closers: str | tuple) -> list[tuple]:
        """Relations between commas, semicolons, "and", "or"."""
        found = [self.relation()]
        while self.peek() in (",", ";", "and", "or"):
            while self.peek() in (",", ";", "and", "or"):
                self.take()
            if not self.peek() or self.peek() in closers:
                break
            found.append(self.relation())
        return found

    def relation(self) -> tuple:
        sides, signs = [self.ratio()], []
        while self.peek() in RELATIONS:
            signs.append(RELATIONS[self.take()])
            sides.append(self.ratio())
        return ("rel", tuple(sides), tuple(signs)) if signs else sides[0]

    def ratio(self) -> tuple:
        parts = [self.sum()]
        while self.peek() == ":":
            self.take()
            parts.append(self.sum())
        return ("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    def sum(self) -> tuple:
        token = self.peek()
        if token in (r"\pm", r"\mp"):
            self.take()
            result = ("pm", ("num", Fraction(0)), self.product())
        else:
            result = self.product()
        while True:
            token = self.peek()
            if token in ("+", "-"):
                self.take()
                right = self.product()
                # "480 + 480\\sqrt{3} feet": the unit is that of the sum
                unit = right[2] if right[0] == "unit" and right[2] not in ("%", "$") else ""
                right = right[1] if unit else right
                result = result[1] if unit and result[0] == "unit" and result[2] == unit else result
                result = ("add", result, right if token == "+" else ("neg", right))
                result = ("unit", result, unit) if unit else result
            elif token in (r"\pm", r"\mp"):
                self.take()
                result = ("pm", result, self.product())
            elif token in (r"\cup", r"\cap", r"\setminus", r"\backslash"):
                self.take()
                name = {r"\cup": "union", r"\cap": "meet"}.get(token, "minus")
                result = (name, result, self.product())
            elif token == r"\over":
                self.take()
                result = ("div", result, self.sum())
            elif token == r"\choose":
                self.take()
                result = ("fn", "binomial", result, self.sum())
            else:
                return result

    def product(self) -> tuple:
        result = self.signed()
        while True:
            token = self.peek()
            if token in ("*", r"\cdot", r"\times", r"\ast"):
                self.take()
                result = ("mul", result, self.signed())
            elif token in ("/", r"\div"):
                self.take()
                result = ("div", result, self.signed())
            elif token in (r"\bmod", r"\mod"):
                self.take()
                result = ("fn", "mod", result, self.signed())
            elif token == r"\pmod":
                self.take()
                result = ("unit", result, f"mod {self.argument_text()}")
            elif (unit := self.unit()) is not None:
                result = ("unit", result, unit)
            elif self.starts_factor(token):
                mixed = token == r"\frac"
                result = self.joined(result, self.power(), mixed)
            else:
                return result

    def joined(self, left: tuple, right: tuple, mixed: bool = False) -> tuple:
        """Two things side by side: a mixed number (3\\frac12, not 3(1/2)), or a product."""
        if mixed and left[0] == "num" and left[1].denominator == 1 and _is_plain_fraction(right):
            return ("add", left, right)
        if right[0] == "text":
            return ("unit", left, counted(right[1]))  # "9 (apples)"
        if left[0] == "num" and right[0] == "num":
            raise Unreadable("two numbers side by side")
        if right[0] == "tuple" and left[0] == "sym" and left[1][0].isupper() and len(right[2]) > 1:
            return right  # A(1, 2) is a point
        return ("mul", left, right)

    def starts_factor(self, token: str) -> bool:
        if not token or token in RELATIONS or token in (",", ";", ":", ")", "]", "}", r"\}", "&", r"\\"):
            return False
        if token == "|":
            return self.bars == 0
        if token in ("+", "-", "*", "/", "^", "_", "!", "'", "%", r"\%", "and", "or", r"\right", r"\end"):
            return False
        return token not in (
            r"\mid",
            r"\over",
            r"\choose",
            r"\rangle",
            r"\pmod",
            r"\cup",
            r"\cap",
            r"\pm",
            r"\mp",
            r"\setminus",
            r"\div",
            r"\rfloor",
            r"\rceil",
        )

    def signed(self) -> tuple:
        token = self.peek()
        if token == "-":
            self.take()
            return ("neg", self.signed())
        if token == "+":
            self.take()
            return self.signed()
        return self.power()

    def power(self) -> tuple:
        result = self.primary()
        while True:
            token = self.peek()
            if token in ("^", "**"):
                self.take()
                if self.peek() == r"\circ":
                    self.take()
                    result = ("unit", result, "degree")
                    continue
                if self.peek() == "{" and self.following() == r"\circ":
                    self.argument_text()
                    result = ("unit", result, "degree")
                    continue
                exponent = self.signed() if token == "**" else self.argument()
                result = ("pow", result, exponent)
            elif token == "!":
                self.take()
                result = ("fn", "factorial", result)
            elif token == "'":
                self.take()
                if result[0] != "sym":
                    raise Unreadable("a prime behind what is no name")
                result = ("sym", result[1] + "'")
            elif token == "_":
                self.take()
                result = self.subscripted(result, self.argument_text())
            else:
                return result

    def subscripted(self, base: tuple, subscript: str) -> tuple:
        if base[0] == "sym":
            return ("sym", f"{base[1]}_{subscript}")
        subscript = _BASES.get(subscript, subscript)
        if base[0] == "num" and subscript.isdigit():
            return ("based", base[1], int(subscript[:9]))
        raise Unreadable("a subscript behind what is no name")

    # --- pieces ---

    def argument(self) -> tuple:
        """{...}, or the next single digit, letter or command, as TeX takes it."""
        token = self.peek()
        if token == "{":
            return self.group("{")
        if token == "-":
            self.take()
            return ("neg", self.argument())
        kind = self.kind()
        if kind == "number" and len(token) > 1:
            # x^10 in plain notation means the whole number; \frac12 has been spelled out before.
            self.take()
            return number(token)
        if kind == "word" and len(token) > 1 and token not in ("pi",):
            self.tokens[self.at] = ("word", token[1:])
            return symbol(token[0])
        return self.primary()

    def group(self, opener: str) -> tuple:
        """A bracket: grouping around one item, else a tuple or interval, a set, a list."""
        self.take()
        self.enter()
        closers = (")", "]") if opener in ("(", "[") else (CLOSERS[opener],)
        if opener == r"\{":
            self.mark_condition()
        bars, self.bars = self.bars, 0
        if opener == r"\{" and self.peek() == r"\}":
            found = []
        else:
            found = self.items(closers)
        if opener == r"\{" and self.peek() == r"\mid":
            self.take()
            found = self.items(closers)
            found = [found[0]] if len(found) == 1 else [("list", tuple(found))]
        closer = self.take()
        if closer not in closers:
            raise Unreadable(f"{closer!r} where {opener!r} should be closed")
        self.bars = bars
        self.depth -= 1
        if opener == r"\{":
            # { x | x > 2 } is what its condition says.
            said = len(found) == 1 and found[0][0] in ("rel", "list")
            return found[0] if said else ("set", tuple(found))
        if opener == r"\langle":
            opener, closer = "(", ")"
        if opener == "{":
            return found[0] if len(found) == 1 else ("list", tuple(found))
        if len(found) == 1 and CLOSERS[opener] == closer:
            return found[0]
        return ("tuple", opener, tuple(found), closer)

    def primary(self) -> tuple:
        token = self.peek()
        kind = self.kind()
        if kind == "number":
            self.take()
            return number(token)
        if kind == "word":
            return self.word(token)
        if token in ("(", "[", "{", r"\{", r"\langle"):
            return self.group(token)
        if token in _DOTS:
            self.take()
            return ("dots",)
        if token in ("|", r"\lvert", r"\left|"):
            return self.absolute()
        if token in ("$", r"\$", "€", "£"):
            self.take()
            return ("unit", self.power(), token.removeprefix("\\"))
        if kind == "command":
            return command(self, self.take())
        raise Unreadable(f"unexpected {token!r}" if token else "an unfinished expression")

    def absolute(self) -> tuple:
        self.take()
        self.enter()
        self.bars += 1
        inner = self.sum()
        self.bars -= 1
        self.depth -= 1
        if self.take() not in ("|", r"\rvert"):
            raise Unreadable("an open bar")
        return ("fn", "abs", inner)

    def word(self, token: str) -> tuple:
        """A run of letters: a function, a constant, words, or symbols side by side."""
        if token in ("and", "or"):
            raise Unreadable(f"{token!r} between nothing")
        if token in FUNCTIONS:
            self.take()
            return function(self, token)
        if token in ("sqrt", "cbrt"):
            self.take()
            return (
                "root",
                self.argument() if self.peek() != "(" else self.group("("),
                2 if token == "sqrt" else 3,
            )
        if token in ("pi", "inf", "infinity", "oo", "infty"):
            self.take()
            return ("sym", "pi") if token == "pi" else ("inf",)
        whole = self.all_words()
        if whole is not None:
            return whole
        # "2abc": letters side by side are a product; the rest of the run goes back to the tokens.
        if len(token) > 1:
            self.tokens[self.at] = ("word", token[1:])
            return symbol(token[0])
        self.take()
        return symbol(token)


def _is_plain_fraction(tree: tuple) -> bool:
    return tree[0] == "div" and tree[1][0] == tree[2][0] == "num"
