"""A run of very many finished units goes on at once: sizes are looked at, contents are not."""

import pytest


@pytest.mark.parametrize(
    "units", [500, pytest.param(10_000, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_the_next_unit_is_reached_in_three_seconds(children, place, units):
    ended = children.run("resume many", path=str(place), units=units)
    assert ended.answer["unit"] == units
    assert ended.answer["seconds"] < 3 * units / 10_000 + 0.5, ended.answer
