"""A look at every row of a prompt set before anything is measured: what can be asked, what not."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from lesion.errors import InvalidChoice
from lesion.experiments.questions import Asking, Question, questions_of
from lesion.models.language_model import LanguageModel
from lesion.prompt_sets.bad_rows import check_bad_rows
from lesion.prompt_sets.prompt_set import PromptSet
from lesion.prompt_sets.rows import BadRow
from lesion.runs.manifest import BadRowRecord, PromptsRecord

UNIT_ROWS = 32
"""Most rows of a unit of work."""
LISTED = 1000
"""Most bad rows that the manifest lists."""
_AT_ONCE = 512


def unit_size(asking: Asking) -> int:
    """How many rows are a unit of work: one text where each of its tokens is measured."""
    return 1 if asking.position == "every" else UNIT_ROWS


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a prompt set is, and how many predictions have so many tokens before them."""

    record: PromptsRecord
    lengths: Mapping[int, int]


def check_prompts(
    model: LanguageModel,
    prompts: PromptSet,
    asking: Asking,
    limit: int | None,
    strict: bool,
) -> Checked:
    """Read the whole set, in bounded memory, and count what cannot be asked.

    Raises:
        PromptSetError: more than a fifth of the rows are bad, or any of them if `strict`.
        InvalidChoice: the limit is no positive number.
    """
    if limit is not None and limit < 1:
        rule = "A limit is a positive whole number of rows"
        raise InvalidChoice(f"limit {limit}", "it is none", rule, "Leave it out for all rows")
    rows = bad_rows = 0
    listed: list[BadRow] = []
    lengths: Counter[int] = Counter()
    for question in _questions(model, prompts, asking, limit):
        rows += 1
        if isinstance(question, BadRow):
            bad_rows += 1
            if len(listed) < LISTED:
                listed.append(question)
        else:
            lengths.update(_lengths(question))
    check_bad_rows(prompts.name, rows, listed, strict, bad_rows)
    record = PromptsRecord(
        name=prompts.name,
        sha256=prompts.sha256(),
        rows=rows,
        limit=limit,
        unit_size=unit_size(asking),
        target_mode=asking.target_mode,
        truncate=asking.truncate,
        bad_rows=bad_rows,
        bad=tuple(
            BadRowRecord(prompt_id=row.prompt_id, place=row.place, found=row.found)
            for row in listed
        ),
    )
    return Checked(record, lengths)


def _lengths(question: Question) -> Iterable[int]:
    """How many tokens each of a question's predictions sees, the lesioned one counted."""
    size = len(question.token_ids)
    if question.source == "next":
        return range(1, size)
    return range(size, size + max(1, len(question.target_ids)))


def _questions(
    model: LanguageModel, prompts: PromptSet, asking: Asking, limit: int | None
) -> Iterator[Question | BadRow]:
    rows = islice(prompts.rows(), limit)
    while part := list(islice(rows, _AT_ONCE)):
        yield from questions_of(model, part, asking)
