"""One flipped bit, a cut, a sector of zeros, in every kind of file: noticed, set aside, mended.

No wrong value is ever served. Plain Parquet is the negative control: it serves them.
"""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_study import UNITS, conduct, files_in, measured, what_differs

from lesion.errors import RunDamaged
from lesion.runs.run import Run, open_run

SECTOR = 512


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit is another one."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end is missing, or all."""
    return content[: rng.randrange(len(content))]


def zero(content: bytes, rng: random.Random) -> bytes:
    """A sector, or what there is of it, is zero."""
    start = rng.randrange(len(content) // SECTOR + 1) * SECTOR
    end = min(start + SECTOR, len(content))
    return content[:start] + bytes(end - start) + content[end:]


DAMAGES = {"bit": flip, "cut": cut, "sector": zero}


@pytest.fixture
def study(place):
    """A finished study and what it says."""
    conduct(place / "run", UNITS, place / "counts")
    return place / "run", open_run(place / "run")


def hurt(run: Path, rng: random.Random) -> tuple[str, str]:
    """Damage one file; its name and how."""
    name = rng.choice(
        ["run.json", "units.log", *(f"shards/{unit:06d}.parquet" for unit in range(UNITS))]
    )
    content = (run / name).read_bytes()
    how = rng.choice(["bit", "bit", "cut", "sector"])
    while (damaged := DAMAGES[how](content, rng)) == content:
        pass
    (run / name).write_bytes(damaged)
    return name, how


def served(run: Path, whole: Run) -> str:
    """What reading gives: the right run, fewer units of it, or an error; never anything else."""
    try:
        found = open_run(run)
        assert found.table.equals(whole.table), "a wrong value was served"
        assert found.prompts == whole.prompts, "a wrong value was served"
        assert found.manifest == whole.manifest, "a wrong value was served"
    except RunDamaged:
        return "refused"
    return "right"


@pytest.mark.parametrize(
    "trials", [1000, pytest.param(10_000, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_nothing_wrong_is_served_and_all_is_mended(study, place, trials, record_property):
    run, before = study
    whole = files_in(run)
    counts: dict[tuple[str, str], int] = {}
    for number in range(trials):
        rng = random.Random(number)
        name, how = hurt(run, rng)
        without_log = name.startswith("shards") and rng.random() < 0.5
        if without_log:  # the shard is then on its own
            (run / "units.log").unlink()
        said = served(run, before)
        in_a_shard = name.startswith("shards")
        if in_a_shard or (name == "run.json" and how != "cut"):
            assert said == "refused", f"trial {number}: {how} in {name}"
        if name == "units.log":
            assert said == "right", f"trial {number}: {how} in {name}"
        again = place / f"counts-{number}"
        goes_on = conduct(run, UNITS, again)
        assert goes_on
        unit = [int(Path(name).stem)] if in_a_shard else []
        assert measured(again) == unit, f"trial {number}: {how} in {name}"
        aside = [path.relative_to(run).as_posix() for path in run.rglob("*.bad*")]
        if said == "refused":
            assert aside == [f"{name}.bad"], f"trial {number}: {how} in {name}"
        if name == "run.json" and aside:
            assert open_run(run).manifest == before.manifest.model_copy(update={"created": None})
            (run / "run.json").write_bytes(whole["run.json"])
        assert what_differs(run, whole, bad=len(aside)) is None, f"trial {number}: {how} in {name}"
        counts[name, how] = counts.get((name, how), 0) + 1
        for path in aside:
            (run / path).unlink()
        again.unlink(missing_ok=True)
        (run / "units.log").write_bytes(whole["units.log"])
    record_property("trials", sum(counts.values()))
    assert len(counts) == 3 * (UNITS + 2), "every damage struck every file"


@pytest.mark.parametrize(
    "trials", [300, pytest.param(1000, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_plain_parquet_serves_wrong_values(place, trials, record_property):
    """The negative control: no page checksums, no seal."""
    numbers = np.random.default_rng(0)
    table = pa.table({f"x{column}": numbers.normal(size=2000) for column in range(10)})
    path = place / "plain.parquet"
    pq.write_table(table, path)
    content, wrong = path.read_bytes(), 0
    for number in range(trials):
        path.write_bytes(flip(content, random.Random(number)))
        try:
            wrong += not pq.read_table(path).equals(table)
        except (pa.ArrowException, OSError):
            continue
    record_property("share of wrong values", wrong / trials)
    assert wrong / trials > 0.5
