"""Parquet: batches of rows, columns carried, damage noticed by its checksums."""

import datetime
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lesion.errors import PromptSetError
from lesion.prompt_sets.parquet import read_parquet
from lesion.prompt_sets.rows import BadRow, PromptRow

RULE = "A Parquet file of prompts has a column prompt of text, and each column once"


def written(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, write_page_checksum=True, **options)
    return file.getvalue()


def rows_of(content: bytes) -> list[PromptRow | BadRow]:
    return list(read_parquet(io.BytesIO(content), "x.parquet"))


def refusal(content: bytes) -> str:
    with pytest.raises(PromptSetError) as caught:
        rows_of(content)
    return str(caught.value)


def test_columns_are_fields():
    table = pa.table(
        {
            "group": pa.array([1, None, 3]),
            "prompt": ["a", None, " \u202eé"],
            "target": [" b", " b", None],
            "target_id": pa.array([None, None, 7], pa.int32()),
            "day": [datetime.date(2024, 2, 29), None, None],
            "score": [0.5, 1.0, float("nan")],
        }
    )
    assert rows_of(written(table)) == [
        PromptRow(
            0,
            "x.parquet:row 1",
            "a",
            target=" b",
            group="1",
            carried='{"day": "2024-02-29", "score": 0.5}',
        ),
        BadRow(
            1,
            "x.parquet:row 2",
            "its prompt is null",
        ),
        PromptRow(
            2,
            "x.parquet:row 3",
            " \u202eé",
            target_id=7,
            group="3",
            carried='{"day": null, "score": "nan"}',
        ),
    ]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
)
def test_text_of_any_type_is_text(kind):
    prompts = pa.array(["a", "b", "a"]).cast(kind)
    assert [row.prompt for row in rows_of(written(pa.table({"prompt": prompts})))] == list("aba")


def test_more_rows_than_one_batch_keep_their_numbers():
    rows = rows_of(
        written(pa.table({"prompt": [f"p{n}" for n in range(2500)]}), row_group_size=700)
    )
    assert [row.prompt for row in rows] == [f"p{n}" for n in range(2500)]
    assert [row.place for row in rows] == [f"x.parquet:row {n + 1}" for n in range(2500)]
    assert [row.prompt_id for row in rows] == list(range(2500))


def test_what_python_cannot_hold_makes_one_row_bad():
    raw = pa.array([b"a", b"b\xff", b"c"], pa.binary())
    prompts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    assert rows_of(written(pa.table({"prompt": prompts}))) == [
        PromptRow(0, "x.parquet:row 1", "a"),
        BadRow(1, "x.parquet:row 2", "it holds byte 0xff, which is not UTF-8"),
        PromptRow(2, "x.parquet:row 3", "c"),
    ]
    days = pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32())
    good, bad = rows_of(written(pa.table({"prompt": ["a", "b"], "day": days})))
    assert json.loads(good.carried) == {"day": "1970-01-01"}
    assert (bad.prompt_id, bad.place) == (1, "x.parquet:row 2")
    assert bad.found.startswith("it cannot be read (days=2147483647")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"text": ["a"], "n": [1]}, "it has no column prompt (its columns: 'text', 'n')"),
        ({"prompt": [1]}, "its column prompt is of type int64"),
        ({"prompt": [b"a"]}, "its column prompt is of type binary"),
        ({"prompt": [None]}, "its column prompt is of type null"),
        ({"prompt": [["a"]]}, "its column prompt is of type list<element: string>"),
    ],
)
def test_a_column_that_is_no_prompt_is_refused(columns, found):
    assert refusal(written(pa.table(columns))) == (
        f"prompts 'x.parquet': {found}. {RULE}. Rename or convert the column."
    )


def test_two_columns_of_one_name_are_refused():
    table = pa.table([pa.array(["a"]), pa.array([1]), pa.array([2])], ["prompt", "x", "x"])
    assert "its column 'x' stands there twice" in refusal(written(table))


def test_no_parquet_is_refused():
    for content in (b"prompt,target\na,b\n", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1"):
        text = refusal(content)
        assert text.startswith("prompts 'x.parquet': it is not a Parquet file (")
        assert text.endswith(f"). {RULE}. Check the file.")


def test_every_flipped_bit_of_the_pages_is_noticed():
    prompts = [f"prompt {n}" for n in range(300)]
    bare = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    content = written(pa.table({"prompt": prompts}), **bare)
    begin, end = content.index(b"prompt 0"), content.index(b"prompt 299")
    for at in range(begin, end, 97):
        damaged = bytearray(content)
        damaged[at] ^= 4
        assert refusal(bytes(damaged)) == (
            "prompts 'x.parquet': it is damaged (could not verify page integrity, CRC checksum "
            f"verification failed for page_ordinal 0). {RULE}. Write or fetch it anew."
        )
