"""A disk that fails at every I/O step, once and for ever: the error is clear, the run resumes."""

import errno
import os
import re

import pytest
from fake_study import UNITS, conduct, finished_in, measured, using, what_differs
from faulty_disks import Failing

from lesion.errors import RunDamaged, RunNotWritable


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_at_every_step(place, whole, number, for_ever, record_property):
    for first in range(1, 1000):
        run, counts = place / f"run-{first}", place / f"counts-{first}"
        disk = Failing(first, number, for_ever)
        said = None
        with using(disk):
            try:
                conduct(run, UNITS, counts)
            except (RunNotWritable, RunDamaged) as error:
                said = error
        if not disk.struck:
            record_property("steps", first - 1)
            assert first > 30, "all steps were seen"
            return
        if said is not None:
            assert os.strerror(number) in said.found or "cannot be read" in said.found
            if isinstance(said, RunNotWritable):
                assert said.errno == number
        before, again = finished_in(run), place / f"again-{first}"
        conduct(run, UNITS, again)
        assert before.isdisjoint(measured(again)), "a finished unit was measured again"
        assert what_differs(run, whole) is None
        assert list((run / "tmp").iterdir()) == []
    pytest.fail("it never came to its end")


def test_a_full_disk_says_what_is_missing(place, whole):
    """The bytes of the file that did not find room stand in the message."""
    missing = set()
    for first in range(1, 1000):
        disk = Failing(first, errno.ENOSPC, for_ever=True)
        with using(disk):
            try:
                conduct(place / f"run-{first}", UNITS, place / "counts")
            except RunNotWritable as error:
                needed = re.fullmatch(
                    r"(?P<name>[^:]+): No space left on device, (?P<bytes>\d+) bytes are needed",
                    error.found,
                )
                if needed:
                    missing.add((needed["name"], int(needed["bytes"])))
        if not disk.struck:
            break
    lines = whole["units.log"].splitlines(keepends=True)
    files = {(name, len(content)) for name, content in whole.items() if name != "units.log"}
    assert missing == files | {("units.log", len(line)) for line in lines}
