"""A lesion is a frozen value: every spelling of one choice is one lesion."""

import dataclasses
import itertools
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import outcomes

from lesion.errors import InvalidChoice
from lesion.interventions.lesion import DEFAULT_RANK, Lesion, check_rank_at, check_word
from lesion.interventions.replacement import constant, parse_replacement
from lesion.interventions.selection import band, bottom, neuron_set, random, top

law = settings(deadline=None)

LAYERS = "A lesion names at least one layer, counted from 0"
A_SET = "A set lists at least one neuron as a pair of layer and neuron, counted from 0"
WRITE_AT_OUT = (
    "rank 'write' at site 'out': components of the MLP output have no output weights. "
    "The rank key write (|post| times the norm of the output weights) ranks neurons. "
    "Pass rank='abs', or site='post'."
)
RANKED = [
    pytest.param(lambda rank=None: top(0.01, rank), id="top"),
    pytest.param(lambda rank=None: bottom(0.01, rank), id="bottom"),
    pytest.param(lambda rank=None: band(0.01, 0.02, rank), id="band"),
]


class TestNormalisation:
    @pytest.mark.parametrize("select", RANKED)
    @pytest.mark.parametrize(
        ("site", "rank"), [("pre", "value"), ("post", "value"), ("out", "abs")]
    )
    def test_an_open_rank_is_that_of_the_site(self, select, site, rank):
        open_rank = Lesion(select(), site=site, layers=(0,))
        assert open_rank.select == select(rank)
        assert open_rank == Lesion(select(rank), site=site, layers=(0,))
        assert hash(open_rank) == hash(Lesion(select(rank), site=site, layers=(0,)))
        assert DEFAULT_RANK[site] == rank

    @pytest.mark.parametrize("select", RANKED)
    @pytest.mark.parametrize(
        ("site", "rank"), [("pre", "abs"), ("post", "write"), ("out", "value")]
    )
    def test_a_rank_that_was_given_stays(self, select, site, rank):
        assert Lesion(select(rank), site=site, layers=(0,)).select.rank == rank

    def test_the_published_protocol_is_the_default(self):
        lesion = Lesion(top(0.01), layers=(3,))
        assert lesion == Lesion(
            select=top(Decimal("0.01"), "value"),
            replace="median",
            site="pre",
            layers=(3,),
            position="last",
            rank_on="lesioned",
        )

    @law
    @given(st.lists(st.integers(min_value=0, max_value=50), min_size=1))
    def test_layers_are_sorted_and_each_is_named_once(self, layers):
        lesion = Lesion(top(0.1), layers=tuple(layers))
        assert lesion.layers == tuple(sorted(set(layers)))
        assert lesion == Lesion(top(0.1), layers=tuple(reversed(layers)))

    @pytest.mark.parametrize(
        ("replace", "word"),
        [
            ("median", "median"),
            (parse_replacement("mean"), "mean"),
            ("constant:0.50", "constant:0.5"),
            ("constant:1", "constant:1.0"),
            (constant(0.5), "constant:0.5"),
        ],
    )
    def test_a_replacement_is_kept_as_its_word(self, replace, word):
        lesion = Lesion(top(0.1), replace, layers=(0,))
        assert lesion.replace == word
        assert lesion.replacement == parse_replacement(word)
        assert lesion == Lesion(top(0.1), word, layers=(0,))

    @pytest.mark.parametrize("select", [random(0.1, 3, 2), neuron_set([(0, 4)])])
    def test_what_is_not_ranked_stays_as_it_is(self, select):
        assert Lesion(select, layers=(0,)).select == select
        assert Lesion(select, site="out", layers=(0,)).select == select


class TestValue:
    CHOICES = (
        [top(0.1), bottom(0.1), random(0.1), band(0.1, 0.2), neuron_set([(0, 1)])],
        ["median", "zero"],
        ["pre", "post", "out"],
        [(0,), (0, 1)],
        ["last"],
        ["lesioned", "clean"],
    )

    def test_every_choice_counts(self):
        lesions = [Lesion(*choices) for choices in itertools.product(*self.CHOICES)]
        assert len(set(lesions)) == len(lesions) == 5 * 2 * 3 * 2 * 2

    def test_equal_lesions_are_one_key(self):
        spellings = {
            Lesion(top(0.01), layers=(1, 2)),
            Lesion(top("0.010", "value"), parse_replacement("median"), layers=(2, 1, 2)),
        }
        assert len(spellings) == 1

    def test_it_cannot_be_changed(self):
        lesion = Lesion(top(0.1), layers=(0,))
        with pytest.raises(dataclasses.FrozenInstanceError):
            lesion.site = "post"

    def test_a_field_can_be_replaced(self):
        lesion = Lesion(top(0.1), layers=(0,))
        assert dataclasses.replace(lesion, layers=(5,)) == Lesion(top(0.1), layers=(5,))


