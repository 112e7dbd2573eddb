r"""Exact equality without computer algebra: expressions as elements of a random prime field.

Numbers, variables, pi, e, i and square roots under + - * / and integer powers form a field of
characteristic 0. Mapping each variable to a random element, each prime's square root to a root of
it, is a homomorphism into F_p: equal expressions have equal images, and different ones differ but
for a chance of about degree / p. The primes have 120 bits and are drawn anew in every process, so
that nobody can aim at them. (Schwartz, J. ACM 27, 1980; Zippel, EUROSAM 1979.)
"""

import secrets
from fractions import Fraction
from functools import lru_cache

MAX_EXPONENT = 10**15
MAX_FACTORIAL = 5_000
_TRIAL_LIMIT = 2_000
_SMALL_PRIMES = [n for n in range(2, _TRIAL_LIMIT) if all(n % d for d in range(2, int(n**0.5) + 1))]
# With p = 1 mod 8 and mod each of these, all of them (and -1 and 2) have square roots mod p.
_ALWAYS_SQUARES = 8 * 3 * 5 * 7 * 11 * 13 * 17 * 19 * 23
_CANDIDATES = 40


class NoImage(Exception):
    """The expression is no element of such a field (sin, nested roots), or no prime here suits it."""


class Undefined(Exception):
    """The expression has no value: 0/0, 0^0, 1/(1-1)."""


class TooLarge(Exception):
    """An exponent or factorial beyond the budget."""


def _is_prime(n: int) -> bool:
    if any(n % p == 0 for p in _SMALL_PRIMES[:60]):
        return False
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in _SMALL_PRIMES[:20]:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


@lru_cache(maxsize=_CANDIDATES)
def _prime(index: int) -> int:
    """The index-th random prime of this process, 120 bits."""
    while True:
        n = _ALWAYS_SQUARES * (secrets.randbits(90) | (1 << 89)) + 1
        if _is_prime(n):
            return n


