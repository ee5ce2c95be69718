"""Units of work: the rows of a prompt set, some at a time, always the same ones."""

import dataclasses
import itertools
from collections.abc import Container, Iterator

from lesion.prompt_sets.prompt_set import PromptSet
from lesion.prompt_sets.rows import BadRow, PromptRow


@dataclasses.dataclass(frozen=True)
class Unit:
    """Rows that are measured and committed together; bad ones are left out of the measurement."""

    number: int
    rows: tuple[PromptRow | BadRow, ...]


def units_of(
    prompts: PromptSet, size: int, limit: int | None, finished: Container[int] = ()
) -> Iterator[Unit]:
    """The units of a prompt set that are not finished, in their order.

    Unit u holds the rows u · size … (u + 1) · size − 1 of the first `limit`, whatever was measured
    before and by whom.
    """
    begin = next(number for number in itertools.count() if number not in finished)
    left = None if limit is None else max(0, limit - begin * size)
    rows = itertools.islice(prompts.rows(begin * size), left)
    for number in itertools.count(begin):
        part = tuple(itertools.islice(rows, size))
        if not part:
            return
        if number not in finished:
            yield Unit(number, part)
