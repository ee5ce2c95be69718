"""Places where no run can be written, and names that are odd: clear before anything is measured."""

import errno
import os
import re
from pathlib import Path

import pytest
from fake_study import UNITS, conduct, files_in, measured, study_manifest, what_differs
from mounted import in_own_mounts

from lesion.errors import InvalidChoice, RunExists, RunNotWritable
from lesion.runs.run import open_run
from lesion.runs.store import claim


def test_read_only_places(place):
    found = in_own_mounts("read_only", place)
    assert len(found) == 7
    for where, said in found.items():
        assert (said["error"], said["errno"]) == ("RunNotWritable", errno.EROFS), where
        assert re.fullmatch(
            r"write to [^:]+: run\.lock: Read-only file system\. A run needs a directory that can "
            r"be written, and room on its disk\. Make room, or choose another directory; repeat "
            r"the command: what is finished stays\.",
            said["text"],
        )
        assert said["measured"] == []


NAMES = {
    "newline": "a\nb",
    "quotes": "a 'b' \"c\" `d`",
    "unicode": "ключ-鍵-🔑",
    "combining": "e\u0301",
    "right to left": "\u202eabc",
    "option": "-x",
    "two options": "--out=y",
    "trailing dots": "run...",
    "leading dot": ".run",
    "spaces": "  run  ",
    "longest": "x" * 255,
    "percent": "100%25",
    "glob": "[a]*?{b}",
    "backslash": "a\\b",
    "control": "a\x01\x7fb",
    "shell": "$(touch x); & | > <",
    "tilde": "~",
    "hash": "a#b?c=d",
    "not unicode": os.fsdecode(b"\xff\xfe"),
    "equals": "layer=3",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_odd_names_are_names(place, whole, name):
    run = place / name
    conduct(run, UNITS, place / "counts")
    assert what_differs(run, whole) is None
    assert conduct(run, UNITS, place / "again")
    assert measured(place / "again") == []
    found = open_run(run)
    assert found.query("select count(*) as many from rows").loc[0, "many"] == 2 * UNITS
    assert sorted(os.listdir(place)) == sorted([name, "counts"])  # noqa: PTH208


IMPOSSIBLE = {
    "too long": ("x" * 256, RunNotWritable, "File name too long"),
    "deep": ("/".join(["x" * 200] * 25), RunNotWritable, "File name too long"),
    "zero byte": ("a\0b", InvalidChoice, "there can be no such directory (embedded null byte)"),
    "lone surrogate": ("\ud800", InvalidChoice, "there can be no such directory ("),
    "a file": ("file", RunExists, "a file stands there, or in the place of a directory above it"),
    "below a file": ("file/run", RunExists, "a file stands there, or in the place of"),
    "a device": ("null", RunExists, "a file stands there, or in the place of"),
    "a loop": ("loop", InvalidChoice, "there can be no such directory (Symlink loop"),
    "a link to a file": ("link", RunExists, "a file stands there, or in the place of"),
    "a foreign directory": ("thesis", RunExists, "something else stands there"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_places_are_refused(place, case):
    name, error, found = IMPOSSIBLE[case]
    (place / "file").write_text("a file", encoding="utf-8")
    (place / "link").symlink_to("file")
    (place / "null").symlink_to("/dev/null")
    (place / "loop").symlink_to("loop")
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter.tex").write_text("years of work", encoding="utf-8")
    before, counts = files_in(place / "thesis"), place / "counts"
    with pytest.raises(error) as caught:
        conduct(place / name, UNITS, counts)
    assert found in caught.value.found
    assert measured(counts) == []
    assert files_in(place / "thesis") == before
    assert (place / "file").read_text(encoding="utf-8") == "a file"


@pytest.mark.parametrize("name", ["run.json", "shards", "units.log", "tmp", "run.lock"])
def test_something_else_has_a_name_of_ours(place, name):
    """A directory in the place of a file, or the other way round."""
    run = place / "run"
    with claim(run) as writer:
        writer.begin(study_manifest(UNITS))
    if (run / name).is_dir():
        for path in (run / name).iterdir():
            path.unlink()
        (run / name).rmdir()
    else:
        (run / name).unlink(missing_ok=True)
    if name in ("shards", "tmp"):
        (run / name).write_text("a file", encoding="utf-8")
    else:
        (run / name).mkdir()
    counts = place / "counts"
    with pytest.raises((RunExists, RunNotWritable)) as caught:
        conduct(run, UNITS, counts)
    assert name in str(caught.value) or "something else stands there" in str(caught.value)


def test_the_working_directory(place, whole, monkeypatch):
    (place / "run").mkdir()
    monkeypatch.chdir(place / "run")
    conduct(Path(), UNITS, place / "counts")
    assert what_differs(place / "run", whole) is None
