"""Where nothing can flow, the packed engine's effect is exactly 0.0: no rounding in its place.

Neurons without output weights, values that equal their replacement, components that no logit reads;
beside neighbours whose effects are not 0, in passes of any size, with one thread and with two.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from families import NEURONS, WIDTH, tiny_model, tiny_variant, word_tokenizer
from packed_cells import (
    DTYPES,
    OTHER_TEXT,
    PACKED_MODELS,
    TEXT,
    beginnings,
    question,
    unchecked,
)
from planted import Neuron, PlantedModel, build_planted
from transformers.pytorch_utils import Conv1D

import lesion
from lesion.engines.engine import Outcome
from lesion.engines.packed import PackedEngine
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

SILENT = (1, 2, 17, 30, 46)
"""Neurons that get no output weights; none of them at an edge that the others share."""
MOST_ROWS = (24, 80, 10_000)
LOUD = "constant:1000"
PROMPTS = (
    question(TEXT, foil_id=9),
    question([9], foil_id=2, number=1),
    question(OTHER_TEXT, foil_id=0, number=2),
    *beginnings(TEXT),
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two torch threads share a matrix product; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def effects(outcome: Outcome) -> dict[str, np.ndarray]:
    """Every effect that an outcome holds, one entry a lesion."""
    clean, lesioned = outcome.clean, outcome.lesioned
    words = ("logit", "log_prob", "prob", "target_rank", "entropy", "logit_diff", "top_token_id")
    found = {word: getattr(lesioned, word) - getattr(clean, word) for word in words}
    if np.isnan(clean.logit_diff[0]):
        del found["logit_diff"]
    found["kl"] = lesioned.kl
    if outcome.direct is not None and not np.isnan(outcome.direct.logit).all():
        found["direct_logit"] = outcome.direct.logit
        found["direct_log_prob"] = outcome.direct.log_prob
    return found


def assert_silent(outcome: Outcome, silent: np.ndarray) -> None:
    """Exactly the lesions that are `silent` have no effect at all; the others have one.

    Raises:
        AssertionError: naming an effect that is not 0, or a neighbour's that is.
    """
    for word, values in effects(outcome).items():
        single = ~np.isnan(values)
        assert (values[silent & single] == 0.0).all(), word
    assert (effects(outcome)["log_prob"][~silent] != 0.0).all()
    assert (effects(outcome)["kl"][~silent] > 0.0).all()


def silenced(name: str, dtype: str) -> LanguageModel:
    """A tiny model whose `SILENT` neurons have no output weights, in any block."""
    model = tiny_variant(name, dtype)
    with torch.no_grad():
        for block in model.blocks:
            weight = block.down.weight
            rows = weight if isinstance(block.down, Conv1D) else weight.T
            rows[list(SILENT)] = 0.0
    return model


def single_lesions(model: LanguageModel, site: str) -> tuple[list[Lesion], np.ndarray]:
    """Every silent neuron and as many others, one by one in every block; which are silent."""
    others = [neuron + 1 for neuron in SILENT]
    of = [
        Lesion(lesion.neuron_set([(layer, neuron)]), LOUD, site, (layer,))
        for neuron in (*SILENT, *others)
        for layer in range(len(model.blocks))
    ]
    # All silent neurons at once, in all blocks at once, and a few blocks after each other.
    sets = [(0,), (0, 1), (0, 1, 2), (1, 2)]
    pairs = [(layer, neuron) for layer in range(3) for neuron in SILENT]
    of += [Lesion(lesion.neuron_set(pairs), LOUD, site, layers) for layers in sets]
    silent = [lesion_.select.neurons[0][1] in SILENT for lesion_ in of]
    return of, np.array(silent)


def measure(
    model: LanguageModel, asked: Sequence[Prompt], of: Sequence[Lesion], rows: int | None = None
) -> list[Outcome]:
    """What the packed engine measures with so many rows in one pass."""
    with unchecked():
        engine = PackedEngine(model, most_rows=rows)
        return engine.run_many(asked, of, hidden_norm=True, direct=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PACKED_MODELS)
def test_neurons_without_output_weights_have_no_effect(name: str, dtype: str) -> None:
    model = silenced(name, dtype)
    pre, silent_pre = single_lesions(model, "pre")
    post, silent_post = single_lesions(model, "post")
    silent = np.concatenate([silent_pre, silent_post])
    for outcome in measure(model, PROMPTS, pre + post, rows=150):
        assert_silent(outcome, silent)
        assert outcome.hidden_norm is not None
        assert (outcome.hidden_norm[silent] == 0.0).all()
        assert (np.nan_to_num(outcome.evidence.out_delta_norm[silent]) == 0.0).all()
        assert (outcome.evidence.out_delta_norm[~silent] > 0.0).all()
        assert (outcome.evidence.largest_change > 900).all()


@pytest.mark.parametrize("rows", MOST_ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_the_effect_is_zero_in_passes_of_any_size(name: str, dtype: str, rows: int) -> None:
    model = silenced(name, dtype)
    of, silent = single_lesions(model, "pre")
    for outcome in measure(model, PROMPTS, of, rows):
        assert_silent(outcome, silent)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_effect_is_zero_with_two_threads(two_threads: None, dtype: str) -> None:
    model = silenced("gpt2", dtype)
    of, silent = single_lesions(model, "pre")
    for rows in (80, 10_000):
        for outcome in measure(model, PROMPTS, of, rows):
            assert_silent(outcome, silent)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("float64", {}),
        ("float64", {"n_embd": 32, "n_inner": 100, "vocab_size": 67}),
        ("float32", {}),
        ("float32", {"n_embd": 32, "n_inner": 100, "vocab_size": 67}),
    ],
)
def test_the_effect_is_zero_however_many_lesions_there_are(
    dtype: str, words: dict[str, int], count: int
) -> None:
    """An odd vocabulary, as GPT-2's is; odd sizes of heads and blocks no model has."""
    model = tiny_model("gpt2", dtype, **words)
    with torch.no_grad():
        for block in model.blocks:
            block.down.weight[list(SILENT)] = 0.0
    of, silent = single_lesions(model, "post")
    order = np.random.default_rng(0).permutation(len(of))
    for places in np.array_split(order, len(of) // count):
        (outcome,) = measure(model, PROMPTS[:1], [of[place] for place in places])
        assert_silent(outcome, silent[places])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt"])
def test_a_value_that_equals_its_replacement_has_no_effect(name: str, dtype: str) -> None:
    model = tiny_variant(name, dtype)
    # Of 48 the lower middle value is the 25th from the top, of 16 components the ninth.
    middle = {"pre": lesion.band("0.5", "0.525"), "out": lesion.band("0.5", "0.5625", "value")}
    least = {"pre": lesion.bottom("0.021"), "out": lesion.bottom("0.07", "value")}
    next_ones = {"pre": lesion.bottom("0.042"), "out": lesion.bottom("0.14", "value")}
    of = [
        Lesion(selection[site], replace, site, layers)
        for layers in ((0,), (1,), (2,), (0, 2), (0, 1, 2))
        for site in ("pre", "out")
        for selection, replace in [(middle, "median"), (least, "min"), (next_ones, "constant:9")]
    ]
    silent = np.array([each.replace != "constant:9.0" for each in of])
    for rows in (24, 10_000):
        for outcome in measure(model, PROMPTS, of, rows):
            assert_silent(outcome, silent)
            evidence = outcome.evidence
            assert (evidence.neurons > 0).all()
            assert (evidence.changed[silent] == 0).all()
            assert (evidence.largest_change[silent] == 0.0).all()
            assert (evidence.removed_post[silent] == 0.0).all()
            assert (evidence.changed[~silent] > 0).all()


def test_neurons_that_are_off_and_set_to_zero_have_no_effect() -> None:
    model = tiny_model("opt")
    of = [
        Lesion(lesion.neuron_set([(layer, neuron)]), "zero", "post", (layer,))
        for layer in range(3)
        for neuron in range(NEURONS)
    ]
    (outcome,) = measure(model, PROMPTS[:1], of)
    off = outcome.evidence.changed == 0
    assert 20 < off.sum() < len(of) - 20
    assert_silent(outcome, off)


def blind_model(dtype: str) -> LanguageModel:
    """A GPT-2 without a final norm, whose head does not read the components 3 and 10."""
    hf_model = tiny_model("gpt2", dtype, tie_word_embeddings=False).hf_model
    hf_model.transformer.ln_f = torch.nn.Identity()
    with torch.no_grad():
        hf_model.lm_head.weight[:, [3, 10]] = 0.0
    return lesion.load(hf_model=hf_model, tokenizer=word_tokenizer())


@pytest.mark.parametrize("rows", MOST_ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_components_that_no_logit_reads_have_no_effect(dtype: str, rows: int) -> None:
    model = blind_model(dtype)
    of = [
        Lesion(lesion.neuron_set([(layer, unit)]), LOUD, "out", (layer,))
        for layer in (1, 2)
        for unit in range(WIDTH)
    ]
    silent = np.array([each.layers == (2,) and each.select.neurons[0][1] in (3, 10) for each in of])
    for outcome in measure(model, PROMPTS, of, rows):
        assert_silent(outcome, silent)
        assert outcome.hidden_norm is not None
        assert outcome.direct is not None
        # What is blind to the logits moves the residual stream all the same.
        assert (outcome.hidden_norm[:, -1] > 100).all()
        blind = [each.select.neurons[0][1] in (3, 10) for each in of]
        assert (outcome.direct.logit[blind] == 0.0).all()


def everyone(planted: PlantedModel) -> list[Neuron]:
    """All neurons of a planted network."""
    config = planted.config
    return [(layer, i) for layer in range(config.n_layer) for i in range(config.n_inner)]


@cache
def load_planted(variant: str, dtype: torch.dtype) -> tuple[PlantedModel, LanguageModel]:
    """A planted network, also as a user brings a model of their own."""
    planted = build_planted(variant, dtype=dtype)
    return planted, lesion.load(hf_model=planted.hf_model, tokenizer=planted.tokenizer)


def zeroed(neurons: Sequence[Neuron]) -> list[Lesion]:
    """Lesions that set each of some neurons to zero, alone."""
    return [Lesion(lesion.neuron_set([neuron]), "zero", "post", (neuron[0],)) for neuron in neurons]


def responding(neurons: Sequence[Neuron], outcome: Outcome, word: str) -> set[Neuron]:
    """The neurons whose lesion has any effect on a metric."""
    moved = effects(outcome)[word] != 0.0
    return {neuron for neuron, each in zip(neurons, moved, strict=True) if each}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=DTYPES)
@pytest.mark.parametrize("variant", ["exact_set", "suppressor", "redundant_twins", "exact_ties"])
def test_exactly_the_planted_neurons_respond(variant: str, dtype: torch.dtype) -> None:
    planted, model = load_planted(variant, dtype)
    neurons = everyone(planted)
    assert len(neurons) == 1024
    prompt = question(planted.prompt_ids, planted.target_id, planted.foil_id)
    (outcome,) = measure(model, [prompt], zeroed(neurons))
    silent = np.array([neuron not in planted.planted for neuron in neurons])
    for word, values in effects(outcome).items():
        assert (values[silent] == 0.0).all(), word
    for word in ("logit_diff", "logit", "kl", "direct_logit"):
        assert responding(neurons, outcome, word) == planted.planted, word
    raised = effects(outcome)["logit_diff"] > 0.0
    assert {n for n, up in zip(neurons, raised, strict=True) if up} == planted.suppressors


@pytest.mark.parametrize("rows", [150, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=DTYPES)
def test_exactly_the_planted_neurons_respond_in_prompts_of_any_length(
    dtype: torch.dtype, rows: int | None
) -> None:
    planted, model = load_planted("exact_set", dtype)
    # Neurons by thirteens: the number of rows in a pass is no multiple of anything.
    neurons = sorted({*everyone(planted)[::13], *planted.planted})
    *context, query = planted.prompt_ids
    texts = [(*(context * 3)[:length], query) for length in (0, 2, 3, 4, 5, 7, 8, 12, 17)]
    prompts = [question(text, planted.target_id, number=at) for at, text in enumerate(texts)]
    # Each alone, then all side by side, then the questions of one text of query tokens.
    groups = [*([prompt] for prompt in prompts), prompts, beginnings((query, *planted.query_ids))]
    for asked in groups:
        for outcome in measure(model, asked, zeroed(neurons), rows):
            assert responding(neurons, outcome, "kl") == planted.planted
            assert responding(neurons, outcome, "log_prob") == planted.planted
            assert responding(neurons, outcome, "direct_log_prob") == planted.planted


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=DTYPES)
def test_exactly_the_planted_neurons_respond_where_the_head_runs_in_slices(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted, model = load_planted("exact_set", dtype)
    monkeypatch.setattr("lesion.engines.carried._CPU_HEAD_BYTES", 4 * 128 * 48)
    neurons = sorted({*everyone(planted)[::7], *planted.planted})
    prompt = question(planted.prompt_ids, planted.target_id, planted.foil_id)
    (outcome,) = measure(model, [prompt], zeroed(neurons))
    for word in ("logit", "log_prob", "kl", "direct_log_prob"):
        assert responding(neurons, outcome, word) == planted.planted, word
