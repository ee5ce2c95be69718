"""Selections: positions of a ranking, nested in the fraction; drawn orders; listed sets."""

import dataclasses
import itertools
from decimal import Decimal

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import outcomes

from lesion.errors import InvalidChoice
from lesion.interventions.selection import (
    RANK_KEYS,
    DrawnRanking,
    KeyRanking,
    NeuronSet,
    Random,
    Selection,
    Top,
    band,
    bottom,
    check_rank,
    neuron_set,
    random,
    top,
)

law = settings(deadline=None)

SHARE = "A fraction is a share of the neurons and lies in [0, 1]"
DECIMAL = "Pass a decimal such as 0.05"
A_SET = "A set lists at least one neuron as a pair of layer and neuron, counted from 0"
NO_SUCH_KEY = (
    "rank 'size': there is no such key. A rank key is one of value, abs, write. Pass one of them."
)
A_BAND = "A band runs from a lower to a higher fraction"

shares = st.integers(min_value=0, max_value=1000).map(lambda digits: Decimal(digits) / 1000)
sizes = st.integers(min_value=0, max_value=6400)
seeds = st.integers(min_value=0, max_value=2**40)
small = st.integers(min_value=0, max_value=40)
prompt_keys = st.text(alphabet="0123456789abcdef|", max_size=8)
drawn_parts = st.tuples(seeds, small, small, prompt_keys)
"""Seed, layer, draw, prompt key."""

SHARED = [
    pytest.param(top, id="top"),
    pytest.param(bottom, id="bottom"),
    pytest.param(lambda share: top(share, "abs"), id="top by abs"),
    pytest.param(lambda share: bottom(share, "write"), id="bottom by write"),
    pytest.param(lambda share: random(share, 3, 1), id="random"),
]


def drawn(parts: tuple[int, int, int, str], size: int) -> list[int]:
    seed, layer, draw, prompt_key = parts
    return DrawnRanking(seed, draw).neurons(layer, prompt_key, size).tolist()


