"""What the chosen neurons are overwritten with.

Every replacement here is taken from the row's own vector in that block, just before overwriting:

    median        the lower of the two middle values (what `torch.median` returns)
    median_mid    the mean of the two middle values (what numpy and R return)
    mean, min     of the vector
    zero          0
    constant:C    the number C
"""

import dataclasses
import math
from typing import Literal, get_args

from lesion.errors import InvalidChoice

ReplacementKind = Literal["median", "median_mid", "mean", "zero", "min", "constant"]
REPLACEMENT_KINDS: tuple[ReplacementKind, ...] = get_args(ReplacementKind)


@dataclasses.dataclass(frozen=True)
class Replacement:
    """One kind of replacement; `constant` is the number of the kind `constant`, else None."""

    kind: ReplacementKind
    constant: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in REPLACEMENT_KINDS:
            raise _unknown(str(self.kind))
        if (self.kind == "constant") != (self.constant is not None):
            rule = "A constant replacement has a number, and no other has one"
            raise InvalidChoice(
                f"replace {self.kind!r}", f"constant={self.constant}", rule, _REMEDY
            )
        if self.constant is None:
            return
        object.__setattr__(self, "constant", float(self.constant))
        if not math.isfinite(self.constant):
            rule = "A constant replacement is a finite number"
            raise InvalidChoice("replace 'constant'", f"it is {self.constant}", rule, _REMEDY)

    def __str__(self) -> str:
        return self.kind if self.constant is None else f"constant:{self.constant!r}"


def constant(value: float) -> Replacement:
    """Overwrite with the number `value`."""
    return Replacement("constant", float(value))


def parse_replacement(asked: "str | Replacement") -> Replacement:
    """The replacement named by a word such as `median` or `constant:0.5`.

    Raises:
        InvalidChoice: an unknown word, or a constant without a finite number.
    """
    if isinstance(asked, Replacement):
        return asked
    kind, _, number = str(asked).partition(":")
    if kind == "constant":
        try:
            return constant(float(number))
        except ValueError:
            rule = "A constant replacement is a finite number"
            found = f"{number!r} is not one" if number else "the number is missing"
            raise InvalidChoice(f"replace {asked!r}", found, rule, _REMEDY) from None
    for known in REPLACEMENT_KINDS:
        if known == asked:
            return Replacement(known)
    raise _unknown(str(asked))


_REMEDY = "Write for example constant:0.5"


def _unknown(asked: str) -> InvalidChoice:
    words = ", ".join([*REPLACEMENT_KINDS[:-1], "constant:NUMBER"])
    rule = f"A replacement is one of {words}"
    return InvalidChoice(f"replace {asked!r}", "there is no such word", rule, "Pass one of them")
