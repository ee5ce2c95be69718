"""What is done with bad rows: all of them are listed, and too many of them stop a run."""

from collections.abc import Sequence

from lesion.errors import PromptSetError
from lesion.prompt_sets.rows import BadRow

MOST_LISTED = 50


def listed(bad: Sequence[BadRow], most: int = MOST_LISTED, *, count: int | None = None) -> str:
    """The bad rows one a line, at most `most`, and how many more there are.

    Args:
        count: how many there are in all, where not all of them are in `bad`.
    """
    lines = [f"  {row.place}: {row.found}" for row in bad[:most]]
    more = (len(bad) if count is None else count) - len(lines)
    return "\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])])


def check_bad_rows(
    name: str, rows: int, bad: Sequence[BadRow], strict: bool, bad_count: int | None = None
) -> None:
    """Stop where more than a fifth of a set's rows are bad, or, if strict, any of them.

    Args:
        name: of the set.
        rows: how many it has, bad ones included.
        bad: the bad rows that the message lists, all of them.
        strict: whether no row may be bad.
        bad_count: how many are bad in all, where not all of them are in `bad`.

    Raises:
        PromptSetError: too many are bad.
    """
    count = len(bad) if bad_count is None else bad_count
    too_many = count * 5 > rows
    if not too_many and not (strict and count):
        return
    if too_many:
        last = "That is more than 20 %"
        rule = "At most 20 % of a prompt set's rows may be bad, and are then skipped and counted"
        remedy = "Mend these rows or remove them"
    else:
        last = "Strict, none is skipped"
        rule = "With strict, no row of a prompt set may be bad"
        remedy = "Mend these rows or remove them, or leave out strict (--strict)"
    lines = listed(bad, len(bad), count=count)
    found = f"{count:,} of {rows:,} rows cannot be measured:\n{lines}\n{last}"
    raise PromptSetError(f"prompts {name!r}", found, rule, remedy)
