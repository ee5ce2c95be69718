"""Plain text: one prompt a line, its spaces kept."""

import io

from lesion.prompt_sets import lines
from lesion.prompt_sets.rows import BadRow, PromptRow
from lesion.prompt_sets.text import read_text


def rows_of(content: bytes) -> list[PromptRow | BadRow]:
    return list(read_text(io.BytesIO(content), "x.txt"))


def test_one_prompt_a_line_with_its_spaces():
    content = b'\xef\xbb\xbfHe shook his\r\n\n  \t\n it is \n{"prompt": 1}\na\rb\r\r\nlast'
    assert rows_of(content) == [
        PromptRow(0, "x.txt:1", "He shook his"),
        PromptRow(1, "x.txt:4", " it is "),
        PromptRow(2, "x.txt:5", '{"prompt": 1}'),
        PromptRow(3, "x.txt:6", "a\rb\r"),
        PromptRow(4, "x.txt:7", "last"),
    ]


def test_lines_end_with_line_feeds_alone():
    text = "a\u2028b\x0bc\x0cd\x85e"
    assert rows_of(text.encode()) == [PromptRow(0, "x.txt:1", text)]


def test_blank_in_any_script_is_blank():
    assert rows_of("\u3000\u00a0\n\u2003\n".encode()) == []


def test_what_is_no_text_is_bad(monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 10)
    assert rows_of(b"good\n\nb\xffd\n" + b"x" * 11 + b"\na\0b\ngood") == [
        PromptRow(0, "x.txt:1", "good"),
        BadRow(1, "x.txt:3:7", "byte 0xff is not UTF-8"),
        BadRow(2, "x.txt:4", "its line is longer than 16 MiB"),
        BadRow(3, "x.txt:5", "its prompt holds a NUL character"),
        PromptRow(4, "x.txt:6", "good"),
    ]


def test_utf_16_is_not_taken_for_text():
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        rows = rows_of("He shook\nhis head\n".encode(encoding))
        assert rows
        assert all(isinstance(row, BadRow) for row in rows)
