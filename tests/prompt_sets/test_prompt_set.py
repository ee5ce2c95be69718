"""Opening a prompt set: which one is meant, what cannot be one, its hash, and whatever bytes."""

import hashlib
import io
import json
import os
import socket
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from unchecked import outcomes

from lesion.errors import PromptSetError
from lesion.prompt_sets import prompt_set
from lesion.prompt_sets.prompt_set import FilePromptSet, ListPromptSet, PromptSet, open_prompt_set
from lesion.prompt_sets.rows import BadRow, PromptRow

FILE = "A prompt set is a regular file, because it is read more than once"
ROWS = "A prompt set has at least one row"
NAMES = "Prompts are a file, hf:OWNER/NAME[:SPLIT], or a packaged set (cats, idioms)"
HOSTILE = [
    "<script>alert(1)</script>",
    "\x1b[31mred\x07",
    "\u202eevil",
    "=1+1",
    "@SUM(A1)",
    "+1",
    "-1",
]


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A folder of packaged sets, and another one to work in."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    for name in ("idioms", "cats"):
        (folder / f"{name}.jsonl").write_text(f'\n{{"prompt": "{name}"}}\n', encoding="utf-8")
    monkeypatch.setattr(prompt_set, "PACKAGED", folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refusal(asked: object) -> str:
    with pytest.raises(PromptSetError) as caught:
        open_prompt_set(asked)
    return str(caught.value)


def as_file(ending: str, texts: list[str]) -> bytes:
    """The prompts as a file of that ending."""
    if ending == ".txt":
        return "\n".join(texts).encode()
    if ending == ".csv":
        return "\n".join(["prompt", *(f'"{text}"' for text in texts)]).encode()
    if ending == ".parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"prompt": texts}), file, write_page_checksum=True)
        return file.getvalue()
    return "\n".join(json.dumps({"prompt": text}) for text in texts).encode()


ENDINGS = (".jsonl", ".ndjson", ".csv", ".parquet", ".txt")


class TestAFile:
    @pytest.mark.parametrize("ending", [*ENDINGS, ".CSV"])
    @pytest.mark.parametrize("as_path", [True, False])
    def test_its_ending_says_how_it_is_read(self, packaged, ending, as_path):
        path = packaged / f"x{ending}"
        content = as_file(ending.lower(), ["a", *HOSTILE])
        path.write_bytes(content)
        asked = path if as_path else f"x{ending}"
        prompts = open_prompt_set(asked)
        assert prompts.name == str(asked)
        rows = list(prompts.rows())
        assert [row.prompt for row in rows] == ["a", *HOSTILE]
        assert rows == list(prompts.rows())
        assert rows[0].place.startswith(f"{asked}:")
        assert prompts.sha256() == hashlib.sha256(content).hexdigest()

    def test_it_is_found_again_from_another_directory(self, packaged, monkeypatch):
        (packaged / "x.txt").write_text("a", encoding="utf-8")
        prompts = open_prompt_set("x.txt")
        monkeypatch.chdir("/")
        assert [row.prompt for row in prompts.rows()] == ["a"]

    def test_two_readings_do_not_disturb_each_other(self, packaged):
        (packaged / "x.txt").write_text("a\nb\nc", encoding="utf-8")
        rows = open_prompt_set("x.txt").rows, open_prompt_set("x.txt").rows
        first, second = rows[0](), rows[0]()
        assert [next(first).prompt, next(first).prompt, next(second).prompt] == ["a", "b", "a"]

    def test_odd_names_are_shown_escaped(self, packaged):
        name = b"a\n\x1b\xff.txt"
        (packaged / os.fsdecode(name)).write_text("a\0", encoding="utf-8")
        prompts = open_prompt_set(os.fsdecode(name))
        assert prompts.name == r"a\n\x1b\udcff.txt"
        assert next(prompts.rows()).place == r"a\n\x1b\udcff.txt:1"

    @pytest.mark.parametrize("content", [b"\n\n", b" \r\n", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("ending", [".jsonl", ".txt", ".csv"])
    def test_one_without_rows_is_refused(self, packaged, content, ending):
        (packaged / f"x{ending}").write_bytes(content)
        found = "it has no rows, only blank lines or a header"
        assert refusal(f"x{ending}") == (
            f"prompts 'x{ending}': {found}. {ROWS}. Write one row a line."
        )

    def test_a_header_alone_is_no_row(self, packaged):
        (packaged / "x.csv").write_text("prompt,target\n", encoding="utf-8")
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), packaged / "x.parquet")
        for name in ("x.csv", "x.parquet"):
            assert "it has no rows" in refusal(name)

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_an_empty_one_is_refused(self, packaged, ending):
        (packaged / f"x{ending}").touch()
        assert refusal(f"x{ending}") == (
            f"prompts 'x{ending}': it is empty. {ROWS}. Write one row a line."
        )

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("x.json", "its name ends with '.json'"),
            ("x.jsonl.gz", "its name ends with '.gz'"),
            ("x", "its name has no ending"),
            (".csv", "its name has no ending"),
        ],
    )
    def test_another_ending_is_refused(self, packaged, name, found):
        (packaged / name).write_text("a", encoding="utf-8")
        assert refusal(name) == (
            f"prompts '{name}': {found}. The ending says how a file is read: .jsonl, .ndjson, "
            ".csv, .parquet, .txt. Rename or convert the file."
        )

    def test_a_directory_is_refused(self, packaged):
        (packaged / "x.jsonl").mkdir()
        assert refusal("x.jsonl") == (
            f"prompts 'x.jsonl': it is a directory. {FILE}. Pass one of its files."
        )

    def test_a_pipe_is_refused_at_once(self, packaged):
        os.mkfifo(packaged / "x.jsonl")
        text = f"it is a pipe or a device. {FILE}. Save its content to a file."
        assert refusal("x.jsonl") == f"prompts 'x.jsonl': {text}"
        assert refusal("/dev/null") == f"prompts '/dev/null': {text}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.csv")
            assert refusal("x.csv") == f"prompts 'x.csv': {text}"

    def test_one_that_leads_to_itself_is_refused(self, packaged):
        (packaged / "x.jsonl").symlink_to("x.jsonl")
        assert refusal("x.jsonl") == (
            "prompts 'x.jsonl': it cannot be read (Too many levels of symbolic links). "
            f"{FILE}. Check the path and its rights."
        )

    def test_one_that_has_gone_is_an_error_of_the_set(self, packaged):
        path = packaged / "x.jsonl"
        path.write_bytes(as_file(".jsonl", ["a"]))
        prompts = open_prompt_set("x.jsonl")
        path.unlink()
        for ask in (prompts.sha256, lambda: list(prompts.rows())):
            with pytest.raises(PromptSetError) as caught:
                ask()
            assert str(caught.value) == (
                "prompts 'x.jsonl': it cannot be read (No such file or directory). "
                f"{FILE}. Check the path and its rights."
            )

    def test_one_that_cannot_be_read_is_an_error_of_the_set(self, packaged):
        # Regular by its status, but nothing can be read at its beginning, whoever asks.
        path = packaged / "x.jsonl"
        path.write_bytes(b"a")
        prompts = open_prompt_set("x.jsonl")
        path.unlink()
        path.symlink_to("/proc/self/mem")
        with pytest.raises(PromptSetError, match=r"^prompts 'x.jsonl': it is empty\."):
            prompts.sha256()
        assert isinstance(prompts, FilePromptSet)
        prompts._check = lambda: None
        for ask in (prompts.sha256, lambda: list(prompts.rows())):
            with pytest.raises(PromptSetError) as caught:
                ask()
            assert "it cannot be read (Input/output error)" in str(caught.value)


