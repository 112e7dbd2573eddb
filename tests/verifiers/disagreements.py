"""Where we judge an equivalence pair otherwise than its source, and why.

Keys are (gold, end of the prediction) of shared/data/equivalence_pairs. A pair that is neither here
nor agreed on fails the test, and so does one that is here and agreed on.
"""

CONTRADICTION = "a chain of equations that contradicts itself states no answer; they take its end"
UNREADABLE = "the gold contradicts itself and holds an unknown command; gold that cannot be read is our error"
STATED_FALSE = "an escaped dollar sign inside a formula; what is stated is 1/2 = 10/9"
BROKEN_FORMULA = "a formula broken over lines: their extraction gives up, ours reads it"
RELATION = "an interval and the inequality that describes it are one answer; they have a switch for that"
ABSOLUTE = "solving 1 <= |z| <= 3/2 is beyond comparison, it is another problem"
OTHER_VARIABLE = "f(x) and f(y) differ; theirs is the non-strict mode"
DOUBLED = "gold with doubled backslashes and plus signs between two boxes"
UNREDUCED = "2/4 is 1/2; the source wants the reduced form"
QUALIFIED = "a formula with a condition in words: extraction keeps the last formula only"
MUTATED = "no command is called beginboxed"
MOCKED = "the source has a mocked model judge say yes"

DISAGREEMENTS = {
    ("$9$", "Answer $ \n 9 \n $"): BROKEN_FORMULA,
    ("$10/9$", r"\$ = \frac{10}{9} $"): STATED_FALSE,
    ("$x = 1/3$", r"$x = 5+5+1 = 1/3 \approx 11$"): CONTRADICTION,
    (r"$1 = \zzz = x = 0$", "$0$"): UNREADABLE,
    ("$z = 1 + 1 = 2$", "$z = 3+3 = 2$"): CONTRADICTION,
    (r"$x \in [-2,7]$", r"$-2 \\le x \\le 7$"): RELATION,
    (r"$\\boxed{35 cm} ++++++ \\boxed{4}$", "${35 cm,4}$"): DOUBLED,
    (r"$1\leq|z|\leq \frac{3}{2}$", r"\frac{3}{2}\right]$"): ABSOLUTE,
    ("$f(x)$", "$f(y)$"): OTHER_VARIABLE,
    (r"\frac{1}{2}", r"\frac{2}{4}"): UNREDUCED,
    (r"$g(x)=\frac{1}{3} ((2x)^a +(2x)^{-a})$ for some $a>0$", "for some $a>0$"): QUALIFIED,
    (r"$\lfloor\varphi n\rfloor$, where $\varphi = \frac{\sqrt{5}+1}{2}", r"\frac{\sqrt{5}+1}{2}"): QUALIFIED,
    (r"8\sqrt{6}", r"\beginboxed{8\sqrt{6}}"): MUTATED,
    ("different_but_equivalent_format", r"\boxed{equivalent_but_different_format}."): MOCKED,
}
