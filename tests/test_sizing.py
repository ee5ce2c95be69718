"""The sizing table of `docs/cluster.md` is the computed one, by the floor that was published."""

from pathlib import Path

import pytest

from benchmarks.sizing import MODELS, operations, table

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("tokens", "giga"), [(7, 287.6), (256, 653.8)])
def test_the_formula_gives_the_floors_of_the_benchmarks(tokens, giga):
    large = next(model for model in MODELS if model.name == "GPT-2 Large")
    assert operations(large, tokens, 9) / 1e9 == pytest.approx(giga, abs=0.05)
    assert str(giga) in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_the_document_shows_the_table():
    assert "\n".join(table()) in (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