class TestPositions:
    @pytest.mark.parametrize("select", SHARED)
    @law
    @given(share=shares, size=sizes)
    def test_the_first_floor_of_the_share(self, select, share, size):
        assert select(share).positions(size) == range(int(share * 1000) * size // 1000)

    @pytest.mark.parametrize("select", SHARED)
    @law
    @given(one=shares, other=shares, size=sizes)
    def test_fractions_of_one_ranking_are_nested(self, select, one, other, size):
        smaller, larger = select(min(one, other)), select(max(one, other))
        assert smaller.ranking == larger.ranking
        inner, outer = smaller.positions(size), larger.positions(size)
        assert inner == outer[: len(inner)]

    @law
    @given(one=shares, other=shares, parts=drawn_parts, size=st.integers(0, 200))
    def test_random_sets_are_nested_as_sets(self, one, other, parts, size):
        seed, layer, draw, prompt_key = parts
        inner, outer = (
            set(selection.ranking.neurons(layer, prompt_key, size)[selection.positions(size)])
            for selection in (
                random(min(one, other), seed, draw),
                random(max(one, other), seed, draw),
            )
        )
        assert inner <= outer

    def test_the_written_decimal_counts(self):
        assert top(0.29).positions(6400) == range(1856)
        assert bottom(0.29).positions(6400) == range(1856)
        assert random(0.29).positions(6400) == range(1856)
        assert band(0.29, 0.58).positions(6400) == range(1856, 3712)

    def test_a_set_has_none(self):
        assert neuron_set([(0, 1)]).positions(8) == range(0)


class TestBandLaws:
    @law
    @given(ends=st.lists(shares, min_size=2, max_size=2, unique=True).map(sorted), size=sizes)
    def test_a_band_is_the_larger_top_without_the_smaller(self, ends, size):
        low, high = ends
        between = band(low, high)
        assert between.ranking == top(low).ranking
        inner, outer = set(top(low).positions(size)), set(top(high).positions(size))
        assert set(between.positions(size)) == outer - inner

    @law
    @given(cuts=st.sets(shares, max_size=6), size=sizes)
    def test_bands_that_tile_the_unit_interval_part_the_neurons(self, cuts, size):
        ends = sorted(cuts | {Decimal(0), Decimal(1)})
        bands = [band(low, high) for low, high in itertools.pairwise(ends)]
        positions = [position for one in bands for position in one.positions(size)]
        assert positions == list(range(size))

    @law
    @given(share=shares.filter(bool), size=sizes)
    def test_a_band_from_zero_is_the_top(self, share, size):
        assert band(0, share).positions(size) == top(share).positions(size)

    @pytest.mark.parametrize(
        ("low", "high", "shown"),
        [
            (0.2, 0.1, "0.2, 0.1"),
            (0.1, 0.1, "0.1, 0.1"),
            (0.1, "0.10", "0.1, 0.1"),
            (1, 0, "1, 0"),
        ],
    )
    def test_a_band_that_holds_nothing_is_refused(self, low, high, shown):
        with pytest.raises(InvalidChoice) as caught:
            band(low, high)
        assert str(caught.value) == (
            f"band({shown}): it holds nothing. {A_BAND}. Pass for example band:0.01-0.02."
        )


class TestDrawnRanking:
    def test_the_derivation_is_pinned(self):
        """A change here changes every random control that was ever stored."""
        ranking = DrawnRanking(seed=7, draw=2)
        assert ranking.neurons(3, "prompt", 10).tolist() == [5, 7, 2, 6, 0, 4, 8, 1, 3, 9]

    @law
    @given(drawn_parts, st.integers(min_value=0, max_value=300))
    def test_it_is_a_permutation(self, parts, size):
        assert sorted(drawn(parts, size)) == list(range(size))

    @law
    @given(drawn_parts, drawn_parts)
    def test_it_differs_when_any_part_differs(self, one, other):
        # Two of the 64! orders agree by chance about once in 10**89.
        assert (drawn(one, 64) == drawn(other, 64)) == (one == other)

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param((2, 3, 5, "a"), id="seed"),
            pytest.param((1, 4, 5, "a"), id="layer"),
            pytest.param((1, 3, 6, "a"), id="draw"),
            pytest.param((1, 3, 5, "b"), id="prompt key"),
            pytest.param((1, 5, 3, "a"), id="layer and draw exchanged"),
        ],
    )
    def test_each_part_counts(self, other):
        assert drawn((1, 3, 5, "a"), 64) != drawn(other, 64)

    def test_digits_do_not_run_together(self):
        assert drawn((1, 23, 5, "a"), 64) != drawn((12, 3, 5, "a"), 64)
        assert drawn((1, 3, 25, "a"), 64) != drawn((1, 32, 5, "a"), 64)

    def test_what_was_drawn_before_does_not_matter(self):
        parts = [(seed, layer, 0, key) for seed in (0, 1) for layer in (0, 5) for key in ("a", "b")]
        forwards = {part: drawn(part, 50) for part in parts}
        np.random.default_rng(0).permutation(50)
        backwards = {part: drawn(part, 50) for part in reversed(parts)}
        assert forwards == backwards

    def test_every_neuron_is_drawn_equally_often(self):
        size, chosen, draws = 20, 5, 1500
        counts = np.zeros(size, dtype=int)
        for draw in range(draws):
            counts[drawn((0, 0, draw, "a"), size)[:chosen]] += 1
        assert counts.sum() == chosen * draws
        # The counts of a draw without return vary by (1 - chosen / size) less than a multinomial's.
        excess = ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (1 - chosen / size)
        assert 0.001 < scipy.stats.chi2.sf(excess, size - 1) < 0.999

    def test_a_selection_draws_by_its_seed_and_draw(self):
        assert random(0.1, seed=4, draw=9).ranking == DrawnRanking(4, 9)
        assert random(0.1).ranking == DrawnRanking(0, 0)


class TestKeyRanking:
    def test_top_and_band_fall_and_bottom_climbs(self):
        assert top(0.1, "abs").ranking == KeyRanking("abs", "descending")
        assert band(0.1, 0.2, "abs").ranking == KeyRanking("abs", "descending")
        assert bottom(0.1, "abs").ranking == KeyRanking("abs", "ascending")

    @pytest.mark.parametrize("select", [top(0.1), bottom(0.1), band(0.1, 0.2)])
    def test_an_open_key_ranks_by_value_and_can_be_filled_in_once(self, select):
        assert select.rank is None
        assert select.ranking.key == "value"
        filled = select.ranked_by("abs")
        assert filled == dataclasses.replace(select, rank="abs")
        assert filled.ranking.key == "abs"
        assert filled.ranked_by("write") == filled
        assert select.rank is None, "the selection itself stays as it was"

    @pytest.mark.parametrize("select", [random(0.1), neuron_set([(0, 1)])])
    def test_what_is_not_ranked_stays_as_it_is(self, select):
        assert select.ranked_by("abs") == select

    @pytest.mark.parametrize("rank", [None, *RANK_KEYS])
    def test_the_known_keys_pass(self, rank):
        check_rank(rank)
        assert top(0.1, rank).rank == rank

    def test_an_unknown_key_is_refused(self):
        with pytest.raises(InvalidChoice) as caught:
            check_rank("size")
        assert str(caught.value) == NO_SUCH_KEY


