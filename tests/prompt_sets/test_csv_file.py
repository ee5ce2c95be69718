"""CSV: RFC 4180, places of rows over several lines, quotes that never close."""

import csv
import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion.errors import PromptSetError
from lesion.prompt_sets import csv_file, lines
from lesion.prompt_sets.csv_file import read_csv
from lesion.prompt_sets.rows import BadRow, PromptRow

QUOTES = "A cell with a comma, a quote or a line end stands in quotes, its own quotes doubled"
HEADER = "A CSV file begins with a header that names the column prompt, and each column once"


def rows_of(content: bytes) -> list[PromptRow | BadRow]:
    return list(read_csv(io.BytesIO(content), "x.csv"))


def refusal(content: bytes) -> str:
    with pytest.raises(PromptSetError) as caught:
        rows_of(content)
    return str(caught.value)


def test_cells_by_the_names_of_the_header():
    content = (
        b"\xef\xbb\xbfgroup, prompt ,target,foil_id,kind\r\n"
        b'g," He said ""no"", and", head,12,\r\n'
        b",a,,,=1+1\r\n"
    )
    assert rows_of(content) == [
        PromptRow(
            0,
            "x.csv:2",
            ' He said "no", and',
            target=" head",
            foil_id=12,
            group="g",
            carried='{"kind": ""}',
        ),
        PromptRow(1, "x.csv:3", "a", carried='{"kind": "=1+1"}'),
    ]


def test_line_ends_within_quotes_and_the_line_where_a_row_begins():
    content = b'prompt,target\n"a\r\nb\n\nc",x\n\n  \nd,y\n'
    assert rows_of(content) == [
        PromptRow(0, "x.csv:2", "a\r\nb\n\nc", target="x"),
        PromptRow(1, "x.csv:8", "d", target="y"),
    ]


def test_blank_lines_are_none_and_empty_prompts_are_bad():
    assert rows_of(b'\n\nprompt\n\na\n""\n') == [
        PromptRow(0, "x.csv:5", "a"),
        BadRow(1, "x.csv:6", "its prompt is empty"),
    ]
    assert rows_of(b"prompt,target\n,\n")[0].found == "its prompt is empty"
    assert rows_of(b"prompt,target\n") == rows_of(b"prompt") == rows_of(b"\n") == []


@pytest.mark.parametrize(
    ("row", "place", "found"),
    [
        (b"a", "2", "it has 1 cells, the header 3"),
        (b"a,b,1,d", "2", "it has 4 cells, the header 3"),
        (b"a,b\xff,\xfe", "2:27", "byte 0xff is not UTF-8"),
        (b'"a\n\xff",b,', "3:27", "byte 0xff is not UTF-8"),
        (b'"a"b,c,', "2", "it is not CSV (',' expected after '\"')"),
        (b"a\rb,c,", "2", None),
        (b"a\0b,c,", "2", "its prompt holds a NUL character"),
        (b"a,,1.0", "2", "its target_id is not a whole number but text"),
        (b"a,,-1", "2", "its target_id is not a whole number but text"),
        ("a,,١".encode(), "2", "its target_id is not a whole number but text"),
        (b"a,,1_0", "2", "its target_id is not a whole number but text"),
        (
            b"a,," + b"9" * 5000,
            "2",
            "its target_id is negative or too large for a token id",
        ),
        (b"a,b,1", "2", "it has both target and target_id"),
        (
            b"a," + b"b" * 200_000 + b",",
            "2",
            "it is not CSV (field larger than field limit (131072))",
        ),
    ],
)
def test_a_bad_row_says_why(row, place, found):
    rows = rows_of(b"prompt,target,target_id\n" + row + b"\na,b,\n")
    assert len(rows) == 2
    assert rows[1].prompt == "a"
    bad = rows[0]
    assert isinstance(bad, BadRow)
    assert bad.found == found or (found is None and bad.found.startswith("it is not CSV ("))
    assert bad.place == f"x.csv:{place}"


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (
            b"text;target\na;b\n",
            "it has no column prompt (its columns: 'text;target')",
            "Name the columns in the first line, with commas between them: prompt,target",
        ),
        (
            b"Prompt,x\na,b\n",
            "it has no column prompt (its columns: 'Prompt', 'x')",
            "Name the columns in the first line, with commas between them: prompt,target",
        ),
        (
            b"prompt,x, x\na,b,c\n",
            "its column 'x' stands there twice",
            "Rename one of them",
        ),
        (
            b"prompt,\xe9\na,b\n",
            "in its header, byte 0xe9 is not UTF-8",
            "Write the header anew, in UTF-8",
        ),
        (
            b'"prompt"s\na\n',
            "in its header, it is not CSV (',' expected after '\"')",
            "Write the header anew, in UTF-8",
        ),
    ],
)
def test_a_header_without_prompts_is_refused(content, found, remedy):
    assert refusal(content) == f"prompts 'x.csv': {found}. {HEADER}. {remedy}."


class TestQuotesThatDoNotMatch:
    """Behind them rows would be lost: the whole file is refused."""

    def test_at_the_end_of_the_file(self):
        assert refusal(b'prompt,target\na,b\n"c,d\ne,f\n') == (
            "prompts 'x.csv': the quotes do not match in the row that begins at x.csv:3 (read as "
            f"far as line 4: unexpected end of data). {QUOTES}. Close the quote there."
        )

    def test_where_another_row_has_quotes(self):
        assert refusal(b'prompt,target\n"c,d\ne,f\n"g",h\n') == (
            "prompts 'x.csv': the quotes do not match in the row that begins at x.csv:2 (read as "
            f"far as line 4: ',' expected after '\"'). {QUOTES}. Close the quote there."
        )

    def test_on_the_last_line_alone_it_is_one_bad_row(self):
        assert rows_of(b'prompt\na\n"b')[1] == BadRow(
            1, "x.csv:3", "it is not CSV (unexpected end of data)"
        )

    def test_a_cell_without_end_is_not_held(self, tmp_path):
        path = tmp_path / "x.csv"
        with path.open("wb") as file:
            file.write(b'prompt\n"')
            for _ in range(50):
                file.write((b"x" * 99 + b"\n") * 10_000)
        tracemalloc.start()
        with path.open("rb") as file, pytest.raises(PromptSetError, match="field larger than"):
            list(read_csv(file, "x.csv"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6

    def test_a_row_of_short_cells_without_end_is_not_held(self, monkeypatch):
        monkeypatch.setattr(csv_file, "LONGEST_LINE", 100_000)
        # Read from its beginning or within quotes, each line leaves a quote open.
        text = refusal(b"prompt\n" + b'x""","\n' * 100_000)
        assert "begins at x.csv:2 (read as far as line 14287: more than 16 MiB)" in text

    def test_a_line_without_end_is_refused_within_quotes_and_bad_outside(self, monkeypatch):
        for module in (csv_file, lines):
            monkeypatch.setattr(module, "LONGEST_LINE", 1000)
        long = b"x" * 100_000 + b"\n"
        assert rows_of(b"prompt\n" + long + b"a\n") == [
            BadRow(0, "x.csv:2", "its line is longer than 16 MiB"),
            PromptRow(1, "x.csv:3", "a"),
        ]
        assert "(read as far as line 3: more than 16 MiB)" in refusal(b'prompt\n"\n' + long)


@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
            ).filter(lambda text: not text.isspace()),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        ),
        min_size=1,
    )
)
def test_what_the_writer_of_python_writes_comes_back(pairs):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("prompt", "note"), *pairs])
    rows = rows_of(file.getvalue().encode())
    assert [row.prompt for row in rows] == [prompt for prompt, _ in pairs]
