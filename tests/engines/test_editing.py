"""Ranking, choosing and overwriting, against plain Python and numpy in float64.

The oracle sorts Python numbers with Python's stable sort, and never sees a tensor.
"""

import statistics
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lesion.engines.editing import (
    chosen_units,
    drawn_units,
    ordered,
    overwritten,
    rank_keys,
    replacement_values,
)
from lesion.interventions.replacement import Replacement, constant, parse_replacement
from lesion.interventions.selection import band, bottom, neuron_set, random, top

law = settings(deadline=None, max_examples=40)

ORDERS = ("descending", "ascending")
OWN_REPLACEMENTS = ("median", "median_mid", "mean", "min", "zero", "constant:-2.5")


def matrices(elements: st.SearchStrategy[float], smallest: int = 1, largest: int = 90):
    """Float64 matrices of a few rows."""
    shapes = st.tuples(st.integers(1, 3), st.integers(smallest, largest))
    return hnp.arrays(np.float64, shapes, elements=elements)


levels = st.sampled_from([-1.5, -0.0, 0.0, 2.0])
numbers = st.floats(min_value=-1e6, max_value=1e6)


def expected_order(keys: list[float], order: str) -> list[int]:
    """Indices by key, equal keys by index, in either direction."""
    sign = -1 if order == "descending" else 1
    return sorted(range(len(keys)), key=lambda unit: (sign * keys[unit], unit))


def expected_replacement(word: str, row: np.ndarray) -> float:
    values = row.tolist()
    return {
        "median": lambda: statistics.median_low(values),
        "median_mid": lambda: statistics.median(values),
        "mean": lambda: float(np.mean(row)),
        "min": lambda: min(values),
        "zero": lambda: 0.0,
    }.get(word, lambda: float(word.partition(":")[2]))()


def chosen(selection, rows: np.ndarray, layer: int = 0) -> np.ndarray:
    """What the functions under test choose when they rank the rows themselves."""
    vectors = torch.from_numpy(rows)
    order = ordered(vectors, selection.ranking.order)
    return chosen_units(selection, order, vectors, layer).numpy()


class TestOrdered:
    @pytest.mark.parametrize("order", ORDERS)
    @law
    @given(rows=matrices(levels, smallest=17))
    def test_many_equal_keys_stand_by_index(self, order, rows):
        found = ordered(torch.from_numpy(rows), order)
        assert found.tolist() == [expected_order(row, order) for row in rows.tolist()]

    @pytest.mark.parametrize("order", ORDERS)
    @law
    @given(rows=matrices(numbers))
    def test_any_keys_are_sorted(self, order, rows):
        found = ordered(torch.from_numpy(rows), order)
        assert found.tolist() == [expected_order(row, order) for row in rows.tolist()]

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_a_thousand_keys_of_three_levels(self, order, dtype):
        """torch's unstable sort is stable up to 16 values by accident; here it is not."""
        keys = np.random.default_rng(5).choice([-1.0, 0.5, 2.0], size=1000)
        found = ordered(torch.from_numpy(keys)[None].to(dtype), order)[0].tolist()
        assert found == expected_order(keys.tolist(), order)
        highest, lowest = np.flatnonzero(keys == 2.0), np.flatnonzero(keys == -1.0)
        first, last = (highest, lowest) if order == "descending" else (lowest, highest)
        assert found[: len(first)] == first.tolist()
        assert found[-len(last) :] == last.tolist()

    @pytest.mark.parametrize("order", ORDERS)
    def test_equal_keys_throughout_keep_their_index(self, order):
        found = ordered(torch.zeros(2, 500), order)
        assert found.tolist() == [list(range(500))] * 2


class TestRankKeys:
    vectors = torch.tensor([[1.0, -3.0, 2.0]])
    post = torch.tensor([[-0.5, 2.0, 0.0]])
    norms = torch.tensor([4.0, 1.0, 9.0])

    @pytest.mark.parametrize(
        ("key", "expected"),
        [("value", [[1, -3, 2]]), ("abs", [[1, 3, 2]]), ("write", [[2, 2, 0]])],
    )
    def test_each_key(self, key, expected):
        assert rank_keys(key, self.vectors, self.post, self.norms).tolist() == expected

    @pytest.mark.parametrize("key", ["value", "abs"])
    def test_post_and_norms_serve_write_only(self, key):
        with_both = rank_keys(key, self.vectors, self.post, self.norms)
        assert torch.equal(rank_keys(key, self.vectors, None, None), with_both)


