"""Replacements: their words, and the numbers that a constant may be."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unchecked import outcomes

from lesion.errors import InvalidChoice
from lesion.interventions.replacement import (
    REPLACEMENT_KINDS,
    Replacement,
    constant,
    parse_replacement,
)

law = settings(deadline=None)

FINITE = "A constant replacement is a finite number. Write for example constant:0.5."
NUMBERED = (
    "A constant replacement has a number, and no other has one. Write for example constant:0.5."
)
KNOWN = (
    "A replacement is one of median, median_mid, mean, zero, min, constant:NUMBER. "
    "Pass one of them."
)

finite = st.floats(allow_nan=False, allow_infinity=False)
replacements = st.one_of(
    st.sampled_from([kind for kind in REPLACEMENT_KINDS if kind != "constant"]).map(Replacement),
    finite.map(constant),
)


@law
@given(replacements)
def test_its_word_means_it_again(replacement):
    assert parse_replacement(str(replacement)) == replacement


@law
@given(replacements)
def test_a_replacement_is_taken_as_it_is(replacement):
    assert parse_replacement(replacement) is replacement


@law
@given(finite)
def test_a_constant_keeps_its_number_to_the_last_bit(number):
    found = parse_replacement(str(constant(number))).constant
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number)


@pytest.mark.parametrize("word", ["median", "median_mid", "mean", "zero", "min"])
def test_a_word_is_its_kind(word):
    assert parse_replacement(word) == Replacement(word, None)
    assert str(Replacement(word)) == word


@pytest.mark.parametrize(
    ("word", "number"),
    [("constant:0.5", 0.5), ("constant:-3", -3.0), ("constant:1e-3", 0.001), ("constant:0", 0.0)],
)
def test_a_constant_is_its_number(word, number):
    found = parse_replacement(word)
    assert found == constant(number)
    assert found.kind == "constant"
    assert type(found.constant) is float
    assert str(found) == f"constant:{number!r}"


@pytest.mark.parametrize(
    "word",
    [
        "",
        "Median",
        "MEDIAN",
        " median",
        "medain",
        "median:",
        "median:1",
        "zero:0",
        "0.5",
        "mean,zero",
    ],
)
def test_an_unknown_word_is_refused(word):
    with pytest.raises(InvalidChoice) as caught:
        parse_replacement(word)
    assert str(caught.value) == f"replace {word!r}: there is no such word. {KNOWN}"


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("constant", "the number is missing"),
        ("constant:", "the number is missing"),
        ("constant:half", "'half' is not one"),
        ("constant:0,5", "'0,5' is not one"),
        ("constant:1:2", "'1:2' is not one"),
        ("constant:nan", "'nan' is not one"),
        ("constant:inf", "'inf' is not one"),
        ("constant:-Infinity", "'-Infinity' is not one"),
        ("constant:1e400", "'1e400' is not one"),
    ],
)
def test_a_constant_without_a_finite_number_is_refused(word, found):
    with pytest.raises(InvalidChoice) as caught:
        parse_replacement(word)
    assert str(caught.value) == f"replace {word!r}: {found}. {FINITE}"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_constant_that_is_not_finite_is_refused(number):
    with pytest.raises(InvalidChoice) as caught:
        constant(number)
    assert str(caught.value) == f"replace 'constant': it is {number}. {FINITE}"


@pytest.mark.parametrize(
    ("kind", "number"), [("median", 1.0), ("zero", 0.0), ("min", math.nan), ("constant", None)]
)
def test_a_constant_alone_has_a_number(kind, number):
    with pytest.raises(InvalidChoice) as caught:
        Replacement(kind, number)
    assert str(caught.value) == f"replace {kind!r}: constant={number}. {NUMBERED}"


def test_replacements_are_values():
    kinds = [Replacement(kind) for kind in REPLACEMENT_KINDS if kind != "constant"]
    assert len({*kinds, constant(0), constant(1)}) == len(kinds) + 2
    assert hash(constant(0.5)) == hash(parse_replacement("constant:0.5"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        kinds[0].kind = "mean"


UNCHECKED = "import numpy as np; from lesion.interventions.replacement import *"


def test_unchecked_callers_are_refused_and_their_numbers_become_plain():
    expected = {
        "Replacement('medain')": f"InvalidChoice: replace 'medain': there is no such word. {KNOWN}",
        "str(constant(np.float64(0.5)))": "'constant:0.5'",
        "str(Replacement('constant', np.float64(0.5)))": "'constant:0.5'",
        "str(Replacement('constant', 1))": "'constant:1.0'",
    }
    assert outcomes(UNCHECKED, tuple(expected)) == expected
