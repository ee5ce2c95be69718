"""Metrics against scipy and numpy in float64, ties, and logits that are no number."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lesion.metrics import Metrics, measure

law = settings(deadline=None, max_examples=40)

TOLERANCE = 1e-12
NUMBERS = ("logit", "log_prob", "prob", "target_rank", "kl", "entropy", "logit_diff")
VOCABULARY = 11

logits = st.floats(min_value=-30, max_value=30)
cases = st.tuples(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.just(VOCABULARY)), elements=logits),
    hnp.arrays(np.float64, VOCABULARY, elements=logits),
    st.integers(0, VOCABULARY - 1),
    st.integers(0, VOCABULARY - 1),
)
"""Rows of logits, clean logits, target, foil."""


def measured(rows, clean, target=0, foil=None, dtype=torch.float64) -> Metrics:
    return measure(
        torch.tensor(np.atleast_2d(rows), dtype=dtype),
        torch.tensor(clean, dtype=dtype),
        target,
        foil,
    )


def random_logits(rows: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(rows * vocabulary).normal(0, 4, size=(rows, vocabulary))


@law
@given(cases)
def test_every_number_is_that_of_scipy(case):
    rows, clean, target, foil = case
    found = measured(rows, clean, target, foil)
    log_probs = scipy.special.log_softmax(rows, axis=-1)
    probs = scipy.special.softmax(rows, axis=-1)
    clean_probs = scipy.special.softmax(clean)
    expected = {
        "logit": rows[:, target],
        "log_prob": log_probs[:, target],
        "prob": probs[:, target],
        "target_rank": 1.0 + (rows > rows[:, [target]]).sum(axis=-1),
        "kl": scipy.special.rel_entr(clean_probs, probs).sum(axis=-1),
        "entropy": scipy.stats.entropy(probs, axis=-1),
        "logit_diff": rows[:, target] - rows[:, foil],
    }
    for name in NUMBERS:
        np.testing.assert_allclose(
            getattr(found, name), expected[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
        )
    assert found.top_token_id.tolist() == [row.index(max(row)) for row in rows.tolist()]
    assert found.finite.all()


def test_a_large_vocabulary_stays_exact():
    rows = random_logits(3, 50_000)
    found = measured(rows, rows[0], target=17, foil=4)
    log_probs = scipy.special.log_softmax(rows, axis=-1)
    np.testing.assert_allclose(found.log_prob, log_probs[:, 17], rtol=TOLERANCE)
    np.testing.assert_allclose(
        found.entropy, scipy.stats.entropy(np.exp(log_probs), axis=-1), rtol=TOLERANCE
    )
    kl = scipy.special.rel_entr(np.exp(log_probs[0]), np.exp(log_probs)).sum(axis=-1)
    np.testing.assert_allclose(found.kl, kl, rtol=TOLERANCE, atol=TOLERANCE)


def test_float32_logits_are_measured_in_float64():
    rows = random_logits(2, 1000).astype(np.float32)
    found = measured(rows, rows[1], target=3, foil=5, dtype=torch.float32)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(
        found.log_prob, scipy.special.log_softmax(exact, axis=-1)[:, 3], rtol=TOLERANCE
    )
    assert found.logit_diff.tolist() == (exact[:, 3] - exact[:, 5]).tolist()


def test_every_column_has_its_type():
    found = measured(random_logits(2, 5), np.zeros(5))
    for name in NUMBERS:
        assert getattr(found, name).dtype == np.float64, name
    assert found.top_token_id.dtype == np.int64
    assert {field.name for field in dataclasses.fields(found)} == {*NUMBERS, "top_token_id"}


def test_logits_that_carry_a_gradient_are_measured():
    rows = torch.zeros(1, 3, requires_grad=True)
    assert measure(rows, rows[0], 0, None).prob == pytest.approx(1 / 3)


class TestKl:
    @law
    @given(hnp.arrays(np.float64, VOCABULARY, elements=st.floats(-1e3, 1e3)))
    def test_of_the_clean_run_with_itself_is_exactly_zero(self, clean):
        assert measured(clean, clean).kl.tolist() == [0.0]

    def test_it_weighs_by_the_clean_run(self):
        clean, row = np.log([0.9, 0.1]), np.log([0.5, 0.5])
        forwards = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
        backwards = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
        assert measured(row, clean).kl == pytest.approx(forwards, rel=TOLERANCE)
        assert measured(clean, row).kl == pytest.approx(backwards, rel=TOLERANCE)
        assert abs(forwards - backwards) > 0.1

    def test_a_token_the_lesion_made_impossible_is_infinitely_far(self):
        assert measured([0.0, -np.inf], [0.0, 0.0]).kl.tolist() == [np.inf]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_without_a_clean_run_it_is_not_measured(self, bad):
        found = measured([0.0, 1.0, 2.0], [0.0, bad, 2.0])
        assert np.isnan(found.kl).all()
        assert found.finite.all(), "the row itself is measured"
        assert np.isnan(measured([0.0, 1.0], [-np.inf, -np.inf]).kl).all()


class TestTargetRank:
    @pytest.mark.parametrize(
        ("row", "ranks"),
        [
            ([3.0, 2.0, 1.0], [1, 2, 3]),
            ([1.0, 1.0, 1.0], [1, 1, 1]),
            ([2.0, 5.0, 2.0, 7.0, 2.0], [3, 2, 3, 1, 3]),
            ([0.0, -0.0], [1, 1]),
            ([-np.inf, 0.0, -np.inf], [2, 1, 2]),
        ],
    )
    def test_equal_logits_share_the_best_rank(self, row, ranks):
        found = [measured(row, row, target).target_rank[0] for target in range(len(row))]
        assert found == ranks

    def test_the_top_token_is_the_lowest_id_among_equals(self):
        rows = [[0.0, 5.0, 5.0, 1.0], [2.0, 2.0, 2.0, 2.0]]
        assert measured(rows, rows[0]).top_token_id.tolist() == [1, 0]
        many = np.zeros(5000)
        many[4000:] = 1.0
        assert measured(many, many).top_token_id.tolist() == [4000]


class TestFoil:
    def test_the_difference_is_target_minus_foil(self):
        found = measured([[5.0, 2.0, 0.5]], [0.0, 0.0, 0.0], target=1, foil=0)
        assert found.logit_diff.tolist() == [-3.0]

    def test_the_first_token_can_be_the_foil(self):
        assert not np.isnan(measured([1.0, 2.0], [0.0, 0.0], target=1, foil=0).logit_diff).any()

    def test_without_one_it_is_not_measured(self):
        found = measured([[5.0, 2.0]], [0.0, 0.0])
        assert np.isnan(found.logit_diff).all()
        assert found.finite.all()


class TestLogitsThatAreNoNumber:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("place", [0, 1, 3])
    def test_the_row_is_not_finite_and_the_others_are_untouched(self, bad, place):
        good = [1.0, 2.0, 0.0, -1.0]
        broken = list(good)
        broken[place] = bad
        found = measured([good, broken, good], good, target=0, foil=1)
        alone = measured([good], good, target=0, foil=1)
        assert found.finite.tolist() == [True, False, True]
        assert found.top_token_id.tolist() == [1, -1, 1]
        for name in NUMBERS:
            values = getattr(found, name)
            assert np.isnan(values[1]), name
            assert values[0] == values[2] == getattr(alone, name)[0], name

    def test_a_token_of_probability_zero_counts_nothing(self):
        row = np.array([1.0, -np.inf, 0.0, -np.inf])
        clean = np.array([0.0, -np.inf, 1.0, 2.0])
        found = measured(row, row, target=0, foil=2)
        assert found.finite.all()
        kept = np.exp(scipy.special.log_softmax(row[[0, 2]]))
        assert found.entropy == pytest.approx(scipy.stats.entropy(kept), rel=TOLERANCE)
        assert found.log_prob == pytest.approx(np.log(kept[0]), rel=TOLERANCE)
        assert found.kl.tolist() == [0.0]
        # The clean run may rule out what the row allows; the other way round is infinitely far.
        assert measured(row, clean).kl.tolist() == [np.inf]
        assert np.isfinite(measured(clean, row).kl).all()

    def test_a_target_of_probability_zero_has_no_probability(self):
        found = measured([[-np.inf, 1.0, 2.0]], [0.0, 0.0, 0.0], target=0, foil=1)
        assert found.finite.all()
        assert found.logit.tolist() == found.log_prob.tolist() == [-np.inf]
        assert found.logit_diff.tolist() == [-np.inf]
        assert found.prob.tolist() == [0.0]
        assert found.target_rank.tolist() == [3.0]

    def test_a_row_without_any_probability_is_not_finite(self):
        found = measured([[-np.inf, -np.inf], [0.0, 1.0]], [0.0, 0.0], foil=1)
        assert found.finite.tolist() == [False, True]
        assert found.top_token_id.tolist() == [-1, 1]
        assert all(np.isnan(getattr(found, name)[0]) for name in NUMBERS)


class TestRows:
    def test_parts_are_joined_in_their_order(self):
        rows = random_logits(5, 7)
        parts = [measured(part, rows[0], 2, 3) for part in (rows[3:], rows[:3])]
        joined = Metrics.concatenate(parts)
        whole = measured(rows[[3, 4, 0, 1, 2]], rows[0], 2, 3)
        for field in dataclasses.fields(Metrics):
            values = getattr(joined, field.name)
            assert np.array_equal(values, getattr(whole, field.name)), field.name
            assert values.dtype == getattr(whole, field.name).dtype, field.name

    def test_none_has_the_types_and_no_row(self):
        some = measured(random_logits(2, 5), np.zeros(5))
        for field in dataclasses.fields(Metrics):
            values = getattr(some.none, field.name)
            assert values.shape == (0,)
            assert values.dtype == getattr(some, field.name).dtype
        assert some.none.finite.shape == (0,)

    def test_none_adds_nothing(self):
        some = measured(random_logits(2, 5), np.zeros(5), foil=1)
        joined = Metrics.concatenate([some.none, some, some.none])
        for field in dataclasses.fields(Metrics):
            assert np.array_equal(getattr(joined, field.name), getattr(some, field.name))
