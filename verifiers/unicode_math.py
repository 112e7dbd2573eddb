"""Unicode's mathematical signs, spelled in TeX."""

import re

# ruff: noqa: SIM905 - long word lists read better as words
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi "
        "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )
)
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
    "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip
_SIGNS = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
        **{letter: f"\\{name} " for letter, name in _GREEK.items()},
        **{sign: rf"\frac{{{top}}}{{{bottom}}}" for sign, (top, bottom) in _VULGAR.items()},
        **dict.fromkeys("−–—﹣‐‑‒", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u205f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", ""),
        "％": r"\%", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "∗": "*",
        "÷": r"\div ", "⁄": "/", "∕": "/", "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ",
        "°": r"^\circ ", "º": r"^\circ ", "≤": r"\le ", "≦": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "≧": r"\ge ",
        "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∪": r"\cup ", "∩": r"\cap ",
        "∖": r"\setminus ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
        "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "±": r"\pm ", "∓": r"\mp ", "…": r"\ldots ",
        "⋯": r"\cdots ", "⟨": r"\langle ", "⟩": r"\rangle ", "∠": r"\angle ", "′": "'", "’": "'", "‘": "'",
        "。": ".", "“": '"', "”": '"',
    }
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ⁽⁾", "0123456789+-n()")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ⁽⁾]+")
_LOWERED_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+")


def in_tex(text: str) -> str:
    """The text with superscripts, fractions, roots, letters, spaces and signs as TeX writes them."""
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda match: f"^{{{match.group().translate(_RAISED)}}}", text)
    text = _LOWERED_RUN.sub(lambda match: f"_{{{match.group().translate(_LOWERED)}}}", text)
    return text.translate(_SIGNS)