class TestAName:
    def test_packaged_where_no_such_file_exists(self, packaged):
        prompts = open_prompt_set("idioms")
        assert prompts.name == "idioms"
        assert list(prompts.rows()) == [PromptRow(0, "idioms.jsonl:2", "idioms")]
        (packaged / "idioms").mkdir()
        assert open_prompt_set("idioms").name == "idioms", "a directory is no such file"

    def test_a_file_of_that_name_comes_first(self, packaged):
        (packaged / "idioms").write_text("a", encoding="utf-8")
        assert refusal("idioms").startswith("prompts 'idioms': its name has no ending.")

    @pytest.mark.parametrize(
        "asked",
        [
            "idiom",
            "x.jsonl",
            "idioms.jsonl",
            "no/x.csv",
            "../packaged/cats",
            "a\0b",
            "a " * 999,
        ],
    )
    def test_another_is_refused_with_the_packaged_names(self, packaged, asked):
        shown = r"a\x00b" if "\0" in asked else asked
        assert refusal(asked) == (
            f"prompts {shown!r}: there is no such file. {NAMES}. "
            "Check the path; a prompt itself goes into a list."
        )

    def test_below_a_file_there_is_none(self, packaged):
        (packaged / "x").write_text("a", encoding="utf-8")
        assert "there is no such file" in refusal("x/y.csv")

    def test_the_packages_own_sets_open(self):
        names = sorted(path.stem for path in prompt_set.PACKAGED.glob("*.jsonl"))
        for name in names:
            rows = list(open_prompt_set(name).rows())
            assert [row for row in rows if isinstance(row, BadRow)] == []


