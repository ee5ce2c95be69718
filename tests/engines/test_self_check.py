"""The packed engine is compared with the reference engine now and then, and stopped if it is wrong.

That it would notice is seen by breaking the packed engine, one thing at a time.
"""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny_model, word_tokenizer
from torch import Tensor

import lesion
from lesion.engines import attention, packed, row_edits, self_check
from lesion.engines.packed import PackedEngine
from lesion.engines.reference import ReferenceEngine
from lesion.errors import SelfCheckFailed
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt
from lesion.runs.run import Run

TEXT = "w3 w17 w42 w8 w25 w60"
PROMPT = Prompt(4, TEXT, (3, 17, 42, 8, 25, 60), "w5", 5)
LESIONS = [Lesion(lesion.top(share), layers=(layer,)) for layer in range(3) for share in (0.1, 0.5)]


def swept(model: LanguageModel, **words: Any) -> Run:
    """A sweep of the common text."""
    return lesion.sweep(model, TEXT, "w5", **({"fractions": "0.1,0.5"} | words))


def checked(model: LanguageModel, **words: Any) -> bool:
    """Whether a sweep was compared."""
    return swept(model, **words).measuring.self_check is not None


# When


def test_the_first_use_of_every_kind_of_lesion_is_checked() -> None:
    model = tiny_model("gpt2")
    kinds: list[dict[str, Any]] = [
        {},
        {"site": "post"},
        {"site": "out"},
        {"replace": "zero"},
        {"replace": "constant:1"},
        {"scope": "all"},
        {"site": "post", "replace": "zero"},
        {"position": -1},
        {"scope": "all", "replace": "mean", "site": "out"},
    ]
    assert [checked(model, **kind) for kind in kinds] == [True] * len(kinds)
    assert [checked(model, **kind) for kind in kinds] == [False] * len(kinds)
    # What is no kind: shares, rankings, blocks, the prompt.
    for words in ({"fractions": "0.7"}, {"select": "bottom"}, {"rank": "abs"}, {"layers": 1}):
        assert not checked(model, **words), words
    assert not checked(model, replace="constant:2")


def test_every_scope_is_a_kind_of_its_own() -> None:
    model = tiny_model("gpt2")
    assert [checked(model, scope=scope) for scope in ("each", "all", "cumulative")] == [True] * 3


def test_every_model_has_its_own_first_use() -> None:
    one, other = tiny_model("gpt2"), tiny_model("gpt2")
    assert checked(one)
    assert checked(other)
    again = lesion.load(hf_model=one.hf_model, tokenizer=word_tokenizer())
    assert checked(again)


def test_every_hundredth_prompt_is_checked_again() -> None:
    model = tiny_model("gpt2")
    outcome = PackedEngine(model).run(PROMPT, LESIONS)
    found = [self_check.self_check(model, PROMPT, LESIONS, outcome) for _ in range(201)]
    assert [at for at, each in enumerate(found) if each is not None] == [0, 100, 200]
    last = found[200]
    assert (last.prompt_id, last.lesions, last.tolerance) == (4, 3, 1e-6)


def test_kinds_of_one_call_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    zeroed = [Lesion(lesion.top(0.5), "zero", layers=(layer,)) for layer in range(3)]
    asked: list[list[Lesion]] = []
    run = ReferenceEngine.run

    def noted(self: ReferenceEngine, prompt: Prompt, lesions: list[Lesion], **words: Any) -> Any:
        asked.append(list(lesions))
        return run(self, prompt, lesions, **words)

    monkeypatch.setattr(ReferenceEngine, "run", noted)
    outcome = PackedEngine(model).run(PROMPT, LESIONS)
    self_check.self_check(model, PROMPT, LESIONS, outcome)
    # The first, the middle and the last of what is due.
    assert asked == [[LESIONS[0], LESIONS[3], LESIONS[5]]]
    both = LESIONS + zeroed
    outcome = PackedEngine(model).run(PROMPT, both)
    self_check.self_check(model, PROMPT, both, outcome)
    assert asked[1:] == [zeroed]


def test_nothing_is_checked_where_nothing_was_measured_by_the_packed_engine() -> None:
    model = tiny_model("gpt2")
    assert not checked(model, engine="reference")
    assert not checked(model, fractions="0.001")
    assert checked(model)


# What is stored


