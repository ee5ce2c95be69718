"""JSONL: rows, places to the byte, what is no JSON, and lines that memory could not hold."""

import ast
import io
import json
import tracemalloc

import pytest
from unchecked import outcomes

from lesion.prompt_sets import lines
from lesion.prompt_sets.jsonl import read_jsonl
from lesion.prompt_sets.rows import BadRow, PromptRow


def rows_of(content: bytes) -> list[PromptRow | BadRow]:
    return list(read_jsonl(io.BytesIO(content), "x.jsonl"))


def test_one_object_a_line():
    content = b'{"prompt": "a", "target": " b"}\n{"prompt": "c", "n": 1, "group": "g"}'
    assert rows_of(content) == [
        PromptRow(0, "x.jsonl:1", "a", target=" b"),
        PromptRow(1, "x.jsonl:2", "c", group="g", carried='{"n": 1}'),
    ]


def test_blank_lines_are_not_counted_as_rows_but_as_lines():
    content = b'\n  \r\n{"prompt": "a"}\r\n\t\n[]\n{"prompt": "b"}\n\n'
    assert rows_of(content) == [
        PromptRow(0, "x.jsonl:3", "a"),
        BadRow(1, "x.jsonl:5", "it is not an object but a list"),
        PromptRow(2, "x.jsonl:6", "b"),
    ]
    assert rows_of(b"\n \n") == []


def test_a_byte_order_mark_is_no_content():
    mark = b"\xef\xbb\xbf"
    assert rows_of(mark + b'{"prompt": "a"}') == [PromptRow(0, "x.jsonl:1", "a")]
    assert rows_of(mark) == rows_of(mark + b"\n") == []
    # Only at the beginning of the file, and offsets count it.
    assert rows_of(mark + b"\xff")[0].place == "x.jsonl:1:3"
    assert isinstance(rows_of(b"\n" + mark + b'{"prompt": "a"}')[0], BadRow)


@pytest.mark.parametrize(
    ("content", "place", "byte"),
    [
        (b"\xff", "x.jsonl:1:0", "0xff"),
        (b'{"prompt": "a"}\n{"prompt": "\xe9t"}\n', "x.jsonl:2:28", "0xe9"),
        (b'{"prompt": "a"}\n{"prompt": "\xe2\x82"}\n', "x.jsonl:2:28", "0xe2"),
        (b'{"prompt": "\xed\xa0\x80"}\n', "x.jsonl:1:12", "0xed"),
        ('{"prompt": "a"}'.encode("utf-16"), "x.jsonl:1:0", "0xff"),
        (b"\r\n\r\n  \xc0\xaf", "x.jsonl:3:6", "0xc0"),
    ],
)
def test_a_byte_that_is_not_utf_8_is_named_with_its_place(content, place, byte):
    bad = [row for row in rows_of(content) if isinstance(row, BadRow)]
    assert (bad[0].place, bad[0].found) == (place, f"byte {byte} is not UTF-8")
    assert content[int(place.rpartition(":")[2])] == int(byte, 16)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"He shook his", "it is not JSON (Expecting value at character 1)"),
        (b'{"prompt": "a"', "it is not JSON (Expecting ',' delimiter at character 15)"),
        (b'{"prompt": "a}', "it is not JSON (Unterminated string starting at character 12)"),
        (b'{"prompt": "a\tb"}', "it is not JSON (Invalid control character at character 14)"),
        (b'{"prompt": "a"} {}', "it is not JSON (Extra data at character 17)"),
        (b"3", "it is not an object but a number"),
        (b'"a"', "it is not an object but text"),
        (b"null", "it is not an object but null"),
        (b"true", "it is not an object but a truth value"),
        (b"NaN", "it is not an object but a number"),
        (
            b'{"prompt": "a", "n": NaN}',
            "it holds a number that JSON cannot (NaN, infinity, or of too many digits)",
        ),
        (
            b'{"prompt": "a", "n": 1e999}',
            "it holds a number that JSON cannot (NaN, infinity, or of too many digits)",
        ),
        (b'{"prompt": "a", "n": ' + b"1" * 5000 + b"}", "it holds a number of too many digits"),
        (b'{"prompt": "a", "prompt": "b"}', "the field 'prompt' stands in it twice"),
        (b'{"prompt": "a", "n": {"x\\n": 1, "x\\n": 1}}', r"the field 'x\n' stands in it twice"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b'{"prompt": "\\ud800"}', "its prompt holds half a character (a lone surrogate)"),
        (b'{"prompt": "\\u0000"}', "its prompt holds a NUL character"),
        (b'{"prompt": "a", "target_id": 1.0}', "its target_id is not a whole number but 1.0"),
    ],
)
def test_what_is_no_row_says_why(line, found):
    good = b'{"prompt": "a"}'
    assert rows_of(good + b"\n" + line + b"\n" + good) == [
        PromptRow(0, "x.jsonl:1", "a"),
        BadRow(1, "x.jsonl:2", found),
        PromptRow(2, "x.jsonl:3", "a"),
    ]