class TestChosenUnits:
    @pytest.mark.parametrize(
        ("build", "order"), [(top, "descending"), (bottom, "ascending")], ids=["top", "bottom"]
    )
    @law
    @given(rows=matrices(levels, smallest=17), percent=st.integers(0, 100))
    def test_the_first_of_the_order_in_every_row(self, build, order, rows, percent):
        selection = build(Decimal(percent) / 100)
        size = rows.shape[1]
        expected = np.zeros(rows.shape, dtype=bool)
        for row, keys in enumerate(rows.tolist()):
            expected[row, expected_order(keys, order)[: percent * size // 100]] = True
        assert np.array_equal(chosen(selection, rows), expected)

    @law
    @given(
        rows=matrices(levels, smallest=17),
        ends=st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True).map(sorted),
    )
    def test_a_band_is_the_larger_top_without_the_smaller(self, rows, ends):
        low, high = (Decimal(end) / 100 for end in ends)
        expected = chosen(top(high), rows) & ~chosen(top(low), rows)
        assert np.array_equal(chosen(band(low, high), rows), expected)

    def test_ties_go_to_the_lower_index_from_either_end(self):
        rows = np.tile([1.0, 2.0], (1, 20))  # even units are low, odd ones high
        assert np.flatnonzero(chosen(top(0.1), rows)[0]).tolist() == [1, 3, 5, 7]
        assert np.flatnonzero(chosen(bottom(0.1), rows)[0]).tolist() == [0, 2, 4, 6]
        assert np.flatnonzero(chosen(top(0.6), rows)[0]).tolist() == sorted(
            [*range(1, 40, 2), 0, 2, 4, 6]
        )

    def test_a_set_is_the_neurons_of_its_layer(self):
        selection = neuron_set([(0, 2), (3, 0), (3, 4)])
        vectors = torch.zeros(2, 5)
        listed = chosen_units(selection, None, vectors, 3)
        assert listed.tolist() == [[True, False, False, False, True]] * 2
        assert not chosen_units(selection, None, vectors, 1).any()

    @law
    @given(
        seed=st.integers(0, 99),
        layer=st.integers(0, 9),
        size=st.integers(1, 60),
        percent=st.integers(0, 100),
    )
    def test_a_random_set_is_the_first_of_the_drawn_order(self, seed, layer, size, percent):
        selection = random(Decimal(percent) / 100, seed, draw=1)
        vectors = torch.zeros(3, size)
        order = drawn_units(selection.ranking, vectors, layer, "key")
        expected = np.zeros(size, dtype=bool)
        neurons = selection.ranking.neurons(layer, "key", size)
        expected[neurons[: percent * size // 100]] = True
        found = chosen_units(selection, order, vectors, layer)
        assert found.tolist() == [expected.tolist()] * 3

    def test_a_drawn_order_does_not_look_at_the_values(self):
        ranking = random(0.5, seed=3).ranking
        values = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 50)))
        order = drawn_units(ranking, values, 1, "key")
        assert order.dtype == torch.int64
        assert torch.equal(order, drawn_units(ranking, -values, 1, "key"))
        assert torch.equal(order[0], order[1])
        assert not torch.equal(order, drawn_units(ranking, values, 1, "other key"))


class TestReplacementValues:
    @pytest.mark.parametrize("word", OWN_REPLACEMENTS)
    @pytest.mark.parametrize("elements", [levels, numbers], ids=["levels", "numbers"])
    @law
    @given(data=st.data())
    def test_each_is_taken_from_the_row_itself(self, word, elements, data):
        rows = data.draw(matrices(elements))
        found = replacement_values(parse_replacement(word), torch.from_numpy(rows))
        expected = np.array([[expected_replacement(word, row)] for row in rows])
        assert found.shape == (len(rows), 1)
        # A mean may be summed in another order; the others are values of the row or of the word.
        tolerance = 1e-12 * np.abs(rows).max() if word in ("mean", "median_mid") else 0
        assert np.abs(found.numpy() - expected).max() <= tolerance

    @pytest.mark.parametrize(
        ("row", "lower", "middle"),
        [
            ([4.0, 1.0, 3.0, 2.0], 2.0, 2.5),
            ([9.0, 1.0, 5.0], 5.0, 5.0),
            ([2.0, 1.0], 1.0, 1.5),
            ([7.0], 7.0, 7.0),
            ([1.0, 1.0, 1.0, 8.0], 1.0, 1.0),
        ],
    )
    def test_the_median_is_the_lower_middle_and_median_mid_the_mean_of_both(
        self, row, lower, middle
    ):
        vectors = torch.tensor([row])
        assert replacement_values(Replacement("median"), vectors).tolist() == [[lower]]
        assert replacement_values(Replacement("median_mid"), vectors).tolist() == [[middle]]
        assert middle == np.median(row)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("word", OWN_REPLACEMENTS)
    def test_the_type_of_the_vectors_stays(self, word, dtype):
        vectors = torch.tensor([[1.0, 2.0, 4.0, 5.0]], dtype=dtype)
        found = replacement_values(parse_replacement(word), vectors)
        assert found.dtype == dtype
        expected = expected_replacement(word, np.array([1.0, 2.0, 4.0, 5.0]))
        assert found.item() == expected


class TestOverwritten:
    @pytest.mark.parametrize("word", OWN_REPLACEMENTS)
    @law
    @given(rows=matrices(numbers), data=st.data())
    def test_the_chosen_take_the_replacement_and_the_others_stay(self, word, rows, data):
        marks = data.draw(hnp.arrays(np.bool_, rows.shape))
        vectors, before = torch.from_numpy(rows), rows.copy()
        replacement = parse_replacement(word)
        after = overwritten(vectors, torch.from_numpy(marks), replacement).numpy()
        values = replacement_values(replacement, torch.from_numpy(before)).numpy()
        assert np.array_equal(after, np.where(marks, values, before))
        assert np.array_equal(rows, before), "the originals were written to"
        assert not np.shares_memory(after, rows)

    def test_the_replacement_is_computed_before_anything_is_overwritten(self):
        vectors = torch.tensor([[10.0, 1.0, 2.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0, 5.0]])
        marks = torch.tensor([[True, False, False, False, True]] * 2)
        after = overwritten(vectors, marks, Replacement("median"))
        assert after.tolist() == [[3, 1, 2, 3, 3], [0, 0, 0, 0, 0]]
        after = overwritten(vectors, marks, Replacement("mean"))
        assert after.tolist() == [[5, 1, 2, 3, 5], [1, 0, 0, 0, 1]]

    def test_nothing_chosen_changes_nothing(self):
        vectors = torch.tensor([[1.0, 2.0]])
        marks = torch.zeros(1, 2, dtype=torch.bool)
        assert torch.equal(overwritten(vectors, marks, constant(7)), vectors)