class TestRefusals:
    @pytest.mark.parametrize("select", RANKED)
    def test_write_at_out(self, select):
        assert Lesion(select("write"), site="post", layers=(0,)).select.rank == "write"
        with pytest.raises(InvalidChoice) as caught:
            Lesion(select("write"), site="out", layers=(0,))
        assert str(caught.value) == WRITE_AT_OUT

    def test_write_at_out_before_there_is_a_lesion(self):
        for rank, site in itertools.product([None, "value", "abs"], ["pre", "post", "out"]):
            check_rank_at(rank, site)
        check_rank_at("write", "pre")
        check_rank_at("write", "post")
        with pytest.raises(InvalidChoice) as caught:
            check_rank_at("write", "out")
        assert str(caught.value) == WRITE_AT_OUT

    def test_no_layer(self):
        for build in (lambda: Lesion(top(0.1)), lambda: Lesion(top(0.1), layers=())):
            with pytest.raises(InvalidChoice) as caught:
                build()
            expected = f"layers: there is none. {LAYERS}. Pass for example layers=(3,)."
            assert str(caught.value) == expected

    @pytest.mark.parametrize(("layers", "named"), [((-1,), -1), ((3, -2, -7), -7)])
    def test_a_layer_below_zero(self, layers, named):
        with pytest.raises(InvalidChoice) as caught:
            Lesion(top(0.1), layers=layers)
        expected = f"layers: {named} is negative. {LAYERS}. Count from the first block."
        assert str(caught.value) == expected

    def test_an_unknown_replacement(self):
        with pytest.raises(InvalidChoice) as caught:
            Lesion(top(0.1), "medain", layers=(0,))
        assert str(caught.value) == (
            "replace 'medain': there is no such word. A replacement is one of median, median_mid, "
            "mean, zero, min, constant:NUMBER. Pass one of them."
        )

    def test_a_word_that_is_not_known(self):
        check_word("site", "pre", ("pre", "post", "out"))
        with pytest.raises(InvalidChoice) as caught:
            check_word("site", "mid", iter(("pre", "post", "out")))
        assert str(caught.value) == (
            "site 'mid': there is no such word. site is one of pre, post, out. Pass one of them."
        )

    def test_a_word_where_only_one_is_known(self):
        with pytest.raises(InvalidChoice) as caught:
            check_word("position", "every", ("last",))
        assert str(caught.value) == (
            "position 'every': there is no such word. position is last. Pass one of them."
        )

    def test_unchecked_callers(self):
        refused = "InvalidChoice: {}: there is no such word. {}. Pass one of them."
        expected = {
            "Lesion(top(.1), site='mid', layers=(0,))": refused.format(
                "site 'mid'", "site is one of pre, post, out"
            ),
            "Lesion(top(.1), rank_on='both', layers=(0,))": refused.format(
                "rank_on 'both'", "rank_on is one of lesioned, clean"
            ),
            "Lesion(top(.1), position='first', layers=(0,))": refused.format(
                "position 'first'", "position is one of last, every, mask, or the index of a token"
            ),
            "Lesion(top(.1), position=True, layers=(0,))": refused.format(
                "position 'True'", "position is one of last, every, mask, or the index of a token"
            ),
            "Lesion(top(.1), position=-2, layers=(0,)).position": "-2",
            "Lesion(top(.1), layers=np.arange(2)).layers": "(0, 1)",
            "Lesion(top(.1), layers=range(2)).layers": "(0, 1)",
        }
        assert outcomes(UNCHECKED, tuple(expected)) == expected

    def test_unchecked_callers_with_a_wrong_type(self):
        whole = f"is no list of whole numbers. {LAYERS}. Pass for example layers=(3,)."
        pairs = (
            f"is no list of pairs of whole numbers. {A_SET}. Pass for example [(3, 17), (3, 40)]."
        )
        expected = {
            "Lesion('top', layers=(0,))": (
                "InvalidChoice: select 'top': it is no selection. A lesion takes one selection, "
                "with its share or its neurons. Pass for example select=lesion.top(0.01)."
            ),
            "Lesion(top(.1), layers=0)": f"InvalidChoice: layers: 0 {whole}",
            "Lesion(top(.1), layers='12')": f"InvalidChoice: layers: '12' {whole}",
            "Lesion(top(.1), layers=(2.9,))": f"InvalidChoice: layers: (2.9,) {whole}",
            "neuron_set([(2.9, 1)])": f"InvalidChoice: a set of neurons: ((2.9, 1),) {pairs}",
            "neuron_set([3])": f"InvalidChoice: a set of neurons: (3,) {pairs}",
            "neuron_set([(1, 2, 3)])": f"InvalidChoice: a set of neurons: ((1, 2, 3),) {pairs}",
        }
        assert outcomes(UNCHECKED, tuple(expected)) == expected


UNCHECKED = """
import numpy as np
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import neuron_set, top
"""
