"""Workers that are killed, and their driver: units are tried again, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_study import FakeJob, conduct, files_in, finished_in, measured, what_differs

from lesion.errors import UnitFailed
from lesion.runs.workers import Workers

UNITS = 6
DRIVER = """
import sys
from fake_study import FakeJob, conduct
from lesion.runs.workers import Workers

if __name__ == "__main__":
    run, counts = sys.argv[1:]
    conduct(run, 6, counts, way=Workers(FakeJob(counts, seconds=5), 2))
"""


@pytest.fixture
def whole(place):
    conduct(place / "whole", UNITS, place / "whole-counts")
    return files_in(place / "whole")


def pids(counts: Path) -> list[int]:
    return [int(line) for line in Path(f"{counts}.pids").read_text(encoding="utf-8").split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "deaths", [3, pytest.param(50, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_a_unit_whose_worker_died_is_tried_again(place, whole, deaths, record_property):
    died = 0
    for number in range(deaths):
        if died >= deaths:
            break
        run, counts = place / f"run-{number}", place / f"counts-{number}"
        deadly = ((number % UNITS, 1), ((number + 2) % UNITS, 2))
        conduct(run, UNITS, counts, way=Workers(FakeJob(str(counts), deadly), 2))
        times = [measured(counts).count(unit) for unit in range(UNITS)]
        expected = [1 + dict(deadly).get(unit, 0) for unit in range(UNITS)]
        assert times == expected
        assert len(pids(counts)) == 2 + 3, "each that died was replaced"
        assert what_differs(run, whole) is None
        died += 3
    record_property("deaths", died)


def test_the_third_time_it_is_given_up_and_the_rest_stays(place, whole):
    run, counts = place / "run", place / "counts"
    with pytest.raises(UnitFailed) as caught:
        conduct(run, UNITS, counts, way=Workers(FakeJob(str(counts), ((5, 99),)), 2))
    assert str(caught.value) == (
        "unit 5: its worker was killed by signal 9, 3 times. A unit whose worker dies is tried 3 "
        "times, one whose worker raises only once. Look for what kills it (memory?), then repeat "
        "the command: what is finished stays."
    )
    assert measured(counts).count(5) == 3
    finished = finished_in(run)
    assert finished == {0, 1, 2, 3, 4}
    again = place / "again"
    conduct(run, UNITS, again)
    assert measured(again) == [5]
    assert what_differs(run, whole) is None


@pytest.mark.parametrize(
    "drivers", [1, pytest.param(10, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_a_killed_driver_takes_its_workers_along(place, whole, drivers):
    here = Path(__file__).parent
    script = place / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    for number in range(drivers):
        run, counts = place / f"run-{number}", place / f"counts-{number}"
        driver = subprocess.Popen(
            [sys.executable, str(script), str(run), str(counts)],
            env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent.parent}"},
        )
        deadline = time.monotonic() + 60
        while len(measured(counts)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        begun = time.monotonic()
        workers = pids(counts)
        while any(map(alive, workers)) and time.monotonic() < begun + 10:
            time.sleep(0.01)
        assert time.monotonic() - begun < 2, "they ended with it"
        assert not any(map(alive, workers))
        before, again = finished_in(run), place / f"again-{number}"
        assert len(before) < UNITS, "it was killed in the middle"
        conduct(run, UNITS, again)
        assert before.isdisjoint(measured(again))
        assert what_differs(run, whole) is None
