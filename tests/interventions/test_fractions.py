"""Fractions are the decimals that were written, and floor exactly.

The oracle is integer arithmetic on the written digits: a fraction of d digits after the point is
`digits / 10**d`, so it takes `digits * size // 10**d` neurons.
"""

import contextlib
import decimal
import time
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.errors import InvalidChoice
from lesion.interventions.fractions import (
    MOST_FRACTIONS,
    MOST_PLACES,
    PRESETS,
    count,
    parse_fraction,
    parse_fractions,
)

law = settings(deadline=None)


SHARE = "A fraction is a share of the neurons and lies in [0, 1]"
DECIMAL = "Pass a decimal such as 0.05"
WORDS = f"{DECIMAL}, a preset (coarse, fine, book) or start:stop:step"
CLIMBS = "start:stop:step climbs from start to stop by a step above 0"

written = st.integers(min_value=1, max_value=24).flatmap(
    lambda places: st.tuples(st.integers(min_value=0, max_value=10**places), st.just(places))
)
"""A fraction as its digits and its number of decimal places."""

sizes = st.integers(min_value=0, max_value=200_000)


def spelled(digits: int, places: int) -> str:
    return f"{digits // 10**places}.{digits % 10**places:0{places}d}"


def decimals(words: str) -> tuple[Decimal, ...]:
    return tuple(Decimal(word) for word in words.split())


class TestCount:
    def test_the_written_decimal_is_floored_not_its_binary_neighbour(self):
        assert int(0.29 * 6400) == 1855, "the trap this is about"
        assert count(parse_fraction(0.29), 6400) == 1856
        assert count(parse_fraction("0.29"), 6400) == 1856

    @law
    @given(written, sizes)
    def test_it_is_integer_arithmetic_on_the_written_digits(self, fraction, size):
        digits, places = fraction
        asked = parse_fraction(spelled(digits, places))
        assert count(asked, size) == digits * size // 10**places

    @law
    @given(st.integers(min_value=0, max_value=100), st.integers(min_value=1, max_value=2000))
    def test_whole_numbers_of_neurons_are_not_missed_by_one(self, percent, hundreds):
        """Here binary floating point falls short most often, as in 0.29 · 6400."""
        assert count(parse_fraction(percent / 100), 100 * hundreds) == percent * hundreds

    @law
    @given(st.integers(min_value=0, max_value=1000), sizes)
    def test_a_float_counts_as_the_decimal_it_prints(self, thousandths, size):
        assert count(parse_fraction(thousandths / 1000), size) == thousandths * size // 1000

    @law
    @given(written, written, sizes)
    def test_a_larger_fraction_never_takes_fewer(self, one, other, size):
        small, large = sorted(Decimal(spelled(*fraction)) for fraction in (one, other))
        assert count(small, size) <= count(large, size)

    @pytest.mark.parametrize("size", [0, 1, 7, 5120])
    def test_zero_takes_none_and_one_takes_all(self, size):
        assert count(parse_fraction(0), size) == 0
        assert count(parse_fraction(1), size) == size

    def test_more_digits_than_the_decimal_context_holds_stay_exact(self):
        nines = "0." + "9" * 40
        assert count(parse_fraction(nines), 5120) == 5119

    def test_a_hundred_places_are_taken_and_one_more_is_refused(self):
        most = "0." + "9" * MOST_PLACES
        assert count(parse_fraction(most), 10**MOST_PLACES) == 10**MOST_PLACES - 1
        with pytest.raises(InvalidChoice) as caught:
            parse_fraction(most + "9")
        assert str(caught.value) == (
            f"fraction 0.{'9' * 49}: it has more than 100 decimal places. {SHARE}. {DECIMAL}."
        )

    def test_the_callers_decimal_context_changes_nothing(self):
        with decimal.localcontext(prec=2):
            assert parse_fraction("0.12345") == Decimal("0.12345")
            assert parse_fractions("0.111:0.333:0.111") == decimals("0.111 0.222 0.333")