class TestNeuronSet:
    def test_pairs_are_sorted_and_each_is_kept_once(self):
        chosen = neuron_set([(3, 40), (0, 9), (3, 17), (3, 40)])
        assert chosen.neurons == ((0, 9), (3, 17), (3, 40))
        assert chosen.layers == (0, 3)
        assert chosen.neurons_in(3) == (17, 40)
        assert chosen.neurons_in(0) == (9,)
        assert chosen.neurons_in(1) == ()
        assert chosen.ranking is None

    @law
    @given(st.lists(st.tuples(small, small), min_size=1), st.randoms(use_true_random=False))
    def test_order_and_repetition_do_not_matter(self, pairs, shuffler):
        other = [*pairs, *pairs]
        shuffler.shuffle(other)
        one, two = neuron_set(pairs), neuron_set(iter(other))
        assert one == two
        assert hash(one) == hash(two)
        listed = [(layer, neuron) for layer in one.layers for neuron in one.neurons_in(layer)]
        assert listed == sorted(set(pairs))

    def test_an_empty_set_is_refused(self):
        with pytest.raises(InvalidChoice) as caught:
            neuron_set([])
        assert str(caught.value) == (
            f"a set of neurons: it is empty. {A_SET}. Pass for example [(3, 17), (3, 40)]."
        )

    @pytest.mark.parametrize(
        ("pairs", "named"),
        [([(3, 17), (2, -1)], "(2, -1)"), ([(-1, 0)], "(-1, 0)"), ([(0, -1), (1, -9)], "(1, -9)")],
    )
    def test_a_number_below_zero_is_refused_by_name(self, pairs, named):
        with pytest.raises(InvalidChoice) as caught:
            neuron_set(pairs)
        assert str(caught.value) == (
            f"a set of neurons: it holds {named}. {A_SET}. Pass for example [(3, 17), (3, 40)]."
        )


class TestChoices:
    DISTINCT = (
        top(0.1),
        top(0.2),
        top(0.1, "abs"),
        bottom(0.1),
        random(0.1),
        random(0.1, seed=1),
        random(0.1, draw=1),
        band(0.1, 0.2),
        band(0.1, 0.3),
        band(0.05, 0.2),
        band(0.1, 0.2, "abs"),
        neuron_set([(0, 1)]),
        neuron_set([(1, 0)]),
    )

    def test_unequal_choices_are_unequal(self):
        assert len(set(self.DISTINCT)) == len(self.DISTINCT)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (top(0.1), top("0.10")),
            (bottom(1), bottom(1.0)),
            (random(0.5, 3, 2), random(Decimal("0.5"), seed=3, draw=2)),
            (band(0.1, 0.2), band("0.10", "0.20")),
            (top(0.1), Top(Decimal("0.1"))),
            (random(0.1), Random(Decimal("0.1"), 0, 0)),
            (neuron_set([(0, 1)]), NeuronSet(((0, 1), (0, 1)))),
        ],
    )
    def test_a_choice_is_its_values(self, one, other):
        assert one == other
        assert hash(one) == hash(other)

    @pytest.mark.parametrize(
        ("select", "word"),
        [
            (top(0.1, "abs"), "top"),
            (bottom(0.1), "bottom"),
            (random(0.1, 3, 2), "random"),
            (band("0.01", "0.02", "abs"), "band:0.01-0.02"),
            (band(0, 1), "band:0-1"),
            (neuron_set([(0, 1)]), "set"),
        ],
    )
    def test_its_word_is_that_of_the_table(self, select, word):
        assert select.word == word

    def test_equal_bands_have_one_word(self):
        assert band("0.10", 0.2) == band(0.1, 0.2)
        assert band("0.10", 0.2).word == band(0.1, 0.2).word

    @pytest.mark.parametrize("select", DISTINCT)
    def test_it_cannot_be_changed(self, select):
        field = dataclasses.fields(select)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(select, field, Decimal(0))

    def test_a_selection_of_no_kind_cannot_be_built(self):
        with pytest.raises(TypeError, match="abstract"):
            Selection()

    @pytest.mark.parametrize(
        "build",
        [top, bottom, random, lambda share: band(share, 1), lambda share: band(0, share)],
    )
    @pytest.mark.parametrize(
        ("share", "found", "remedy"),
        [
            (5, "it is greater than 1", "For 5 per cent, pass 0.05"),
            (-0.1, "it is negative", DECIMAL),
            (float("nan"), "it is not a finite number", DECIMAL),
        ],
    )
    def test_what_is_no_share_is_refused(self, build, share, found, remedy):
        with pytest.raises(InvalidChoice) as caught:
            build(share)
        assert str(caught.value) == f"fraction {share}: {found}. {SHARE}. {remedy}."


def test_unchecked_callers_are_refused_and_their_numbers_become_plain():
    refused = f"InvalidChoice: {NO_SUCH_KEY}"
    expected = {
        "top(.1, 'size')": refused,
        "bottom(.1, 'size')": refused,
        "band(.1, .2, 'size')": refused,
        "neuron_set(np.array([[3, 17], [0, 9]]))": "NeuronSet(neurons=((0, 9), (3, 17)))",
        "top(np.float32(.1)) == top('0.1')": "True",
    }
    imports = "import numpy as np; from lesion.interventions.selection import *"
    assert outcomes(imports, tuple(expected)) == expected