def test_a_pair_of_surrogates_is_one_character():
    assert rows_of(b'{"prompt": "\\ud83d\\ude00"}')[0].prompt == "😀"


class TestLongLines:
    def test_they_are_bad_and_the_next_one_is_read(self, monkeypatch):
        monkeypatch.setattr(lines, "LONGEST_LINE", 20)
        fits = b'{"prompt": "aaaaaa"}'
        assert len(fits) == 20
        over = b'{"prompt": "aaaaaaa"}'
        content = b"\n".join([fits, over, b"\xff" * 200_000, fits, over])
        assert rows_of(content) == [
            PromptRow(0, "x.jsonl:1", "aaaaaa"),
            BadRow(1, "x.jsonl:2", "its line is longer than 16 MiB"),
            BadRow(2, "x.jsonl:3", "its line is longer than 16 MiB"),
            PromptRow(3, "x.jsonl:4", "aaaaaa"),
            BadRow(4, "x.jsonl:5", "its line is longer than 16 MiB"),
        ]

    def test_offsets_count_what_was_skipped(self, monkeypatch):
        monkeypatch.setattr(lines, "LONGEST_LINE", 20)
        content = b"x" * 200_000 + b"\n\xff\n"
        assert rows_of(content)[1].place == "x.jsonl:2:200001"

    def test_they_are_not_held(self, tmp_path):
        path = tmp_path / "x.jsonl"
        with path.open("wb") as file:
            for _ in range(100):
                file.write(b"x" * 2**20)
            file.write(b'\n{"prompt": "a"}\n')
        tracemalloc.start()
        with path.open("rb") as file:
            rows = list(read_jsonl(file, "x.jsonl"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == [
            BadRow(0, "x.jsonl:1", "its line is longer than 16 MiB"),
            PromptRow(1, "x.jsonl:2", "a"),
        ]
        # Python's own reading of a line grows its buffer twice over.
        assert peak < 40e6


@pytest.mark.slow
def test_200_000_lines_cost_no_memory(tmp_path):
    path = tmp_path / "x.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(200_000):
            row = {"prompt": f"He shook his {number}", "target": " head", "n": number}
            file.write(json.dumps(row) + "\n")
    assert path.stat().st_size > 10e6
    # In a child, without the checks of the tests, which would take minutes here.
    imports = (
        "import collections, itertools, tracemalloc\n"
        "from lesion.prompt_sets.prompt_set import open_prompt_set\n"
        f"prompts = open_prompt_set({str(path)!r})\n"
        "tracemalloc.start()\n"
        "(last,) = collections.deque(prompts.rows(), maxlen=1)\n"
        "streamed = tracemalloc.get_traced_memory()[1]\n"
        "held = list(itertools.islice(prompts.rows(), 20_000))\n"
    )
    asked = ["last.prompt_id", "streamed", "tracemalloc.get_traced_memory()[1]"]
    last, streamed, held = map(ast.literal_eval, outcomes(imports, asked).values())
    assert last == 199_999
    assert streamed < 8e6
    assert held > 8e6, "the measure sees memory"