@lru_cache(maxsize=4096)
def _root(n: int, p: int) -> int:
    """A square root of n mod p (Tonelli and Shanks). Raises NoImage where n is no square."""
    if pow(n, (p - 1) // 2, p) != 1:
        raise NoImage(f"{n} is no square here")
    odd, twos = p - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    non_square = next(z for z in _SMALL_PRIMES if pow(z, (p - 1) // 2, p) == p - 1)
    m, c, t, r = twos, pow(non_square, odd, p), pow(n, odd, p), pow(n, (odd + 1) // 2, p)
    while t != 1:
        i, square = 0, t
        while square != 1:
            square = square * square % p
            i += 1
        b = pow(c, 1 << (m - i - 1), p)
        m, c = i, b * b % p
        t, r = t * c % p, r * b % p
    return r


class Image:
    """One homomorphism: a prime, and random values for variables, the same for equal names."""

    def __init__(self, index: int = 0):
        self.p = _prime(index)
        self._values: dict[str, int] = {}

    def of(self, tree: tuple) -> int:
        """The image of a tree of verifiers.tex. Raises NoImage, Undefined, TooLarge."""
        kind = tree[0]
        p = self.p
        if kind == "num":
            return tree[1].numerator * pow(tree[1].denominator, -1, p) % p
        if kind == "sym":
            return self._symbol(tree[1])
        if kind == "add":
            return (self.of(tree[1]) + self.of(tree[2])) % p
        if kind == "neg":
            return -self.of(tree[1]) % p
        if kind == "mul":
            return self.of(tree[1]) * self.of(tree[2]) % p
        if kind == "div":
            return self.of(tree[1]) * self._inverse(self.of(tree[2])) % p
        if kind == "pow":
            return self._power(tree[1], tree[2])
        if kind == "root" and tree[2] == 2:
            return self._square_root(rational(tree[1]))
        if kind == "fn":
            return self._function(tree)
        raise NoImage(kind)

    def _symbol(self, name: str) -> int:
        if name == "i":
            return _root(self.p - 1, self.p)
        if name not in self._values:
            self._values[name] = 2 + secrets.randbelow(self.p - 2)
        return self._values[name]

    def _inverse(self, value: int) -> int:
        if value == 0:
            raise Undefined("division by zero")
        return pow(value, -1, self.p)

    def _power(self, base: tuple, exponent: tuple) -> int:
        power = rational(exponent)
        if abs(power.numerator) > MAX_EXPONENT:
            raise TooLarge("exponent")
        value = None
        if power.denominator == 2:
            value = self._square_root(rational(base))
        elif power.denominator != 1:
            raise NoImage("a fractional power")
        value = self.of(base) if value is None else value
        if power.numerator <= 0 and value == 0:
            raise Undefined("zero to no positive power")
        if power.numerator < 0:
            value = self._inverse(value)
        return pow(value, abs(power.numerator), self.p)

    def _square_root(self, radicand: Fraction) -> int:
        """sqrt(a/b) = sqrt(ab)/b, over the primes of ab, so that sqrt(2) sqrt(3) is sqrt(6)."""
        inside = radicand.numerator * radicand.denominator
        result = 1
        if inside < 0:
            result, inside = _root(self.p - 1, self.p), -inside
        if inside == 0:
            return 0
        for prime in _SMALL_PRIMES:
            if prime * prime > inside:
                break
            count = 0
            while inside % prime == 0:
                inside, count = inside // prime, count + 1
            if count:
                result = result * pow(prime, count // 2, self.p) % self.p
                result = result * (_root(prime, self.p) if count % 2 else 1) % self.p
        if inside >= _TRIAL_LIMIT**2 and not _is_prime(inside):
            raise NoImage("a radicand that is hard to factor")
        if inside > 1:
            result = result * _root(inside, self.p) % self.p
        return result * self._inverse(radicand.denominator % self.p) % self.p

    def _function(self, tree: tuple) -> int:
        name, arguments = tree[1], tree[2:]
        if name in ("factorial", "binomial"):
            numbers = [rational(a) for a in arguments]
            if any(n.denominator != 1 or n < 0 for n in numbers):
                raise NoImage(name)
            if any(n > MAX_FACTORIAL for n in numbers):
                raise TooLarge(name)
            if name == "factorial":
                return self._factorial(int(numbers[0]))
            n, k = map(int, numbers)
            if k > n:
                return 0
            return (
                self._factorial(n)
                * self._inverse(self._factorial(k) * self._factorial(n - k) % self.p)
                % self.p
            )
        if name == "abs":
            return self.of(("num", abs(rational(arguments[0]))))
        if name in ("floor", "ceil"):
            value = rational(arguments[0])
            return self.of(("num", Fraction(value.__floor__() if name == "floor" else value.__ceil__())))
        if name == "mod" and len(arguments) == 2:
            left, right = map(rational, arguments)
            if right == 0:
                raise Undefined("remainder by zero")
            return self.of(("num", left % right))
        raise NoImage(name)

    def _factorial(self, n: int) -> int:
        result = 1
        for factor in range(2, n + 1):
            result = result * factor % self.p
        return result


def rational(tree: tuple) -> Fraction:
    """The exact small rational that a tree is. Raises NoImage (it is none), Undefined, TooLarge."""
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "neg":
        return -rational(tree[1])
    if kind in ("add", "mul", "div"):
        left, right = rational(tree[1]), rational(tree[2])
        if kind == "add":
            return _small(left + right)
        if kind == "mul":
            return _small(left * right)
        if right == 0:
            raise Undefined("division by zero")
        return _small(left / right)
    if kind == "pow":
        base, power = rational(tree[1]), rational(tree[2])
        if power.denominator != 1:
            raise NoImage("a fractional power")
        if (
            abs(power) > 4096
            or abs(power) * max(base.numerator.bit_length(), base.denominator.bit_length()) > 8192
        ):
            raise TooLarge("power")
        if base == 0 and power <= 0:
            raise Undefined("zero to no positive power")
        return base ** int(power)
    if kind == "fn" and tree[1] == "abs":
        return abs(rational(tree[2]))
    raise NoImage(kind)


def _small(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > 16384 or value.denominator.bit_length() > 16384:
        raise TooLarge("number")
    return value


def equal(left: tuple, right: tuple) -> bool:
    """Are two trees the same element of the field? Raises NoImage, Undefined, TooLarge."""
    for index in range(_CANDIDATES):
        image = Image(index)
        try:
            return image.of(left) == image.of(right)
        except NoImage as problem:
            if "no square" not in str(problem):
                raise
    raise NoImage("no prime of ours has all these roots")


def proportional(left: tuple, right: tuple) -> bool:
    """Is left = c * right for a constant c other than 0? Raises as `equal`."""
    ratios = set()
    for _ in range(2):
        image = Image(0)
        a, b = image.of(left), image.of(right)
        if not a or not b:
            return a == b
        ratios.add(a * pow(b, -1, image.p) % image.p)
    return len(ratios) == 1


def symbols(tree: tuple) -> set[str]:
    """The names of a tree's variables and constants."""
    if tree[0] == "sym":
        return {tree[1]}
    found: set[str] = set()
    for part in tree[1:]:
        if isinstance(part, tuple) and part:
            parts = (part,) if isinstance(part[0], str) else part
            for inner in parts:
                if isinstance(inner, tuple):
                    found |= symbols(inner) if inner and isinstance(inner[0], str) else set()
    return found
