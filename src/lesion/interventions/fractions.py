"""Shares of neurons, on the exact decimal that was written.

Binary floating point floors 0.29 · 6400 to 1855. Here a fraction is a `Decimal`, so the number of
neurons is 1856.
"""

import itertools
import math
import re
from collections.abc import Iterable
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction

from lesion.errors import InvalidChoice

MOST_FRACTIONS = 10_000
MOST_PLACES = 100
# Whatever the caller's decimal context is, nothing is rounded here.
_EXACT = Context(prec=3 * MOST_PLACES)

PRESETS: dict[str, tuple[Decimal, ...]] = {
    "coarse": tuple(Decimal(percent) / 100 for percent in range(10, 100, 10)),
    "fine": (Decimal("0.002"), *(Decimal(step) / 200 for step in range(1, 10))),
    "book": tuple(Decimal("0.01") + Decimal("0.049") * step for step in range(21)),
}

Fractions = str | float | Decimal | Iterable[str | float | Decimal]


def parse_fraction(value: object) -> Decimal:
    """One share in [0, 1], as the decimal that `str(value)` writes.

    Raises:
        InvalidChoice: not a number, NaN, or outside [0, 1].
    """
    asked = f"fraction {str(value) or repr(value)}"
    rule = "A fraction is a share of the neurons and lies in [0, 1]"
    try:
        fraction = Decimal(str(value).strip())
    except InvalidOperation:
        remedy = "Pass a decimal such as 0.05, a preset (coarse, fine, book) or start:stop:step"
        raise InvalidChoice(asked, "it is not a number", rule, remedy) from None
    if not fraction.is_finite():
        raise InvalidChoice(asked, "it is not a finite number", rule, "Pass a decimal such as 0.05")
    if fraction > 1:
        remedy = "Pass a decimal such as 0.05"
        if fraction <= 100:
            share = _EXACT.normalize(_EXACT.divide(fraction, Decimal(100)))
            remedy = f"For {_EXACT.normalize(fraction):f} per cent, pass {share:f}"
        raise InvalidChoice(asked, "it is greater than 1", rule, remedy)
    if fraction < 0:
        raise InvalidChoice(asked, "it is negative", rule, "Pass a decimal such as 0.05")
    if len(fraction.as_tuple().digits) > MOST_PLACES or fraction.adjusted() < -MOST_PLACES:
        found = f"it has more than {MOST_PLACES} decimal places"
        raise InvalidChoice(asked[:60], found, rule, "Pass a decimal such as 0.05")
    # One spelling for 0.1 and 0.10; and no negative zero.
    return _EXACT.normalize(fraction).copy_abs()


def parse_fractions(asked: Fractions) -> tuple[Decimal, ...]:
    """All shares asked for, ascending, each once.

    Takes a number, a preset's name, `start:stop:step` (the stop included where a step meets it),
    a text of these separated by commas, or an iterable of all these.

    Raises:
        InvalidChoice: one of them is no share, none is left, or more than `MOST_FRACTIONS`.
    """
    listed = [asked] if isinstance(asked, str) or not isinstance(asked, Iterable) else asked
    found: set[Decimal] = set()
    for piece in itertools.chain.from_iterable(map(_pieces, listed)):
        found.update(_expand(piece))
        if len(found) > MOST_FRACTIONS:
            raise _too_many("fractions", f"there are more than {MOST_FRACTIONS}")
    if not found:
        rule = "A sweep needs at least one fraction"
        raise InvalidChoice(
            "fractions", "there is none", rule, "Pass for example 0.01,0.1 or coarse"
        )
    return tuple(sorted(found))


def count(fraction: Decimal, size: int) -> int:
    """floor(fraction · size), exactly."""
    return math.floor(Fraction(fraction) * size)


def _pieces(listed: object) -> list[object]:
    return list(re.split(r"[,\s]+", listed.strip())) if isinstance(listed, str) else [listed]


def _expand(piece: object) -> Iterable[Decimal]:
    if isinstance(piece, str) and piece in PRESETS:
        return PRESETS[piece]
    if isinstance(piece, str) and piece.count(":") == 2:
        return _steps(piece)
    return (parse_fraction(piece),)


def _steps(text: str) -> Iterable[Decimal]:
    start, stop, step = (parse_fraction(part) for part in text.split(":"))
    if step == 0 or start > stop:
        rule = "start:stop:step climbs from start to stop by a step above 0"
        raise InvalidChoice(f"fractions {text}", "it never arrives", rule, "Try 0.1:0.9:0.1")
    steps = math.floor((Fraction(stop) - Fraction(start)) / Fraction(step))
    if steps >= MOST_FRACTIONS:
        raise _too_many(f"fractions {text}", f"there are more than {MOST_FRACTIONS}")
    return (_EXACT.fma(step, Decimal(index), start) for index in range(steps + 1))


def _too_many(asked: str, found: str) -> InvalidChoice:
    rule = f"A sweep takes at most {MOST_FRACTIONS} fractions"
    return InvalidChoice(asked, found, rule, "Take a larger step")
