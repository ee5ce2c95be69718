"""On trained networks and English prompts the packed engine measures what the reference does.

Trained activations have what random ones lack: a few very large values, many that are nearly equal,
predictions close to certainty.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from packed_cells import Comparison, Oracle, compare, unchecked
from posing import posed

import lesion
from lesion.engines.packed import PackedEngine
from lesion.engines.reference import ReferenceEngine
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.models.loading import shipped_tokenizer
from lesion.prompts import Prompt

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama"
TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
DTYPES = tuple(TOLERANCE)
MODELS = ("shipped", "tiny_llama")
SITES = ("pre", "post", "out")

SHORT = (
    "The",
    "He shook his",
    "It was a dark and stormy",
    "She opened the letter, read it twice, and said nothing to her",
)
LONG = (
    "When the travellers came at last to the edge of the wood the sun had gone down behind the "
    "hills, and there was nothing to be seen but the long white road before them and one small "
    "light in the valley. “That must be the inn,” said the elder of the two, “and if the landlord "
    "is still awake he will give us bread and a fire.” His brother did not answer; he was looking "
    "back, over his shoulder, at the dark line of the"
)
SENTENCE = "The children ran down to the river, for they had heard the bells of the boat."
"""All written for these tests; nobody trained on them."""


@cache
def trained(name: str, dtype: str) -> LanguageModel:
    """A trained network: a GPT-2 or a gated model with grouped queries."""
    if name == "shipped":
        return lesion.load(dtype=dtype, device="cpu")
    return lesion.load(FOLDER, tokenizer=shipped_tokenizer(), dtype=dtype, device="cpu")


@cache
def last_token_prompts(name: str, dtype: str) -> list[Prompt]:
    """The prompts whose last token is lesioned, each with the model's own top token as target."""
    model = trained(name, dtype)
    return [posed(model, text).whole for text in (*SHORT, LONG)]


def lesions(model: LanguageModel, sites: Sequence[str]) -> list[Lesion]:
    """At each site one, several and all blocks, shares of the top, and controls of the same size.

    The first, a middle and the last block alone; cumulative lesions of every second block.
    """
    blocks = tuple(range(len(model.blocks)))
    rows = [(0,), (blocks[len(blocks) // 2],), (blocks[-1],), blocks[:2], blocks[::2], blocks]
    ranked = [lesion.top(share) for share in ("0.02", "0.1", "0.5")]
    controls = [lesion.bottom("0.1"), lesion.random("0.1", seed=3), lesion.band("0.2", "0.4")]
    return [
        Lesion(select, replace, site, layers, rank_on=rank_on)
        for site in sites
        for layers in rows
        for select, replace, rank_on in [
            *((each, "median", "lesioned") for each in (*ranked, *controls)),
            (ranked[1], "zero", "lesioned"),
            (ranked[1], "mean", "clean"),
        ]
    ]


def assert_alike(
    name: str, dtype: str, asked: Sequence[Prompt], of: Sequence[Lesion]
) -> Comparison:
    """Compare the log-probabilities, and that near ties alone exchange neurons.

    Raises:
        AssertionError: they differ, or the lesions move too little to tell.
    """
    model = trained(name, dtype)
    exact = dtype == "float64"
    comparison = Comparison(TOLERANCE[dtype], exact=exact)
    with unchecked():
        compare(PackedEngine(model), Oracle(model, batch=16), asked, of, comparison)
    wrong = [
        each for each in comparison.complaints if exact or "log_prob" in each or "sign" in each
    ]
    assert wrong == []
    assert comparison.largest <= TOLERANCE[dtype]
    assert comparison.rows == len(asked) * len(of)
    assert comparison.near_ties <= comparison.rows / 50
    effects = np.concatenate(comparison.effects)
    assert np.median(effects) > 100 * TOLERANCE[dtype]
    assert effects.max() > 1.0
    return comparison


def test_the_long_prompt_is_long() -> None:
    assert [len(prompt.token_ids) for prompt in last_token_prompts("shipped", "float32")][-1] > 60
    assert trained("tiny_llama", "float32").family.up is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_last_tokens_equal_the_reference(name: str, dtype: str) -> None:
    of = lesions(trained(name, dtype), SITES)
    assert_alike(name, dtype, last_token_prompts(name, dtype), of)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_every_token_of_a_sentence_equals_the_reference(name: str, dtype: str) -> None:
    model = trained(name, dtype)
    each = posed(model, SENTENCE, "every").each
    assert len(each) > 12
    assert_alike(name, dtype, each, lesions(model, ["pre"])[::3])


@pytest.mark.parametrize("name", MODELS)
def test_one_lesion_a_pass_equals_the_plain_reference_engine(name: str) -> None:
    """Neither engine has anything to share: one lesion a call, one a forward pass."""
    model, prompt = trained(name, "float32"), last_token_prompts(name, "float32")[2]
    for each in lesions(model, SITES)[::12]:
        mine = PackedEngine(model).run(prompt, [each])
        reference = ReferenceEngine(model).run(prompt, [each])
        assert mine.lesioned.log_prob == pytest.approx(reference.lesioned.log_prob, abs=1e-4)
        assert mine.clean.log_prob == pytest.approx(reference.clean.log_prob, abs=1e-4)
        assert mine.evidence.signature == reference.evidence.signature


@pytest.mark.parametrize("name", MODELS)
def test_small_passes_equal_large_ones(name: str) -> None:
    model, asked = trained(name, "float32"), last_token_prompts(name, "float32")
    of = lesions(model, ["pre"])
    with unchecked():
        large, small = (
            PackedEngine(model, most_rows=rows).run_many(asked, of) for rows in (5_000, 64)
        )
    for one, other in zip(large, small, strict=True):
        apart = np.abs(one.lesioned.log_prob - other.lesioned.log_prob)
        same = one.evidence.signature == other.evidence.signature
        assert (same | one.evidence.near_tie).all()
        assert apart[same].max() <= 1e-4
