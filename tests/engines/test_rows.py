"""The rows of one pass: one a lesion, born where it first differs from a row that is there."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lesion
from lesion.engines.rows import CLEAN, Rows, rows_of
from lesion.interventions.lesion import Lesion

BLOCKS = 5


def made(*layers: int, share: float = 0.3, **words: object) -> Lesion:
    """A lesion of some blocks."""
    return Lesion(lesion.top(share), layers=layers, **words)


def all_of(lesions: Sequence[Lesion]) -> Rows:
    """Their rows, places in their order."""
    return rows_of(lesions, range(len(lesions)))


def births(rows: Rows) -> dict[tuple[int, ...], tuple[int, int]]:
    """Per lesioned layers where the row begins and as a copy of which row."""
    return {row.lesion.layers: (row.born, row.parent) for row in rows.listed}


def test_a_lesion_of_one_block_begins_there_as_a_copy_of_the_clean_row() -> None:
    rows = all_of([made(2), made(0), made(1), made(0, share=0.5)])
    assert [row.place for row in rows.listed] == [1, 3, 2, 0]
    assert [(row.born, row.parent) for row in rows.listed] == [(0, 0), (0, 0), (1, 0), (2, 0)]
    assert len(rows) == 5
    assert [rows.parents(layer) for layer in range(4)] == [[0, 0], [0], [0], []]
    assert [rows.edited(layer, "pre") for layer in range(4)] == [[1, 2], [3], [4], []]
    assert [rows.begun(layer) for layer in range(4)] == [[1, 2], [3], [4], []]
    assert all(rows.edited(layer, site) == [] for layer in range(4) for site in ("post", "out"))
    assert rows.lesion(3) == made(1)
    assert rows.is_fresh(3, 1)
    assert not rows.is_fresh(3, 2)


def test_no_lesion_leaves_the_clean_row() -> None:
    rows = all_of([])
    assert len(rows) == 1
    assert rows.parents(0) == rows.edited(0, "pre") == rows.begun(0) == []


def test_lesions_of_several_blocks_fork_where_one_goes_on() -> None:
    rows = all_of([made(0), made(0, 1), made(0, 1, 2), made(0, 1, 2, 3)])
    # All fork from the longest, each before the first block that it leaves alone.
    assert births(rows) == {(0, 1, 2, 3): (0, 0), (0,): (1, 1), (0, 1): (2, 1), (0, 1, 2): (3, 1)}
    assert [row.place for row in rows.listed] == [3, 0, 1, 2]
    assert [rows.edited(layer, "pre") for layer in range(4)] == [[1], [1], [1], [1]]
    assert [rows.parents(layer) for layer in range(4)] == [[0], [1], [1], [1]]
    assert [rows.begun(layer) for layer in range(4)] == [[1], [], [], []]
    assert rows.is_fresh(1, 0)
    assert not rows.is_fresh(1, 1)
    assert not rows.is_fresh(2, 0)


def test_blocks_between_do_not_count() -> None:
    rows = all_of([made(0, 3), made(0), made(0, 3, 4)])
    assert births(rows) == {(0, 3, 4): (0, 0), (0,): (3, 1), (0, 3): (4, 1)}


@pytest.mark.parametrize(
    "other",
    [
        made(0, 1, share=0.5),
        made(0, 1, replace="zero"),
        made(0, 1, site="post"),
        made(0, 1, rank_on="clean"),
        made(1, 2),
        made(0, 2),
        Lesion(lesion.bottom(0.3), layers=(0, 1)),
    ],
)
def test_only_what_does_the_same_is_a_trunk(other: Lesion) -> None:
    short = made(0) if other.layers != (0, 2) else made(0, 1)
    rows = all_of([short, other])
    assert {row.parent for row in rows.listed} == {CLEAN}
    assert all(row.born == row.lesion.layers[0] for row in rows.listed)


def test_equal_lesions_have_a_row_each() -> None:
    rows = all_of([made(0, 1), made(0, 1), made(0)])
    assert [(row.place, row.born, row.parent) for row in rows.listed] == [
        (0, 0, 0), (1, 0, 0), (2, 1, 1),
    ]  # fmt: skip


def test_places_are_those_that_were_given() -> None:
    rows = rows_of([made(1), made(0)], [17, 4])
    assert [row.place for row in rows.listed] == [4, 17]


SELECTIONS = (lesion.top(0.3), lesion.top(0.5), lesion.random(0.3))
CHOICES = st.lists(
    st.tuples(
        st.integers(0, len(SELECTIONS) - 1),
        st.sampled_from(["pre", "out"]),
        st.sets(st.integers(0, BLOCKS - 1), min_size=1),
        st.sampled_from(["lesioned", "clean"]),
    ),
    max_size=10,
)


def chosen(choices: list[tuple]) -> list[Lesion]:
    """The lesions that were drawn."""
    return [
        Lesion(SELECTIONS[at], site=site, layers=tuple(layers), rank_on=rank_on)
        for at, site, layers, rank_on in choices
    ]


@settings(max_examples=40, deadline=None)
@given(CHOICES)
def test_a_row_has_been_lesioned_in_its_blocks_and_in_no_other(choices: list[tuple]) -> None:
    lesions = chosen(choices)
    rows = all_of(lesions)
    assert sorted(row.place for row in rows.listed) == list(range(len(lesions)))
    born = [row.born for row in rows.listed]
    assert born == sorted(born)
    # What each row went through, copied at its birth.
    past: list[list[tuple[int, Lesion]]] = [[]]
    for layer in range(BLOCKS):
        for parent in rows.parents(layer):
            assert parent < len(past)
            past.append(list(past[parent]))
        for site in ("pre", "post", "out"):
            for number in rows.edited(layer, site):
                assert rows.lesion(number).site == site
                past[number].append((layer, rows.lesion(number)))
                assert rows.is_fresh(number, layer) == (len(past[number]) == 1)
                assert (number in rows.begun(layer)) == (len(past[number]) == 1)
    # A row that would be born behind the last block went all the way as its trunk.
    assert len(past) == len(rows)
    for row, steps in zip(rows.listed, past[1:], strict=True):
        assert [layer for layer, _ in steps] == list(row.lesion.layers)
        for _, step in steps:
            words = ("select", "replace", "site", "rank_on")
            assert all(getattr(step, word) == getattr(row.lesion, word) for word in words)
    assert past[CLEAN] == []


@settings(max_examples=40, deadline=None)
@given(CHOICES)
def test_a_row_is_there_no_earlier_than_it_must(choices: list[tuple]) -> None:
    lesions = chosen(choices)
    for row in all_of(lesions).listed:
        same = [
            other.layers
            for other in lesions
            if (other.select, other.site, other.rank_on, other.replace)
            == (row.lesion.select, row.lesion.site, row.lesion.rank_on, row.lesion.replace)
            and other.layers[: len(row.lesion.layers)] == row.lesion.layers
            and len(other.layers) > len(row.lesion.layers)
        ]
        if same:
            size = len(row.lesion.layers)
            assert row.born in {
                layers[size] for layers in same if len(layers) == max(map(len, same))
            }
        else:
            assert (row.born, row.parent) == (row.lesion.layers[0], CLEAN)
