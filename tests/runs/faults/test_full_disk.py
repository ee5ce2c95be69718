"""A full disk, for real: the error says how many bytes are needed; with room the run resumes."""

import errno
import re

import pytest
from fake_study import conduct, finished_in, measured, result, study_manifest, what_differs
from mounted import UNITS, in_own_mounts

from lesion.errors import RunNotWritable
from lesion.runs.store import claim

NEEDED = re.compile(
    r"write to [^:]+: (?P<name>[\w./]+): (?P<reason>[^,]+), (?P<bytes>\d+) bytes are needed\. "
    r"A run needs a directory that can be written, and room on its disk\. Make room, or choose "
    r"another directory; repeat the command: what is finished stays\."
)


@pytest.mark.parametrize(
    "sizes",
    [("12", "300", "4"), pytest.param(("8", "300", "1"), marks=pytest.mark.nightly)],
    ids=["push", "nightly"],
)
def test_file_systems_of_all_sizes(place, sizes, record_property):
    found = in_own_mounts("full", place, *sizes)
    assert len(found) >= 70
    full = 0
    for said in found:
        assert said["error"] == "RunNotWritable", said
        assert said["errno"] == errno.ENOSPC
        told = NEEDED.fullmatch(said["text"])
        if told is None:  # there was not even room for a name
            assert re.search(r": [\w./]+: No space left on device\. ", said["text"]), said["text"]
        else:
            full += 1
            assert told["reason"] == "No space left on device"
        assert said["intact"]
        assert said["again"]["error"] is None
        assert set(said["again"]["measured"]).isdisjoint(said["finished"])
        assert said["again"]["finished"] == list(range(UNITS))
        assert said["differs"] is None
    record_property("sizes", len(found))
    assert full > 0.9 * len(found)
    assert max(len(said["finished"]) for said in found) > UNITS / 2


def test_files_of_limited_size(children, place, whole):
    """RLIMIT_FSIZE: the system refuses to make a file longer (EFBIG)."""
    longest = max(len(content) for content in whole.values())
    sizes = range(1, longest, longest // 40)
    assert len(sizes) >= 40
    for size in sizes:
        run = place / f"run-{size}"
        asked = {"path": str(run), "units": 4, "counts": str(place / f"counts-{size}")}
        said = children.run("conduct in small files", most=size, **asked).answer
        assert (said["error"], said["errno"]) == ("RunNotWritable", errno.EFBIG)
        told = NEEDED.fullmatch(said["text"])
        if told is None:  # the lock, which is written before anything else
            assert ": run.lock: File too large. " in said["text"]
        else:
            assert told["reason"] == "File too large"
            assert int(told["bytes"]) > size or told["name"] == "units.log"
        before, again = finished_in(run), place / f"again-{size}"
        conduct(run, 4, again)
        assert before.isdisjoint(measured(again))
        assert what_differs(run, whole) is None


def test_a_log_that_takes_nothing(place, whole):
    """`/dev/full` in the place of units.log."""
    run = place / "run"
    with claim(run) as writer:
        writer.begin(study_manifest(4))
        (run / "units.log").symlink_to("/dev/full")
        with pytest.raises(RunNotWritable) as caught:
            writer.commit(result(0))
    assert caught.value.errno == errno.ENOSPC
    assert NEEDED.fullmatch(str(caught.value))["name"] == "units.log"
    (run / "units.log").unlink()
    again = place / "again"
    conduct(run, 4, again)
    assert measured(again) == [1, 2, 3], "its shard was durable, and proves itself"
    assert what_differs(run, whole) is None