class TestAList:
    def test_texts_and_mappings(self):
        prompts = open_prompt_set(["a", {"prompt": "b", "target": " c", "n": 1}, ""])
        rows = [
            PromptRow(0, "prompts[0]", "a"),
            PromptRow(1, "prompts[1]", "b", target=" c", carried='{"n": 1}'),
            BadRow(2, "prompts[2]", "its prompt is empty"),
        ]
        assert prompts.name == "prompts"
        assert list(prompts.rows()) == list(prompts.rows()) == rows

    def test_later_changes_do_not_reach_it(self):
        row = {"prompt": "a"}
        asked = [row]
        prompts = open_prompt_set(asked)
        row["prompt"] = "b"
        asked.append("c")
        assert [row.prompt for row in prompts.rows()] == ["a"]

    def test_its_hash_is_that_of_its_content(self):
        def hashed(*values):
            return ListPromptSet(values).sha256()

        content = b'[0, "a", null, null, null, null, null, null]\n'
        assert hashed("a") == hashlib.sha256(content).hexdigest()
        assert hashed({"n": 1, "m": 2, "prompt": "a"}) == hashed({"prompt": "a", "m": 2, "n": 1})
        different = [
            ("a",),
            ("a", "a"),
            ("b",),
            ({"prompt": "a", "target": "b"},),
            ({"prompt": "a", "foil": "b"},),
            ({"prompt": "a", "n": 1},),
            (3,),
        ]
        assert len({hashed(*values) for values in different}) == len(different)

    def test_without_prompts_it_is_refused(self):
        assert refusal([]) == f"prompts: the list is empty. {ROWS}. Pass some prompts."

    def test_what_is_no_list_is_refused(self):
        expressions = ["open_prompt_set({'prompt': 'a'})", "open_prompt_set(3)"]
        texts = outcomes("from lesion.prompt_sets.prompt_set import open_prompt_set", expressions)
        for text, word in zip(texts.values(), ("an object", "a number"), strict=True):
            assert text == (
                f"PromptSetError: prompts: it is {word}. Prompts are a list of texts or mappings, "
                "or the name of a file or data set. Pass a list, or a path as text."
            )


def test_the_interface_cannot_be_made():
    with pytest.raises(TypeError):
        PromptSet()


def test_it_needs_neither_torch_nor_the_hub():
    heavy = ["torch", "transformers", "datasets", "pydantic"]
    code = "import sys\nfrom lesion.prompt_sets.prompt_set import open_prompt_set"
    asked = f"[name for name in {heavy} if name in sys.modules]"
    assert outcomes(code, [asked]) == {asked: "[]"}
    assert "pyarrow" in sys.modules


def either(prompts: PromptSet | str) -> list[PromptRow | BadRow] | str:
    """All its rows, or why there are none."""
    try:
        return list(prompts.rows())
    except PromptSetError as error:
        return str(error)


VALID = {ending: as_file(ending, ["He shook his", "é \u202e", "=1+1", '""']) for ending in ENDINGS}


@pytest.mark.parametrize("ending", ENDINGS)
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=st.data())
def test_whatever_bytes_are_rows_or_an_error_of_the_set(tmp_path_factory, ending, content):
    path = tmp_path_factory.getbasetemp() / f"fuzz{ending}"
    path.write_bytes(content.draw(damaged(ending), label="content"))
    try:
        prompts = open_prompt_set(path)
    except PromptSetError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert refused.startswith(f"prompts {str(path)!r}: ")
        return
    rows = either(prompts)
    assert rows == either(prompts)
    assert len(prompts.sha256()) == 64
    if isinstance(rows, str):
        return
    assert [row.prompt_id for row in rows] == list(range(len(rows)))
    for row in rows:
        assert row.place.startswith(f"{path}:")
        for value in vars(row).values():
            # Every text can be written to a table.
            assert not isinstance(value, str) or value.encode()
            assert value != ""
        if isinstance(row, PromptRow) and row.carried is not None:
            json.loads(row.carried, parse_constant=pytest.fail)


def damaged(ending: str) -> st.SearchStrategy[bytes]:
    """Any bytes; bytes out of the format's own pieces; a good file with some bytes changed."""
    pieces = [
        b"\n", b"\r\n", b'"', b'""', b",", b"prompt", b"prompt,target\n", b"a", b"\xff", b"\0",
        b"\xef\xbb\xbf", b" ", b'{"prompt": "', b'"}', b"{", b"}", b"[", b":", b"\\ud800", b"NaN",
        b"PAR1", "é".encode(), b'"target_id": 3', b"1e999",
    ]  # fmt: skip

    def changed(changes: list[tuple[int, int]]) -> bytes:
        content = bytearray(VALID[ending])
        for at, byte in changes:
            content[at % len(content)] = byte
        return bytes(content)

    places = st.tuples(st.integers(0, len(VALID[ending]) - 1), st.integers(0, 255))
    return st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from(pieces), max_size=30).map(b"".join),
        st.lists(places, min_size=1, max_size=4).map(changed),
    )


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example(text=HOSTILE[0])
@example(text=HOSTILE[2])
def test_text_comes_back_as_it_was(tmp_path_factory, text):
    if text.isspace():
        return
    path = tmp_path_factory.getbasetemp() / "text.jsonl"
    path.write_text(json.dumps({"prompt": text, "target": text, "note": text}), encoding="utf-8")
    (row,) = open_prompt_set(path).rows()
    assert (row.prompt, row.target, json.loads(row.carried)) == (text, text, {"note": text})
