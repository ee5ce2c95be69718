"""Units of work: always the same rows, whatever is finished, from every kind of file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lesion.prompt_sets.prompt_set import PromptSet, open_prompt_set
from lesion.prompt_sets.units import units_of

ROWS = 23
BAD = {3, 11}


@pytest.fixture(params=["jsonl", "csv", "txt", "parquet", "list"])
def prompts(request, tmp_path) -> PromptSet:
    """Rows of every kind, two of them bad, with blank lines between."""
    path = tmp_path / f"set.{request.param}"
    texts = ["" if number in BAD else f"prompt {number}" for number in range(ROWS)]
    if request.param == "list":
        return open_prompt_set([{"prompt": text or 5} for text in texts])
    if request.param == "parquet":
        pq.write_table(pa.table({"prompt": texts}), path)
    elif request.param == "csv":
        path.write_text("prompt,group\n" + "\n\n".join(f'"{text}",g' for text in texts) + "\n")
    elif request.param == "txt":
        lines = [text.encode() or b"\xff" for text in texts]
        path.write_bytes(b"\n  \n".join(lines))
    else:
        path.write_text("\n \n".join(json.dumps({"prompt": text}) for text in texts))
    return open_prompt_set(path)


def test_there_are_bad_rows(prompts):
    assert [row.prompt_id for row in prompts.rows() if hasattr(row, "found")] == sorted(BAD)


def test_rows_from_any_number_on(prompts):
    rows = list(prompts.rows())
    assert [row.prompt_id for row in rows] == list(range(ROWS))
    for first in range(ROWS + 2):
        assert list(prompts.rows(first)) == rows[first:]


@pytest.mark.parametrize("limit", [None, 1, 5, 10, 11, ROWS, 100])
def test_units_are_the_same_whatever_is_finished(prompts, limit):
    rows = list(prompts.rows())[:limit]
    every = list(units_of(prompts, 5, limit))
    assert [unit.rows for unit in every] == [
        tuple(rows[start : start + 5]) for start in range(0, len(rows), 5)
    ]
    for finished in ({0}, {0, 1}, {1}, {0, 2}, {0, 1, 2, 3, 4}, {4}, {7}):
        left = [unit for unit in every if unit.number not in finished]
        assert list(units_of(prompts, 5, limit, finished)) == left
