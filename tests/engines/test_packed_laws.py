"""The packed engine gives one table, however prompts and lesions are put together.

Random prompts, lesions, orders and sizes of passes (hypothesis), and every architecture's own
features on thirty tokens: soft-caps, windows shorter than the prompt, blocks with and without them.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from families import CONFIGS, CONTEXT, VARIANTS, tiny_model
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from packed_cells import (
    NEURON_SET,
    PACKED_MODELS,
    REPLACEMENTS,
    SITES,
    SOFTMAX_IN_FLOAT32,
    Comparison,
    Oracle,
    beginnings,
    clean_columns,
    columns,
    compare,
    question,
    ranks_at,
    unchecked,
)

import lesion
from lesion.engines.engine import Outcome
from lesion.engines.packed import PackedEngine
from lesion.engines.reference import ReferenceEngine
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import Selection
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

NAMES = ("gpt2", "mistral", "gemma2", "gemma3_text", "opt")
"""GPT-2, grouped queries and windows, soft-caps, two kinds of rotary angles, ReLU."""
WINDOW = 8
SHARES = ("0.07", "0.1", "0.3", "0.5", "0.9", "1")
LAYERS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
MOST_ROWS = (8, 16, 24, 64, 1024)
ONE_CHUNK = 100_000

law = settings(
    deadline=None,
    max_examples=10,
    derandomize=True,
    # Shrinking would run the engines for minutes; the complaints name the lesion.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def tolerance_of_law(name: str) -> float:
    """How far the engines may be apart: far less than in other tests, where softmax is float64."""
    return 5e-5 if name in SOFTMAX_IN_FLOAT32 else 1e-8


@cache
def windowed(name: str) -> LanguageModel:
    """The tiny model or variant, its sliding window, where it has one, of eight tokens."""
    model_type, words = VARIANTS.get(name, (name, {}))
    words = dict(words)
    if "sliding_window" in CONFIGS[model_type]:
        words["sliding_window"] = WINDOW
    return tiny_model(model_type, **words)


tokens = st.integers(0, 63)
texts = st.lists(tokens, min_size=1, max_size=CONTEXT).map(tuple)


@st.composite
def prompts(draw: st.DrawFn) -> list[Prompt]:
    """Up to five prompts, among them such as begin others or equal them."""
    text = draw(texts)
    found = []
    for number in range(draw(st.integers(1, 5))):
        token_ids = draw(st.one_of(texts, st.integers(1, len(text)).map(lambda end: text[:end])))
        target_id, foil_id = draw(tokens), draw(st.none() | tokens)
        with unchecked():  # the check of types looks at random items, which hypothesis forbids
            found.append(question(token_ids, target_id, foil_id, number))
    return found


@st.composite
def lesions(draw: st.DrawFn, most: int = 8) -> list[Lesion]:
    """Up to `most` lesions, of which several may share a ranking, begin alike, or be the same."""
    found: list[Lesion] = []
    for _ in range(draw(st.integers(1, most))):
        layers = draw(st.sampled_from(LAYERS))
        alike = draw(st.sampled_from([None, *found]))
        if alike is not None:
            with unchecked():
                found.append(dataclasses.replace(alike, layers=layers))
            continue
        site = draw(st.sampled_from(SITES))
        rank = draw(st.sampled_from([None, *ranks_at(site)]))
        choices = [
            draw(st.sampled_from(each))
            for each in (selections(rank), REPLACEMENTS, ["last", -1], ["lesioned", "clean"])
        ]
        select, replace, position, rank_on = choices
        with unchecked():
            found.append(Lesion(select, replace, site, layers, position, rank_on))
    return found


def selections(rank: str | None) -> list[Selection]:
    """Selections of every kind, several shares of each ranking."""
    with unchecked():
        return [
            *(lesion.top(share, rank) for share in SHARES),
            *(lesion.bottom(share, rank) for share in SHARES),
            *(lesion.random(share, seed) for share in SHARES for seed in (0, 1)),
            *(lesion.band("0.1", share, rank) for share in SHARES[2:]),
            lesion.neuron_set(NEURON_SET),
        ]


most_rows = st.sampled_from(MOST_ROWS)


def measure(
    model: LanguageModel, asked: Sequence[Prompt], of: Sequence[Lesion], rows: int | None
) -> list[Outcome]:
    """What the packed engine measures with so many rows in one pass."""
    engine = PackedEngine(model, most_rows=rows)
    return engine.run_many(asked, of, hidden_norm=True, direct=True)


def assert_equal(one: Sequence[Outcome], other: Sequence[Outcome], tolerance: float) -> None:
    """Compare every number of two tables; with tolerance 0 bit by bit.

    Raises:
        AssertionError: naming a column that differs.
    """
    assert len(one) == len(other)
    for mine, others in zip(one, other, strict=True):
        pairs = [(columns(mine), columns(others)), (clean_columns(mine), clean_columns(others))]
        for found, wanted in pairs:
            for word, values in found.items():
                np.testing.assert_allclose(
                    values, wanted[word], rtol=tolerance, atol=tolerance, err_msg=word
                )


@pytest.mark.parametrize("name", NAMES)
@law
@given(asked=prompts(), of=lesions(), rows=most_rows)
def test_any_lesions_of_any_prompts_equal_the_reference(
    name: str, asked: list[Prompt], of: list[Lesion], rows: int
) -> None:
    model = windowed(name)
    comparison = Comparison(tolerance_of_law(name), exact=True)
    compare(PackedEngine(model, most_rows=rows), Oracle(model), asked, of, comparison)
    assert comparison.complaints == []


@pytest.mark.parametrize("name", NAMES)
@law
@given(asked=prompts(), of=lesions(most=20), rows=most_rows, data=st.data())
def test_chunks_orders_and_company_move_nothing(
    name: str, asked: list[Prompt], of: list[Lesion], rows: int, data: st.DataObject
) -> None:
    model = windowed(name)
    with unchecked():
        whole = measure(model, asked, of, ONE_CHUNK)
        assert_equal(measure(model, asked, of, rows), whole, 1e-9)
        places = data.draw(st.permutations(range(len(asked))))
        order = data.draw(st.permutations(range(len(of))))
        moved = measure(model, [asked[i] for i in places], [of[i] for i in order], rows)
    for place, outcome in zip(places, moved, strict=True):
        for word, values in columns(outcome).items():
            np.testing.assert_allclose(
                values, columns(whole[place])[word][order], rtol=1e-9, atol=1e-9, err_msg=word
            )


@pytest.mark.parametrize("name", NAMES)
@law
@given(asked=prompts(), of=lesions(), rows=most_rows)
def test_equal_calls_are_equal_bit_by_bit(
    name: str, asked: list[Prompt], of: list[Lesion], rows: int
) -> None:
    with unchecked():
        first, second = (measure(windowed(name), asked, of, rows) for _ in range(2))
    assert_equal(first, second, 0.0)


@law
@given(asked=prompts(), of=lesions(), copies=st.integers(2, 4), rows=most_rows)
def test_the_same_lesion_and_the_same_prompt_twice_give_the_same_twice(
    asked: list[Prompt], of: list[Lesion], copies: int, rows: int
) -> None:
    model = windowed("gpt2")
    with unchecked():
        once, repeated = measure(model, asked, of, rows), measure(model, asked, of * copies, rows)
        twice = measure(model, asked * 2, of, rows)
    assert_equal(twice, once * 2, 1e-9)
    for outcome, many in zip(once, repeated, strict=True):
        for word, values in columns(many).items():
            for copy in np.split(values, copies):
                np.testing.assert_allclose(
                    copy, columns(outcome)[word], rtol=1e-9, atol=1e-9, err_msg=word
                )


@law
@given(text=texts, of=lesions(), rows=most_rows)
def test_every_token_of_a_text_equals_each_beginning_alone(
    text: tuple[int, ...], of: list[Lesion], rows: int
) -> None:
    assume(len(text) > 1)
    model, each = windowed("mistral"), beginnings(text)
    with unchecked():
        together = measure(model, each, of, rows)
        alone = [measure(model, [prompt], of, rows)[0] for prompt in each]
    assert_equal(together, alone, 1e-9)


FORKED = ((0,), (0, 1), (0, 1, 2), (0, 2), (1, 2))
"""Blocks of lesions that begin alike and part, or begin later."""


@pytest.mark.parametrize("rows", [2, 9, 16, 40, 1000])
def test_lesions_that_go_on_from_each_other_survive_any_chunks(
    forked: tuple[Oracle, list[Lesion]], rows: int
) -> None:
    oracle, of = forked
    model, asked = windowed("gpt2"), [question((3, 17, 42)), *beginnings((8, 30, 8, 51))]
    comparison = Comparison(1e-9, exact=True)
    compare(PackedEngine(model, most_rows=rows), oracle, asked, of, comparison)
    assert comparison.complaints == []


@pytest.fixture(scope="module")
def forked() -> tuple[Oracle, list[Lesion]]:
    """Lesions of such blocks, and the oracle that remembers them."""
    of = [
        Lesion(lesion.top(share), "median", site, layers, rank_on=rank_on)
        for share in ("0.1", "0.5")
        for site in SITES
        for rank_on in ("lesioned", "clean")
        for layers in FORKED
    ]
    return Oracle(windowed("gpt2")), of


def test_the_head_may_run_in_slices(
    forked: tuple[Oracle, list[Lesion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle, of = forked
    # Eight rows of logits at a time.
    monkeypatch.setattr("lesion.engines.carried._CPU_HEAD_BYTES", 1)
    comparison = Comparison(1e-9, exact=True)
    asked = [question((3, 17, 42)), *beginnings((8, 30, 8, 51))]
    compare(PackedEngine(windowed("gpt2")), oracle, asked, of, comparison)
    assert comparison.complaints == []


THIRTY = tuple((7 * place * place + 11 * place) % 61 for place in range(30))
FEW = [
    Lesion(lesion.top("0.3"), layers=(0,)),
    Lesion(lesion.top("0.3"), layers=(1,)),
    Lesion(lesion.top("0.3"), layers=(2,)),
    Lesion(lesion.top("0.07"), "mean", "post", (0, 1, 2)),
    Lesion(lesion.band("0.1", "0.6"), "zero", "out", (0, 2), rank_on="clean"),
]


@pytest.mark.parametrize("name", PACKED_MODELS)
def test_thirty_tokens_equal_the_reference_one_lesion_at_a_time(name: str) -> None:
    model = windowed(name)
    asked = [question(THIRTY[-length:]) for length in (1, 7, 8, 9, 29, 30)]
    with unchecked():
        # One run a lesion: the reference engine as it is by default.
        wanted = ReferenceEngine(model).run_many(asked, FEW, hidden_norm=True, direct=True)
        assert_equal(measure(model, asked, FEW, None), wanted, tolerance_of_law(name))


@pytest.mark.parametrize("name", PACKED_MODELS)
def test_every_one_of_thirty_tokens_equals_the_reference(name: str) -> None:
    model = windowed(name)
    comparison = Comparison(tolerance_of_law(name), exact=True)
    compare(PackedEngine(model), Oracle(model), beginnings(THIRTY), FEW, comparison)
    assert comparison.complaints == []


FEATURES: dict[str, tuple[str, dict[str, Any]]] = {
    "another window": ("mistral", {"sliding_window": 9}),
    "another soft-cap of attention": ("gemma2", {"attn_logit_softcapping": 5.0}),
    "no soft-cap of logits": ("gemma2", {"final_logit_softcapping": None}),
    "another scaling": ("gemma3_text", {"query_pre_attn_scalar": 9}),
    "windows in no block": ("gemma3_text", {"layer_types": ["full_attention"] * 3}),
    "windows in every block": ("smollm3", {"layer_types": ["sliding_attention"] * 3}),
    "windows from the first block on": ("qwen2", {"max_window_layers": 0}),
    "rotary angles in no block": ("smollm3", {"no_rope_layers": [0, 0, 0]}),
    "every head has its own keys": ("llama", {"num_key_value_heads": 4}),
}
"""Where a feature is another one: the numbers differ, so that the comparisons above can fail."""


@pytest.mark.parametrize(("name", "words"), FEATURES.values(), ids=FEATURES)
def test_thirty_tokens_feel_the_feature(name: str, words: dict[str, Any]) -> None:
    here, there = windowed(name), tiny_model(name, **({"sliding_window": WINDOW} | words))
    asked = [question(THIRTY)]
    (one,), (other,) = (measure(model, asked, FEW, None) for model in (here, there))
    assert abs(one.clean.log_prob[0] - other.clean.log_prob[0]) > 1e-4
    effects, others = (each.lesioned.log_prob - each.clean.log_prob for each in (one, other))
    assert np.abs(effects - others).max() > 1e-4
