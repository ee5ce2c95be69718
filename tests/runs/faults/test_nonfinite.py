"""NaN and infinite logits: the rows stay, with their status, and are counted."""

import numpy as np
import pytest
from fake_study import ROWS, conduct, files_in, study_manifest
from small_run import measuring, prompt, row, table

from lesion.runs.run import open_run
from lesion.runs.shard import Shard
from lesion.runs.store import claim

UNITS = 100


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_rows_are_kept_and_counted(place, number):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, size=UNITS)
    with claim(place / "run") as writer:
        writer.begin(study_manifest(UNITS))
        for unit, count in enumerate(counts):
            rows = [
                row(layer, 0.5, -1.0, prompt_id=unit, logit=number, status="nonfinite")
                if layer < count
                else row(layer, 0.5, -1.0, prompt_id=unit)
                for layer in range(6)
            ]
            asked = prompt(prompt_id=unit, clean_log_prob=None, clean_top=())
            record = writer.commit(Shard(unit, table(*rows), (asked,), measuring()))
            assert record.nonfinite == count
            assert record.rows == 6
    run = open_run(place / "run")
    assert [record.nonfinite for record in run.shards.records] == counts.tolist()
    frame = run.frame()
    found = frame[frame["status"] == "nonfinite"]
    assert len(frame) == 6 * UNITS
    assert found.groupby("prompt_id").size().to_dict() == {
        unit: count for unit, count in enumerate(counts.tolist()) if count
    }
    logits = found["logit"].to_numpy()
    assert np.array_equal(logits, np.full(len(logits), number), equal_nan=True)


def test_a_finite_run_counts_none(place):
    conduct(place / "run", 4, place / "counts")
    assert [record.nonfinite for record in open_run(place / "run").shards.records] == [0] * 4
    assert open_run(place / "run").table.num_rows == 4 * ROWS
    assert "units.log" in files_in(place / "run")