class TestOneFraction:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0"),
            (1, "1"),
            (1.0, "1"),
            (0.1, "0.1"),
            ("0.10", "0.1"),
            ("0.500", "0.5"),
            (" 0.5\n", "0.5"),
            (".5", "0.5"),
            ("5e-2", "0.05"),
            ("-0", "0"),
            (Decimal("0.3"), "0.3"),
            (np.float64(0.29), "0.29"),
            (np.float32(0.1), "0.1"),
            (np.int64(1), "1"),
        ],
    )
    def test_it_is_the_decimal_that_str_writes_without_idle_zeros(self, value, text):
        found = parse_fraction(value)
        assert isinstance(found, Decimal)
        assert str(found) == text

    @pytest.mark.parametrize(
        ("value", "found", "remedy"),
        [
            (5, "it is greater than 1", "For 5 per cent, pass 0.05"),
            (1.5, "it is greater than 1", "For 1.5 per cent, pass 0.015"),
            ("10.0", "it is greater than 1", "For 10 per cent, pass 0.1"),
            ("1.0000001", "it is greater than 1", "For 1.0000001 per cent, pass 0.010000001"),
            (100, "it is greater than 1", "For 100 per cent, pass 1"),
            (-0.1, "it is negative", DECIMAL),
            ("-1e-30", "it is negative", DECIMAL),
            (float("nan"), "it is not a finite number", DECIMAL),
            ("sNaN", "it is not a finite number", DECIMAL),
            (float("inf"), "it is not a finite number", DECIMAL),
            (float("-inf"), "it is not a finite number", DECIMAL),
            (np.float32("nan"), "it is not a finite number", DECIMAL),
            ("five", "it is not a number", WORDS),
            ("5%", "it is not a number", WORDS),
            ("1/20", "it is not a number", WORDS),
            (True, "it is not a number", WORDS),
            (None, "it is not a number", WORDS),
        ],
    )
    def test_what_is_no_share_is_refused(self, value, found, remedy):
        with pytest.raises(InvalidChoice) as caught:
            parse_fraction(value)
        assert str(caught.value) == f"fraction {value!s}: {found}. {SHARE}. {remedy}."

    def test_an_absurd_exponent_is_refused_like_any_other(self):
        with pytest.raises(InvalidChoice) as caught:
            parse_fraction("1e1000000")
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize("value", [101, 500])
    def test_no_remedy_is_refused_itself(self, value):
        with pytest.raises(InvalidChoice) as caught:
            parse_fraction(value)
        assert parse_fraction(caught.value.remedy.split()[-1]) <= 1


class TestPresets:
    def test_coarse_is_ten_to_ninety_per_cent(self):
        assert parse_fractions("coarse") == decimals("0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9")

    def test_fine_is_a_fifth_of_a_per_cent_then_halves_of_one(self):
        expected = decimals("0.002 0.005 0.010 0.015 0.020 0.025 0.030 0.035 0.040 0.045")
        assert parse_fractions("fine") == expected

    def test_book_is_linspace_from_1_to_99_per_cent_in_exact_decimals(self):
        book = parse_fractions("book")
        # 98 per cent in 20 steps is 4.9 per cent, which three places write exactly.
        assert book == tuple(Decimal(10 + 49 * step) / 1000 for step in range(21))
        assert np.allclose(
            [float(share) for share in book], np.linspace(0.01, 0.99, 21), atol=1e-15
        )

    def test_there_are_three(self):
        assert {name: len(shares) for name, shares in PRESETS.items()} == {
            "coarse": 9,
            "fine": 10,
            "book": 21,
        }


class TestSteps:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("0.1:0.9:0.1", "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9"),
            ("0:1:0.25", "0 0.25 0.5 0.75 1"),
            ("0.1:0.35:0.1", "0.1 0.2 0.3"),
            ("0.3:0.3:0.1", "0.3"),
            ("0.1:0.2:1", "0.1"),
            ("1e-3:3e-3:1e-3", "0.001 0.002 0.003"),
            (" 0.1:0.3:0.1 ", "0.1 0.2 0.3"),
        ],
    )
    def test_they_climb_to_the_stop_and_not_beyond(self, text, expected):
        assert parse_fractions(text) == decimals(expected)

    @law
    @given(
        st.integers(min_value=0, max_value=1000),
        st.integers(min_value=0, max_value=1000),
        st.integers(min_value=1, max_value=400),
    )
    def test_they_are_the_integer_range_of_the_written_digits(self, start, length, step):
        stop = min(start + length, 1000)
        text = ":".join(spelled(number, 3) for number in (start, stop, step))
        expected = tuple(Decimal(share) / 1000 for share in range(start, stop + 1, step))
        assert parse_fractions(text) == expected

    @pytest.mark.parametrize("text", ["0.9:0.1:0.1", "0:1:0"])
    def test_steps_that_never_arrive_are_refused(self, text):
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions(text)
        expected = f"fractions {text}: it never arrives. {CLIMBS}. Try 0.1:0.9:0.1."
        assert str(caught.value) == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0:2:0.1", f"fraction 2: it is greater than 1. {SHARE}. For 2 per cent, pass 0.02."),
            ("0:1:-0.1", f"fraction -0.1: it is negative. {SHARE}. {DECIMAL}."),
            ("a:1:0.1", f"fraction a: it is not a number. {SHARE}. {WORDS}."),
            ("0:nan:0.1", f"fraction nan: it is not a finite number. {SHARE}. {DECIMAL}."),
            ("0.1:0.9", f"fraction 0.1:0.9: it is not a number. {SHARE}. {WORDS}."),
            ("0:1:0.1:2", f"fraction 0:1:0.1:2: it is not a number. {SHARE}. {WORDS}."),
        ],
    )
    def test_a_part_that_is_no_share_is_named(self, text, message):
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions(text)
        assert str(caught.value) == message