def test_the_comparison_is_stored_with_the_run(tmp_path: Path) -> None:
    run = swept(tiny_model("llama", "float32"))
    check = run.measuring.self_check
    assert (check.prompt_id, check.lesions, check.near_ties) == (0, 3, 0)
    assert 0 <= check.difference < check.tolerance == 1e-4
    assert 0 < check.seconds < 60
    run.save(tmp_path / "run", figures=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["engine"]["self_check"] is True
    again = lesion.open(tmp_path / "run")
    assert again.measuring.self_check == check
    assert again.manifest == run.manifest


def test_without_the_self_check_none_runs_and_the_run_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny_model("llama", "float32")
    with monkeypatch.context() as patch:
        patch.setattr(ReferenceEngine, "run_many", None)
        run = swept(model, self_check=False)
    run.save(tmp_path / "run", figures=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["engine"]["self_check"] is False
    assert lesion.open(tmp_path / "run").measuring.self_check is None
    assert run.table.equals(swept(model).table)


def test_a_self_check_that_was_switched_off_is_no_first_use() -> None:
    model = tiny_model("gpt2")
    assert not checked(model, self_check=False)
    assert checked(model)


def test_of_a_text_the_middle_token_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def noted(model: LanguageModel, prompt: Prompt, *others: Any) -> Any:
        asked.append(prompt.token_ids)
        return self_check.self_check(model, prompt, *others)

    monkeypatch.setattr("lesion.experiments.measuring.self_check", noted)
    run = lesion.sweep(tiny_model("gpt2"), TEXT, position="every", fractions="0.3")
    assert asked == [PROMPT.token_ids[:3]]
    assert run.measuring.self_check.lesions == 3


# A wrong engine


def other_window(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Attention that sees one token less."""

    def seen(places: Tensor, end: Tensor, window: int | None, own_apart: bool = False) -> Tensor:
        return forward(places, end, 2, own_apart)

    return seen


def no_attention_to_itself(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Rows that do not see their own token."""

    def attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, own: Any, *a: Any,
               **words: Any) -> Tensor:  # fmt: skip
        return forward(query, keys, values, seen, None, *a, **words)

    return attend


def twice_as_much(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Another replacement value."""
    return lambda replacement, vectors: forward(replacement, vectors) + 0.01


def reversed_ranks(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Another selection."""
    return lambda order: forward(order).flip(-1)


def rows_exchanged(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Outcomes that belong to other lesions."""

    def rows_of(lesions: list[Lesion], places: list[int]) -> Any:
        return forward(lesions, [*places[1:], places[0]])

    return rows_of


def wrong_positions(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Rows whose position is that of the token before."""
    return lambda self, device: forward(self, device) - 1


BREAKS: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "attention window": (attention, "_seen", other_window),
    "no attention to itself": (attention, "attend", no_attention_to_itself),
    "replacement value": (row_edits, "replacement_values", twice_as_much),
    "ranks": (row_edits, "ranks", reversed_ranks),
    "rows exchanged": (packed, "rows_of", rows_exchanged),
    "positions": (packed.Batch, "positions", wrong_positions),
}
FAILURE = re.compile(
    r"self-check of Lesion\(select=Top\(fraction=Decimal\('0\.[15]'\), rank='value'\), "
    r"replace='zero', site='pre', layers=\([012],\), position='last', rank_on='lesioned'\): "
    r"the packed engine differs from the reference engine by (\S+) nats"
    r"(, and takes other neurons)?\. They agree to (\S+) nats\. "
    r'Pass engine="reference", and report the model\'s name\.'
)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("broken", BREAKS)
def test_a_wrong_packed_engine_is_stopped(
    monkeypatch: pytest.MonkeyPatch, broken: str, dtype: str
) -> None:
    if dtype == "bfloat16" and broken in ("replacement value", "no attention to itself"):
        return  # smaller than what bfloat16 can tell
    owner, name, breaking = BREAKS[broken]
    model = tiny_model("gpt2", dtype)
    monkeypatch.setattr(owner, name, breaking(getattr(owner, name)))
    with pytest.raises(SelfCheckFailed) as error:
        swept(model, replace="zero")
    found = FAILURE.fullmatch(str(error.value))
    assert found is not None, str(error.value)
    assert found[2] is not None or float(found[1]) > float(found[3])
    assert swept(model, replace="zero", engine="reference").measuring.self_check is None


def test_the_whole_text_of_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    outcome = PackedEngine(model).run(PROMPT, LESIONS)
    outcome.lesioned.log_prob[3] -= 0.25
    with pytest.raises(SelfCheckFailed) as error:
        self_check.self_check(model, PROMPT, LESIONS, outcome)
    assert str(error.value) == (
        f"self-check of {LESIONS[3]}: the packed engine differs from the reference engine by "
        "0.25 nats. They agree to 1e-06 nats. "
        'Pass engine="reference", and report the model\'s name.'
    )
    assert isinstance(error.value, RuntimeError)


def test_a_failed_check_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    monkeypatch.setattr(row_edits, "ranks", reversed_ranks(row_edits.ranks))
    for _ in range(2):
        with pytest.raises(SelfCheckFailed):
            swept(model)


def test_other_neurons_without_a_near_tie_are_a_failure_whatever_the_effect() -> None:
    model = tiny_model("gpt2")
    outcome = PackedEngine(model).run(PROMPT, LESIONS)
    outcome.evidence.signature[0] += 1
    with pytest.raises(SelfCheckFailed) as error:
        self_check.self_check(model, PROMPT, LESIONS, outcome)
    assert ", and takes other neurons. They agree to 1e-06 nats. " in str(error.value)


def test_a_number_that_one_engine_does_not_have_is_a_failure() -> None:
    model = tiny_model("gpt2")
    outcome = PackedEngine(model).run(PROMPT, LESIONS)
    outcome.lesioned.log_prob[5] = np.nan
    with pytest.raises(SelfCheckFailed, match="by inf nats"):
        self_check.self_check(model, PROMPT, LESIONS, outcome)


def test_what_neither_engine_can_measure_is_no_difference() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.blocks[2].down.weight[0, 0] = torch.nan
    run = swept(model)
    assert set(run.table["status"].to_pylist()) == {"nonfinite"}
    assert run.measuring.self_check.difference == 0.0


# Near ties


def tied_model(gap: float, seed: int = 0) -> tuple[LanguageModel, int, int]:
    """A model whose fifth and fourth largest keys in block 1 differ by that share of the largest.

    With the two neurons that have these keys.
    """
    model = tiny_model("gpt2", seed=seed)
    pre: list[Tensor] = []
    handle = model.blocks[1].pre.register_forward_hook(lambda *a: pre.append(a[2][0, -1].clone()))
    with torch.inference_mode():
        model.hf_model(torch.tensor([PROMPT.token_ids]), use_cache=False)
    handle.remove()
    order = pre[0].argsort(descending=True)
    fourth, fifth = int(order[3]), int(order[4])
    difference = float(pre[0][fourth] - pre[0][fifth])
    with torch.no_grad():
        model.blocks[1].pre.bias[fifth] += difference - gap * float(pre[0].abs().max())
    return model, fourth, fifth


def exchanged(forward: Callable[..., Tensor], first: int, second: int) -> Callable[..., Tensor]:
    """Ranks as rounding might give them: two neurons have changed places."""

    def ranks(order: Tensor) -> Tensor:
        found = forward(order)
        found[:, [first, second]] = found[:, [second, first]]
        return found

    return ranks


FOUR = [Lesion(lesion.top("0.084"), "zero", layers=(1,))]
"""Four of 48 neurons."""


def test_another_set_by_a_near_tie_is_counted_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, fourth, fifth = tied_model(1e-7)
    monkeypatch.setattr(row_edits, "ranks", exchanged(row_edits.ranks, fourth, fifth))
    outcome = PackedEngine(model).run(PROMPT, FOUR)
    reference = ReferenceEngine(model).run(PROMPT, FOUR)
    assert outcome.evidence.near_tie.tolist() == reference.evidence.near_tie.tolist() == [True]
    assert outcome.evidence.signature[0] != reference.evidence.signature[0]
    assert abs(outcome.lesioned.log_prob[0] - reference.lesioned.log_prob[0]) > 1e-4
    found = self_check.self_check(model, PROMPT, FOUR, outcome)
    assert (found.near_ties, found.difference) == (1, 0.0)
    assert found.lesions == 1


def test_another_set_without_a_near_tie_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fourth, fifth = tied_model(1e-4)
    monkeypatch.setattr(row_edits, "ranks", exchanged(row_edits.ranks, fourth, fifth))
    outcome = PackedEngine(model).run(PROMPT, FOUR)
    assert outcome.evidence.near_tie.tolist() == [False]
    with pytest.raises(SelfCheckFailed, match="takes other neurons"):
        self_check.self_check(model, PROMPT, FOUR, outcome)


def test_a_near_tie_at_the_edge_is_reported_by_both_engines_and_the_run() -> None:
    model, _, _ = tied_model(1e-7)
    for engine in ("packed", "reference"):
        run = swept(model, fractions="0.084,0.5", layers=1, engine=engine, replace="zero")
        assert run.measuring.near_ties == 1
        if run.measuring.self_check is not None:
            assert run.measuring.self_check.near_ties == 0  # the same neurons in both


# Half precision


@functools.cache
def half(dtype: str, model_type: str = "gpt2") -> LanguageModel:
    """A model in half precision."""
    return tiny_model(model_type, dtype)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2", "opt"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_on_a_cpu(dtype: str, model_type: str) -> None:
    model = half(dtype, model_type)
    for words in ({}, {"site": "out", "scope": "all", "replace": "median_mid"}):
        words |= {"fractions": "0.3"}
        run = swept(model, engine="packed", self_check=False, hidden_norm=True, **words)
        assert run.manifest.model.dtype == dtype
        assert set(run.table["status"].to_pylist()) == {"ok"}
        reference = swept(model, engine="reference", **words)
        for mine, its in zip(run.table.to_pylist(), reference.table.to_pylist(), strict=True):
            assert mine["neurons"] == its["neurons"]
            assert mine["effect_log_prob"] == pytest.approx(its["effect_log_prob"], abs=1.0)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_in_half_precision_is_no_failure(dtype: str, model_type: str) -> None:
    model = tiny_model(model_type, dtype)
    with torch.inference_mode():
        logits = model.hf_model(torch.tensor([PROMPT.token_ids])).logits[0, -1].abs()
    # A logit may lie anywhere, at 0 too: its size says nothing of how finely it is computed.
    for site, target_id in (("pre", logits.argmax()), ("post", logits.argmin())):
        for replace in ("median", "zero"):
            run = lesion.sweep(
                model, TEXT, target_id=int(target_id), fractions="0.1,0.5", site=site,
                replace=replace,
            )  # fmt: skip
            found = run.measuring.self_check
            assert found is not None
            assert found.difference <= found.tolerance


@pytest.mark.parametrize("engine", ["packed", "reference"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_noise_floor_is_stored_and_marks_the_effects_below_it(
    dtype: str, engine: str, tmp_path: Path
) -> None:
    run = swept(half(dtype), engine=engine, self_check=False, fractions="0.03,0.1,0.5,0.9")
    floor = run.measuring.noise_floor
    eps = torch.finfo(getattr(torch, dtype)).eps
    rows = run.table.to_pylist()
    assert floor >= eps * abs(rows[0]["clean_logit"]) > 0
    assert floor < 1
    for row in rows:
        assert row["below_noise"] == (abs(row["effect_log_prob"]) < floor)
    run.save(tmp_path / "run", figures=False)
    assert lesion.open(tmp_path / "run").measuring.noise_floor == floor
    assert lesion.open(tmp_path / "run").table.equals(run.table)


def test_an_effect_of_nothing_is_below_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2", "bfloat16")
    with torch.no_grad():
        model.blocks[2].down.weight.zero_()
    rows = swept(model, fractions="0.5").table.to_pylist()
    assert [row["below_noise"] for row in rows if row["layer"] == 2] == [True]
    assert rows[2]["effect_log_prob"] == 0.0
    monkeypatch.setattr("lesion.experiments.measuring.noise_floor", lambda *_: 0.0)
    assert not any(swept(model, fractions="0.5").table["below_noise"].to_pylist())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_full_precision_has_no_noise_floor(dtype: str) -> None:
    run = swept(tiny_model("gpt2", dtype))
    assert run.measuring.noise_floor is None
    assert run.table["below_noise"].null_count == len(run.table)


def test_a_row_without_an_effect_is_neither_above_nor_below_the_noise() -> None:
    rows = swept(half("bfloat16"), fractions="0.001,0.5").table.to_pylist()
    assert {row["status"]: row["below_noise"] is None for row in rows} == {
        "empty": True, "ok": False,
    }  # fmt: skip


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float64"])
def test_weights_are_float32_whatever_the_checkpoint_stores(tmp_path: Path, stored: str) -> None:
    model = tiny_model("llama", stored)
    model.hf_model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == stored
    loaded = lesion.load(tmp_path, device="cpu")
    assert loaded.dtype == "float32"
    assert {parameter.dtype for parameter in loaded.hf_model.parameters()} == {torch.float32}
    assert swept(loaded).manifest.model.dtype == "float32"
    assert lesion.load(tmp_path, device="cpu", dtype=stored).dtype == stored
