"""Units of measure, currencies and magnitudes: which words behind a number are none of its value.

A closed list: what is not in it ("7y", "5i", "9 factorial") is part of the answer.
"""

import re
from functools import lru_cache

# ruff: noqa: SIM905 - long word lists read better as words
# Names are full words, so that a unit that was set as text survives where a letter would be a variable.
_UNITS = {
    "%": "% \\% percent pct percentage percents",
    "$": "$ \\$ dollar dollars usd USD",
    "€": "€ euro euros eur EUR",
    "£": "£ gbp GBP",
    "¥": "¥ yen yuan rmb",
    "₹": "₹ rupee rupees rs Rs",
    "cent": "cent cents ¢ pence penny pennies",
    "degree": "^\\circ degree degrees deg",
    "celsius": "^\\circC °C celsius",
    "fahrenheit": "^\\circF °F fahrenheit",
    "radian": "radian radians rad rads",
    "millimeter": "mm millimeter millimeters millimetre millimetres",
    "centimeter": "cm centimeter centimeters centimetre centimetres",
    "decimeter": "dm decimeter decimeters decimetre decimetres",
    "meter": "m meter meters metre metres",
    "kilometer": "km kilometer kilometers kilometre kilometres kms",
    "micrometer": "µm micrometer micrometers micron microns",
    "nanometer": "nm nanometer nanometers",
    "angstrom": "Å angstrom angstroms",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yds yard yards",
    "mile": "mile miles mi",
    "hectare": "ha hectare hectares",
    "acre": "acre acres",
    "gram": "g gram grams",
    "milligram": "mg milligram milligrams",
    "kilogram": "kg kgs kilogram kilograms kilo kilos",
    "ton": "ton tons tonne tonnes",
    "pound": "lb lbs pound pounds",
    "ounce": "oz ounce ounces",
    "liter": "L l liter liters litre litres",
    "milliliter": "ml mL milliliter milliliters millilitre millilitres",
    "gallon": "gal gallon gallons",
    "quart": "qt quart quarts",
    "pint": "pt pint pints",
    "cup": "cup cups",
    "tablespoon": "tbsp tablespoon tablespoons",
    "teaspoon": "tsp teaspoon teaspoons",
    "second": "s sec secs second seconds",
    "millisecond": "ms millisecond milliseconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks wk wks",
    "month": "month months",
    "year": "year years yr yrs",
    "decade": "decade decades",
    "century": "century centuries",
    "am": "am AM a.m a.m.",
    "pm": "pm PM p.m p.m.",
    "oclock": "o'clock oclock",
    "mile/hour": "mph",
    "kilometer/hour": "kph kmph",
    "newton": "N newton newtons",
    "joule": "J joule joules",
    "kilojoule": "kJ kilojoule kilojoules",
    "calorie": "cal calorie calories kcal",
    "erg": "erg ergs",
    "electronvolt": "eV electronvolt electronvolts",
    "watt": "W watt watts",
    "kilowatt": "kW kilowatt kilowatts",
    "megawatt": "MW megawatt megawatts",
    "volt": "V volt volts",
    "millivolt": "mV millivolt millivolts",
    "ampere": "A amp amps ampere amperes",
    "milliampere": "mA milliamp milliamps",
    "ohm": "Ω ohm ohms",
    "farad": "F farad farads",
    "coulomb": "C coulomb coulombs",
    "tesla": "T tesla teslas",
    "gauss": "G gauss",
    "henry": "H henry henries",
    "weber": "Wb weber webers",
    "hertz": "Hz hertz",
    "kilohertz": "kHz kilohertz",
    "megahertz": "MHz megahertz",
    "gigahertz": "GHz gigahertz",
    "pascal": "Pa pascal pascals",
    "kilopascal": "kPa kilopascal kilopascals",
    "atmosphere": "atm atmosphere atmospheres",
    "bar": "bar bars",
    "kelvin": "K kelvin kelvins",
    "mole": "mol mols mole moles",
    "molar": "M molar",
    "lightyear": "ly lightyear lightyears light-year light-years",
    "parsec": "pc parsec parsecs",
    "au": "AU au",
    "decibel": "dB decibel decibels",
    "bit": "bit bits",
    "byte": "byte bytes kB MB GB",
    "unit": "unit units",
    "revolution": "rev revs revolution revolutions rpm",
    "point": "point points pts",
}  # fmt: skip
UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names.split()}
# What the answers of word problems count; the number alone is the same answer.
_COUNTED = frozenset(
    "people person persons men women boys girls children child kids adults students student teachers teacher "
    "friends members players workers employees customers passengers guests families couples votes visitors "
    "apples apple oranges orange bananas pears peaches grapes strawberries lemons watermelons tomatoes potatoes "
    "carrots eggs egg cookies cookie cakes cake pies cupcakes muffins donuts pizzas slices pieces piece candies "
    "sandwiches loaves meals bottles bottle cans boxes box bags bag packs packages cartons crates baskets jars "
    "trays bunches bundles pairs pair sets rolls books book pages page stories notebooks pencils pencil pens pen "
    "crayons markers erasers stickers stamps cards card coins coin bills quarters dimes nickels marbles marble "
    "balls ball toys dolls games puzzles tickets ticket clips beads buttons blocks bricks tiles tile squares "
    "triangles rectangles circles cubes sides edges vertices faces diagonals angles lines segments regions "
    "cars car trucks buses bus bikes bicycles trains planes boats seats rows columns tables chairs rooms houses "
    "floors windows doors trees tree flowers roses plants seeds leaves acorns animals animal dogs dog cats cat "
    "birds chickens ducks cows horses sheep goats pigs rabbits fish bees ants spiders legs shirts shoes socks "
    "hats dresses ways way outcomes arrangements combinations permutations possibilities choices solutions "
    "solution numbers number integers integer digits digit primes factors divisors multiples terms term values "
    "roots pairs subsets elements functions paths routes words letters questions problems answers tests lessons "
    "classes shifts trips laps steps goals rounds matches wins losses jumps "
    "passes hugs tokens presents gifts bracelets necklaces stars shells items item objects "
    "things copies photos pictures songs movies episodes videos emails messages calls visits".split()
)
# The names of units that have a letter for a short form.
LETTERS = frozenset(name for written, name in UNIT_OF.items() if len(written) == 1 and written.isalpha())
MAGNITUDES = {
    "dozen": 12, "dozens": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
# Words that say something about the value, wherever they stand; no label holds one of them.
NO_LABEL = frozenset(
    "and or not but to if for where when with as mod modulo base choose times plus minus over divided by is are "
    "half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh seventh eighth "
    "eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths factorial squared cubed root "
    "less more than least most one two three four five six seven eight nine ten eleven twelve negative "
    "positive sin cos tan cot sec csc log exp max min gcd lcm det sqrt inf infty infinity pi alpha beta gamma "
    "delta theta lambda sigma omega even odd true false none".split()
) | frozenset(MAGNITUDES)  # fmt: skip
_RAISED_BEFORE = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_RAISED_BEHIND = {"squared": 2, "cubed": 3, "^2": 2, "^3": 3}
_OVER = re.compile(r" ?/ ?| ?\b(?:per|an|a)\b(?!\.) ?")
_POWER = re.compile(r"([^\^]+)\^(-?[1-4])")
_LABEL = re.compile(r"[A-Za-z][a-z]{2,}(?:[ -][A-Za-z][a-z]+){0,5}")
_MAX_CHARS = 60


@lru_cache(maxsize=4096)
def unit_of(phrase: str) -> str | None:
    """One spelling of a listed unit: "square feet" and "ft^2", "miles per hour" and "mph"; None for other words."""
    if len(phrase) > _MAX_CHARS:
        return None
    text = phrase.replace("{", "").replace("}", "").replace("²", "^2").replace("³", "^3").strip()
    text = text.replace(" ^", "^").replace("^\\circ ", "^\\circ")
    whole = UNIT_OF.get(text) or UNIT_OF.get(text.rstrip("."))
    if whole is not None:
        return whole
    parts = _OVER.split(text)
    if len(parts) > 3:
        return None
    named = [_product(part.strip()) for part in parts]
    if (named[0] == "" and len(named) == 1) or None in named or "" in named[1:]:
        return None
    return "/".join(map(str, named))


def _product(text: str) -> str | None:
    """Units side by side, each perhaps to a power; None where one of them is unknown."""
    found: list[str] = []
    raised = 0
    for word in text.replace("^", " ^").replace("\\cdot", " ").replace("*", " ").split():
        if word in _RAISED_BEFORE and not raised:
            raised = _RAISED_BEFORE[word]
            continue
        power = _RAISED_BEHIND.get(word) or (int(word[1:]) if re.fullmatch(r"\^-?[1-4]", word) else 0)
        if power and found and not raised:
            found[-1] = f"{found[-1]}^{power}" if power != 1 else found[-1]
            continue
        name = _base(word)
        if name is None:
            return None
        found.append(f"{name}^{raised}" if raised else name)
        raised = 0
    return None if raised else "*".join(found)


def _base(word: str) -> str | None:
    name = UNIT_OF.get(word) or UNIT_OF.get(word.rstrip("."))
    if name is None and len(word) > 1:
        name = UNIT_OF.get(word.lower()) or UNIT_OF.get(word.lower().rstrip("."))
        if name is None and word.lower() in _COUNTED:
            name = counted(word)
    return name


def counted(words: str) -> str:
    """The spelling of what is counted: "apple" and "apples" are one."""
    return " ".join(words.lower().split()).removesuffix("s")


def is_measure(phrase: str) -> bool:
    """A listed unit that is no count: "miles per hour", not "clips"."""
    return unit_of(phrase) is not None and _COUNTED.isdisjoint(phrase.lower().split())


def is_label(words: str) -> bool:
    """Words that name what is counted and say nothing about how many: "red marbles", not "or more"."""
    return bool(_LABEL.fullmatch(words)) and NO_LABEL.isdisjoint(words.lower().replace("-", " ").split())


def is_letter(phrase: str) -> bool:
    """Is a unit written as a letter, perhaps with a power, that could as well be a variable: "m", "s^2"?"""
    return len(phrase.replace("{", "").replace("}", "").replace(" ", "").partition("^")[0]) == 1 and (
        phrase[0].isalpha()
    )