class TestLists:
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ("0.01,0.1", "0.01 0.1"),
            ("0.1 0.01", "0.01 0.1"),
            (" 0.1 ,\n0.01 ", "0.01 0.1"),
            (0.1, "0.1"),
            (0, "0"),
            (1, "1"),
            (Decimal("0.29"), "0.29"),
            (np.float64(0.29), "0.29"),
            ([0.5, "0.25"], "0.25 0.5"),
            ((0.5, Decimal("0.25"), 1), "0.25 0.5 1"),
            (np.array([0.5, 0.25]), "0.25 0.5"),
            (["fine", 0.5], "0.002 0.005 0.01 0.015 0.02 0.025 0.03 0.035 0.04 0.045 0.5"),
            ("0.5,0:0.2:0.1", "0 0.1 0.2 0.5"),
            (["0:0.2:0.1", 0.7], "0 0.1 0.2 0.7"),
        ],
    )
    def test_a_text_or_an_iterable_gives_them_ascending(self, asked, expected):
        assert parse_fractions(asked) == decimals(expected)

    def test_a_generator_is_read_once(self):
        assert parse_fractions(share / 10 for share in (3, 1, 2)) == decimals("0.1 0.2 0.3")

    def test_presets_mix(self):
        both = parse_fractions("coarse,fine")
        assert len(both) == 19
        assert both == tuple(sorted(PRESETS["coarse"] + PRESETS["fine"]))

    @pytest.mark.parametrize(
        "asked",
        [
            "0.1,0.10",
            [0.1, "0.10"],
            ["0.100", 0.1, Decimal("1e-1")],
            "0.1,0.1:0.1:0.5",
            [0.1] * 1000,
        ],
    )
    def test_a_share_counts_once_however_it_is_spelled(self, asked):
        assert parse_fractions(asked) == decimals("0.1")

    @law
    @given(st.lists(st.integers(min_value=0, max_value=50), min_size=1))
    def test_they_are_sorted_and_distinct(self, hundredths):
        expected = tuple(Decimal(share) / 100 for share in sorted(set(hundredths)))
        assert parse_fractions([share / 100 for share in hundredths]) == expected
        assert parse_fractions(",".join(str(share / 100) for share in hundredths)) == expected

    @pytest.mark.parametrize("asked", [[], (), np.array([])])
    def test_none_at_all_is_refused(self, asked):
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions(asked)
        assert str(caught.value) == (
            "fractions: there is none. A sweep needs at least one fraction. "
            "Pass for example 0.01,0.1 or coarse."
        )

    @pytest.mark.parametrize(
        ("asked", "named", "found", "remedy"),
        [
            ("0.1,5", "5", "it is greater than 1", "For 5 per cent, pass 0.05"),
            ([0.1, 5], "5", "it is greater than 1", "For 5 per cent, pass 0.05"),
            ([0.1, float("nan")], "nan", "it is not a finite number", DECIMAL),
            ([0.1, -0.1], "-0.1", "it is negative", DECIMAL),
            ("0.1,cuarse", "cuarse", "it is not a number", WORDS),
            ("COARSE", "COARSE", "it is not a number", WORDS),
        ],
    )
    def test_the_one_that_is_no_share_is_named(self, asked, named, found, remedy):
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions(asked)
        assert str(caught.value) == f"fraction {named}: {found}. {SHARE}. {remedy}."


class TestTooMany:
    RULE = f"A sweep takes at most {MOST_FRACTIONS} fractions. Take a larger step."

    def test_a_million_steps_are_refused_before_they_are_made(self):
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions("0:1:0.000001")
        expected = f"fractions 0:1:0.000001: there are more than {MOST_FRACTIONS}. {self.RULE}"
        assert str(caught.value) == expected

    def test_a_million_listed_are_refused_at_the_first_too_many(self):
        read = []

        def shares():
            for share in range(1_000_001):
                read.append(share)
                yield Decimal(share) / 1_000_000

        with pytest.raises(InvalidChoice) as caught:
            parse_fractions(shares())
        expected = f"fractions: there are more than {MOST_FRACTIONS}. {self.RULE}"
        assert str(caught.value) == expected
        assert len(read) == MOST_FRACTIONS + 1

    def test_the_most_are_taken_and_one_more_is_not(self):
        assert len(parse_fractions("0:0.9999:0.0001")) == MOST_FRACTIONS
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions("0:1:0.0001")
        assert str(caught.value) == (
            f"fractions 0:1:0.0001: there are more than {MOST_FRACTIONS}. {self.RULE}"
        )

    def test_several_steps_are_counted_together(self):
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions("0:0.9999:0.0001,0.99995")
        expected = f"fractions: there are more than {MOST_FRACTIONS}. {self.RULE}"
        assert str(caught.value) == expected

    def test_many_duplicates_are_not_many(self):
        assert parse_fractions(["0.1"] * (MOST_FRACTIONS + 1)) == decimals("0.1")

    def test_a_tiny_exponent_is_taken_or_refused_at_once(self):
        begun = time.process_time()
        with contextlib.suppress(InvalidChoice):
            assert [count(fraction, 5120) for fraction in parse_fractions("1e-9999999")] == [0]
        assert time.process_time() - begun < 0.5

    def test_more_steps_than_can_be_written_out_are_refused(self):
        with pytest.raises(InvalidChoice) as caught:
            parse_fractions("0:1:1e-5000")
        assert str(caught.value) == (
            f"fraction 1e-5000: it has more than 100 decimal places. {SHARE}. {DECIMAL}."
        )
