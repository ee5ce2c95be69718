"""The words of `select`: how a sweep turns fractions into selections.

    top, bottom         one selection a fraction
    random, random:N    N draws (default 1) of one selection a fraction
    band:LOW-HIGH       one selection; the fractions do not apply
    set:FILE            one selection, the `layer,neuron` rows of FILE; the fractions do not apply

Several words, separated by commas, are measured in one sweep: the first is the question, the others
are its controls.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from lesion.errors import InvalidChoice
from lesion.interventions.selection import (
    Band,
    Bottom,
    NeuronSet,
    Random,
    RankKey,
    Selection,
    Top,
    band,
    neuron_set,
)

Select = str | Selection | Iterable["str | Selection"]

_WORDS = "top, bottom, random[:DRAWS], band:LOW-HIGH, set:FILE"
_NEXT_WORD = re.compile(r"\s*,\s*(?=(?:top|bottom|random|band|set)(?:\s*[:,]|\s*$))")


def parse_select(
    asked: Select, fractions: Sequence[Decimal], rank: RankKey | None, seed: int
) -> tuple[Selection, ...]:
    """The selections that the words mean at these fractions, in the order of the words.

    Raises:
        InvalidChoice: an unknown word, or one whose numbers or file mean nothing.
    """
    if isinstance(asked, str):
        pieces: Iterable[str | Selection] = _NEXT_WORD.split(asked)
    else:
        pieces = [asked] if isinstance(asked, Selection) else asked
    found: list[Selection] = []
    for piece in pieces:
        if isinstance(piece, Selection):
            found.append(piece)
        else:
            found.extend(_selections(piece.strip(), fractions, rank, seed))
    if not found:
        raise InvalidChoice("select", "it is empty", f"A selection is one of {_WORDS}", "Pass top")
    return tuple(dict.fromkeys(found))


def takes_fractions(asked: Select) -> bool:
    """Whether any of the words is multiplied by the fractions of a sweep."""
    pieces = _NEXT_WORD.split(asked) if isinstance(asked, str) else asked
    if isinstance(pieces, Selection):
        return False
    words = [piece.strip() for piece in pieces if isinstance(piece, str)]
    return any(not word.startswith(("band:", "set:")) for word in words)


def read_neuron_set(path: Path) -> NeuronSet:
    """The set in a text file of `layer,neuron` rows; a header line may come first.

    Raises:
        InvalidChoice: no such file, not UTF-8, or a row that is not two whole numbers (its line is
            named).
    """
    rule = "A set file holds one layer,neuron pair a line, counted from 0"
    asked = f"select set:{path}"
    try:
        # Spreadsheets put a byte order mark first.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8"
        raise InvalidChoice(asked, found, rule, "Save the file as UTF-8 text") from None
    except (OSError, ValueError) as error:
        found = f"it cannot be read ({getattr(error, 'strerror', None) or error})"
        raise InvalidChoice(asked, found, rule, "Check the name") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split(",")]
        if not any(cells) or (number == 1 and cells == ["layer", "neuron"]):
            continue
        if len(cells) != 2 or not all(re.fullmatch(r"[0-9]{1,9}", cell) for cell in cells):
            shown = line if len(line) <= 40 else line[:40] + "…"
            found = f"line {number} is {shown!r}"
            raise InvalidChoice(asked, found, rule, "Write for example 3,17")
        pairs.append((int(cells[0]), int(cells[1])))
    if not pairs:
        raise InvalidChoice(asked, "it holds no pair", rule, "Write for example 3,17")
    return neuron_set(pairs)


def _selections(
    word: str, fractions: Sequence[Decimal], rank: RankKey | None, seed: int
) -> list[Selection]:
    kind, _, argument = word.partition(":")
    if word == "top":
        return [Top(fraction, rank) for fraction in fractions]
    if word == "bottom":
        return [Bottom(fraction, rank) for fraction in fractions]
    if kind == "random":
        draws = range(_draws(word, argument))
        return [Random(fraction, seed, draw) for draw in draws for fraction in fractions]
    if kind == "band" and argument:
        return [_band(word, argument, rank)]
    if kind == "set" and argument:
        return [read_neuron_set(Path(argument))]
    rule = f"A selection is one of {_WORDS}"
    raise InvalidChoice(f"select {word!r}", "there is no such word", rule, "Pass one of them")


def _draws(word: str, argument: str) -> int:
    if word == "random":
        return 1
    if re.fullmatch(r"[1-9]\d{0,3}", argument):
        return int(argument)
    rule = "random:DRAWS takes a whole number of draws from 1 to 9999"
    raise InvalidChoice(
        f"select {word!r}", f"{argument!r} is none", rule, "Pass for example random:5"
    )


def _band(word: str, argument: str, rank: RankKey | None) -> Band:
    # A minus sign inside an exponent (1e-3) does not part the two ends.
    ends = re.fullmatch(r"([^-eE]+(?:[eE][-+]?\d+)?)-([^-eE]+(?:[eE][-+]?\d+)?)", argument)
    if ends is None:
        rule = "band:LOW-HIGH takes two fractions"
        raise InvalidChoice(
            f"select {word!r}", f"{argument!r} is not two", rule, "Pass for example band:0.01-0.02"
        )
    return band(ends[1], ends[2], rank)
