"""Studies on file systems of their own: full ones, read-only ones; run inside `unshare -rm`.

Needs the right to make a mount namespace: without it the test fails with the reason. As root
`chmod` keeps nobody out, a read-only mount does.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
UNITS = 24


def in_own_mounts(call: str, place: Path, *arguments: str) -> Any:
    """What a call of this module says, made in a process with mounts of its own."""
    places = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    asked = [sys.executable, "-W", "error", str(Path(__file__)), call, str(place), *arguments]
    ended = subprocess.run(
        ["unshare", "--map-root-user", "--mount", *asked],
        env=os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"unshare --map-root-user --mount: {ended.stderr}"
    return json.loads(ended.stdout)


@contextlib.contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", options, "none", str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _tried(run: Path, counts: Path) -> dict[str, Any]:
    """What came of a study, and what it measured."""
    try:
        fake_study.conduct(run, UNITS, counts)
        said = {"error": None}
    except LesionError as error:
        said = {"error": type(error).__name__, "errno": error.errno, "text": str(error)}
    said |= {
        "measured": fake_study.measured(counts),
        "finished": sorted(fake_study.finished_in(run)),
    }
    counts.unlink(missing_ok=True)
    return said


def full(place: Path, first: str, last: str, step: str) -> list[dict[str, Any]]:
    """File systems of so many kilobytes: filled, then given room."""
    fake_study.conduct(place / "whole", UNITS, place / "counts")
    whole = fake_study.files_in(place / "whole")
    (place / "counts").unlink()
    found = []
    for size in range(int(first), int(last), int(step)):
        with _mounted(place / "disk", f"size={size}k"):
            run = place / "disk" / "run"
            said = _tried(run, place / "counts") | {"size": size}
            said["intact"] = all(
                (run / name).read_bytes() == content
                for name, content in whole.items()
                if name.startswith("shards") and (run / name).exists()
            )
            _mount("-o", "remount,size=10m", str(place / "disk"))
            said["again"] = _tried(run, place / "counts")
            said["differs"] = fake_study.what_differs(run, whole)
            found.append(said)
    return found


def read_only(place: Path) -> dict[str, Any]:
    """A read-only file system, and a read-only view of a directory; a run begun there, or none."""
    begun = place / "begun"
    with fake_study.claim(begun) as writer:
        writer.begin(fake_study.study_manifest(UNITS))
        writer.commit(fake_study.result(0))
    found = {}
    with _mounted(place / "disk", "size=1m"):
        (place / "disk" / "empty").mkdir()
        subprocess.run(["cp", "-r", str(begun), str(place / "disk")], check=True)
        _mount("-o", "remount,ro", str(place / "disk"))
        for name in ("new", "deep/new", "empty", "begun"):
            found[f"file system: {name}"] = _tried(place / "disk" / name, place / "counts")
    (place / "view").mkdir()
    _mount("--bind", str(place), str(place / "view"))
    _mount("-o", "remount,ro,bind", str(place / "view"))
    for name in ("new", "deep/new", "begun"):
        found[f"view: {name}"] = _tried(place / "view" / name, place / "counts")
    subprocess.run(["umount", str(place / "view")], check=True)
    return found


if __name__ == "__main__":
    import fake_study

    from lesion.errors import LesionError

    assert "torch" not in sys.modules
    called, where, *rest = sys.argv[1:]
    json.dump(globals()[called](Path(where), *rest), sys.stdout)
