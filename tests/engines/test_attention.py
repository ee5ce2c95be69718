"""Attention of packed rows = transformers' own attention of each row's own sequence.

The oracle is called once a row, with the keys of the tokens before the row's own and the row's own
key last, and with transformers' own mask. transformers takes the softmax of some families in
float32 whatever the weights are; where the comparison is to be finer, the oracle is kept from it.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from families import tiny_model
from torch import Tensor, nn
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama
from transformers.models.opt import modeling_opt

from lesion.engines.attention import Prefix, RowAttention, attend, attention_replaced
from lesion.errors import EngineRefused

Oracle = Callable[..., tuple[Tensor, Tensor]]
TEXTS, TOKENS, SIZE, ROWS = 2, 7, 8, 3
POSITIONS = torch.tensor([[6, 7], [2, 0]])
"""Two texts of different length, two questions each; the last sees nothing but itself."""

SHAPES: dict[str, tuple[Oracle, int, int, dict[str, Any]]] = {
    "gpt2": (modeling_gpt2.eager_attention_forward, 4, 4, {}),
    "opt": (modeling_opt.eager_attention_forward, 4, 4, {}),
    "llama": (modeling_llama.eager_attention_forward, 4, 4, {}),
    "llama, grouped queries": (modeling_llama.eager_attention_forward, 6, 2, {}),
    "llama, one key for all": (modeling_llama.eager_attention_forward, 4, 1, {"scaling": 0.2}),
    "gpt_oss, sinks": (modeling_gpt_oss.eager_attention_forward, 4, 2, {"sinks": True}),
    "gemma2, soft-cap": (modeling_gemma2.eager_attention_forward, 4, 2, {"softcap": 0.7}),
}
WINDOWS = (None, 1, 4)


class Attention(nn.Module):
    """What transformers' attention functions ask of the module that calls them."""

    def __init__(self, heads: int, groups: int, sinks: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_key_value_groups, self.head_dim, self.is_causal = heads // groups, SIZE, True
        self.sinks = nn.Parameter(torch.randn(heads).to(dtype)) if sinks else None
        self.eval()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same numbers in every test."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        yield


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle's softmax in the dtype of its scores."""
    monkeypatch.setattr(nn.functional, "softmax", lambda x, dim=-1, **_: x.softmax(dim))


def additive_mask(position: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """transformers' mask of a token at a position: 0 where it sees, the lowest number elsewhere."""
    function = sliding_window_causal_mask_function(window) if window else causal_mask_function
    seen = [
        bool(function(0, 0, torch.tensor(position), torch.tensor(k))) for k in range(position + 1)
    ]
    lowest = torch.finfo(dtype).min
    return torch.tensor([[[[0.0 if each else lowest for each in seen]]]], dtype=dtype)


def by_transformers(
    oracle: Oracle, module: Attention, window: int | None, words: dict[str, Any],
    query: Tensor, keys: Tensor, values: Tensor,
) -> Tensor:  # fmt: skip
    """What the last token of one sequence reads: query (head, size), keys (group, token, size)."""
    mask = additive_mask(keys.shape[1] - 1, window, query.dtype)
    read, _ = oracle(module, query[None, :, None], keys[None], values[None], mask, **words)
    return read[0, 0]


def made(heads: int, groups: int, slots: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a model hands them over."""
    return tuple(
        torch.randn(TEXTS, count, slots, SIZE, dtype=torch.float64).to(dtype) * 2
        for count in (heads, groups, groups)
    )


def called(
    shape: str, window: int | None, dtype: torch.dtype, here: bool = True
) -> tuple[Tensor, Tensor]:
    """What the rows' attention reads at all slots, and what the oracle reads."""
    oracle, heads, groups, words = SHAPES[shape]
    words = {"scaling": SIZE**-0.5} | words
    module = Attention(heads, groups, bool(words.pop("sinks", False)), dtype)
    questions = POSITIONS.shape[1]
    slots = ROWS * questions + 2  # two that nobody reads
    query, key, value = made(heads, groups, TOKENS + slots, dtype)
    prefix: Prefix = {}
    attention = RowAttention({module: 1}, POSITIONS, TOKENS, prefix, keep=not here)
    more = {"s_aux": module.sinks} if module.sinks is not None else {}
    arguments = {"sliding_window": window, "dropout": 0.0, **words, **more}
    found, weights = attention(module, query, key, value, None, **arguments)
    assert weights is None
    if not here:
        # A later pass of the same prompt holds rows only; it brings other garbage, same prefix.
        later = RowAttention({module: 1}, POSITIONS, 0, prefix, keep=True)
        parts = [each[:, :, TOKENS:] for each in (query, key, value)]
        again, _ = later(module, *parts, None, **arguments)
        found = torch.cat([found[:, :TOKENS], again], dim=1)
    expected = torch.empty_like(found)
    for text in range(TEXTS):
        for slot in range(TOKENS + slots):
            before = slot if slot < TOKENS else int(POSITIONS[text, (slot - TOKENS) % questions])
            own = [
                torch.cat([each[text, :, :before], each[text, :, [slot]]], 1)
                for each in (key, value)
            ]
            expected[text, slot] = by_transformers(
                oracle, module, window, words, query[text, :, slot], *own
            )
    return found, expected


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_read_what_transformers_would_read(
    exact_softmax: None, shape: str, window: int | None
) -> None:
    found, expected = called(shape, window, torch.float64)
    # With a soft-cap we take the softmax in float32, as transformers does.
    assert (found - expected).abs().max() < (1e-6 if "soft-cap" in shape else 1e-12)


@pytest.mark.parametrize("shape", ["gpt2", "llama, grouped queries", "gemma2, soft-cap"])
def test_a_later_pass_reads_the_keys_that_the_first_one_kept(
    exact_softmax: None, shape: str
) -> None:
    found, expected = called(shape, 4, torch.float64, here=False)
    assert (found - expected).abs().max() < (1e-6 if "soft-cap" in shape else 1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.bfloat16, 6e-2), (torch.float16, 8e-3)],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_lower_precision_rounds_as_transformers_does(
    shape: str, dtype: torch.dtype, tolerance: float
) -> None:
    found, expected = called(shape, 4, dtype)
    assert found.dtype == dtype
    # gpt_oss takes its softmax in the dtype of the weights.
    allowed = tolerance * (4 if "gpt_oss" in shape else 1)
    assert (found.double() - expected.double()).abs().max() < allowed


def test_the_soft_cap_equals_transformers_in_float64_as_it_is() -> None:
    found, expected = called("gemma2, soft-cap", 4, torch.float64)
    assert (found - expected).abs().max() < 1e-6


def test_a_window_makes_a_difference(exact_softmax: None) -> None:
    for shape in SHAPES:
        torch.manual_seed(1)
        wide, _ = called(shape, None, torch.float64)
        torch.manual_seed(1)
        narrow, _ = called(shape, 2, torch.float64)
        assert (wide - narrow).abs().max() > 0.1


def test_one_row_is_softmax_by_hand() -> None:
    query, (own_key, own_value) = torch.tensor([[[[1.0]]]]), (torch.full((1, 1, 1, 1), 2.0),) * 2
    keys, values = torch.tensor([[[[3.0], [5.0]]]]), torch.tensor([[[[7.0], [100.0]]]])
    seen = torch.tensor([[[True, False]]])
    read = attend(query, keys, values, seen, (own_key, own_value), 0.5)
    seven, two = math.exp(1.5), math.exp(1.0)
    assert read.item() == pytest.approx((7 * seven + 2 * two) / (seven + two), rel=1e-6)
    capped = attend(query, keys, values, seen, (own_key, own_value), 0.5, 0.25)
    seven, two = (math.exp(0.25 * math.tanh(x / 0.25)) for x in (1.5, 1.0))
    assert capped.item() == pytest.approx((7 * seven + 2 * two) / (seven + two), rel=1e-6)
    sunk = attend(query, keys, values, seen, (own_key, own_value), 0.5, sinks=torch.tensor([2.0]))
    seven, two, sink = (math.exp(x) for x in (1.5, 1.0, 2.0))
    assert sunk.item() == pytest.approx((7 * seven + 2 * two) / (seven + two + sink), rel=1e-6)


def test_no_row_sees_another_row_or_what_comes_later() -> None:
    module = Attention(4, 2, sinks=False, dtype=torch.float64)
    query, key, value = made(4, 2, TOKENS + 4, torch.float64)
    attention = RowAttention({module: 0}, POSITIONS, TOKENS, {}, keep=False)
    before, _ = attention(module, query, key, value, None)
    moved = [key.clone(), value.clone()]
    for each in moved:
        each[:, :, TOKENS + 1] += 1.0  # another row
        each[1, :, 2:TOKENS] += 1.0  # tokens from question 0's own place on
    after, _ = attention(module, query, *moved, None)
    assert torch.equal(after[0, : TOKENS + 1], before[0, : TOKENS + 1])
    assert torch.equal(after[:, TOKENS + 2 :], before[:, TOKENS + 2 :])
    assert not torch.equal(after[:, TOKENS + 1], before[:, TOKENS + 1])
    assert torch.equal(after[1, TOKENS], before[1, TOKENS])


def test_what_is_kept_outlives_the_pass() -> None:
    module, prefix = Attention(4, 2, sinks=False, dtype=torch.float64), {}
    query, key, value = made(4, 2, TOKENS + 4, torch.float64)
    RowAttention({module: 3}, POSITIONS, TOKENS, prefix, keep=False)(
        module, query, key, value, None
    )
    assert prefix == {}
    RowAttention({module: 3}, POSITIONS, TOKENS, prefix, keep=True)(module, query, key, value, None)
    assert set(prefix) == {3}
    kept = key[:, :, :TOKENS].clone()
    key.zero_()
    assert torch.equal(prefix[3][0], kept)


REFUSED: dict[str, dict[str, Any]] = {
    "head_mask": {"head_mask": torch.ones(1)},
    "alibi, position_bias": {"position_bias": torch.ones(1), "alibi": 1},
    "cu_seq_lens_q": {"cu_seq_lens_q": torch.ones(1)},
    "attention_mask": {"attention_mask": torch.zeros(1, 1, 1, 1)},
}


def refusal(found: str) -> str:
    """The whole text of a refusal."""
    return (
        f"the packed engine: the model's attention was called with {found}. "
        "It computes attention itself, and only what it has been proved for. "
        'Pass engine="reference".'
    )


@pytest.mark.parametrize("found", REFUSED)
def test_a_word_that_it_does_not_know_is_refused(found: str) -> None:
    module = Attention(4, 4, sinks=False, dtype=torch.float64)
    tensors = made(4, 4, TOKENS + 4, torch.float64)
    attention = RowAttention({module: 0}, POSITIONS, TOKENS, {}, keep=False)
    words = {"attention_mask": None} | REFUSED[found]
    with pytest.raises(EngineRefused) as error:
        attention(module, *tensors, **words)
    assert str(error.value) == refusal(found)


def test_words_without_a_value_or_without_a_meaning_pass() -> None:
    module = Attention(4, 4, sinks=False, dtype=torch.float64)
    tensors = made(4, 4, TOKENS + 4, torch.float64)
    attention = RowAttention({module: 0}, POSITIONS, TOKENS, {}, keep=False)
    plain, _ = attention(module, *tensors, None)
    harmless = {
        "head_mask": None, "dropout": 0.0, "use_cache": False, "position_ids": POSITIONS,
        "cache_position": None, "output_attentions": False, "scaling": SIZE**-0.5,
    }  # fmt: skip
    same, _ = attention(module, *tensors, None, **harmless)
    assert torch.equal(plain, same)


def test_attention_that_looks_ahead_or_belongs_elsewhere_is_refused() -> None:
    module = Attention(4, 4, sinks=False, dtype=torch.float64)
    tensors = made(4, 4, TOKENS + 4, torch.float64)
    module.is_causal = False
    with pytest.raises(EngineRefused) as error:
        RowAttention({module: 0}, POSITIONS, TOKENS, {}, keep=False)(module, *tensors, None)
    assert str(error.value) == refusal("is_causal=False")
    module.is_causal = True
    with pytest.raises(EngineRefused) as error:
        RowAttention({}, POSITIONS, TOKENS, {}, keep=False)(module, *tensors, None)
    assert str(error.value) == refusal("a module of another model")


def test_everything_that_is_wrong_is_named_at_once() -> None:
    module = Attention(4, 4, sinks=False, dtype=torch.float64)
    module.is_causal = False
    tensors = made(4, 4, TOKENS + 4, torch.float64)
    with pytest.raises(EngineRefused) as error:
        RowAttention({}, POSITIONS, TOKENS, {}, keep=False)(
            module, *tensors, torch.zeros(1), head_mask=1
        )
    found = "head_mask, a module of another model, is_causal=False, attention_mask"
    assert str(error.value) == refusal(found)


def test_replacing_the_attention_is_undone_whatever_happens() -> None:
    model = tiny_model("llama")
    before = model.config._attn_implementation, dict(ALL_ATTENTION_FUNCTIONS.items())

    def function(*_: object) -> None:
        """Stands for an attention function."""

    for error in (None, RuntimeError, KeyboardInterrupt):
        try:
            with attention_replaced(model, function):
                name = model.config._attn_implementation
                assert name != before[0]
                assert ALL_ATTENTION_FUNCTIONS[name] is function
                if error is not None:
                    raise error
        except (RuntimeError, KeyboardInterrupt):
            assert error is not None
        assert model.config._attn_implementation == before[0]
        assert dict(ALL_ATTENTION_FUNCTIONS.items()) == before[1]
