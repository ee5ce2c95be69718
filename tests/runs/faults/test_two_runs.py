"""Two runs in one directory: one proceeds, the other ends at once and names the one."""

import signal
import socket
import time

import pytest
from fake_study import UNITS, conduct, measured, study_manifest, what_differs

from lesion.errors import RunInUse
from lesion.runs.disk import Disk
from lesion.runs.local_folder import LocalFolder
from lesion.runs.store import claim


@pytest.mark.parametrize(
    "races", [200, pytest.param(2000, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_one_of_two_proceeds(children, place, whole, races):
    for number in range(races):
        run = place / f"run-{number}"
        if number % 2:  # what a process that was killed left behind names nobody
            killed = children.run(
                "conduct until", path=str(run), units=UNITS, counts=str(place / "k"), last=40
            )
            assert killed.returncode == -signal.SIGKILL
            assert (run / "run.lock").exists()
        calls = [
            (
                "conduct",
                {
                    "path": str(run),
                    "units": UNITS,
                    "counts": str(place / f"{number}-{who}"),
                    "seconds": 0.01,
                },
            )
            for who in "ab"
        ]
        ended = children.race(calls)
        assert [each.returncode for each in ended] == [0, 0]
        first, second = sorted(ended, key=lambda each: "error" in each.answer)
        assert "error" not in first.answer, first.answer
        assert second.answer.get("error") == "RunInUse", second.answer
        assert second.answer["text"] == (
            f"write to {run}: another process writes there "
            f"(process {first.answer['pid']} on {socket.gethostname()}). "
            "One process at a time writes a run. "
            "Wait for it, or end it and repeat the command: what is finished stays."
        )
        assert second.answer["seconds"] < 1.5, "at once"
        assert [] in (measured(place / f"{number}-a"), measured(place / f"{number}-b"))
        assert what_differs(run, whole) is None


def test_the_lock_is_let_go_and_leaves_nothing(place):
    run = place / "run"
    with claim(run) as writer:
        writer.begin(study_manifest(1))
        assert (run / "run.lock").exists()
        with pytest.raises(RunInUse), claim(run):
            pass
    assert not (run / "run.lock").exists()
    conduct(run, 1, place / "counts")


def test_a_process_that_does_not_say_who_it_is_is_waited_for_a_moment(place):
    (place / "run").mkdir()
    with claim(place / "run"):
        (place / "run" / "run.lock").write_bytes(b"")
        begun = time.monotonic()
        with pytest.raises(RunInUse) as caught, claim(place / "run"):
            pass
        assert "(it has not said who it is)" in str(caught.value)
        assert 0.9 < time.monotonic() - begun < 3


def test_a_lock_whose_name_is_gone_is_no_lock(place):
    """Who lets go takes the name away, perhaps just after another process opened the file."""
    run = place / "run"
    holders = [LocalFolder(run).lock()]

    class Late(Disk):
        """Opens the lock while it is held, and asks for it when it is not any more."""

        def lock(self, file: int) -> None:
            if holders:
                holders.pop().release()
            super().lock(file)

    mine = LocalFolder(run, Late()).lock()
    assert (run / "run.lock").exists(), "it holds the file that has the name"
    with pytest.raises(RunInUse):
        LocalFolder(run).lock()
    mine.release()
    LocalFolder(run).lock().release()
