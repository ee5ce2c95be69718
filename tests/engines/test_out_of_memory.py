"""Out of memory halves the rows of a pass, until it fits or not even 8 rows do."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny_model

import lesion
from lesion.engines.engine import Outcome
from lesion.engines.packed import PackedEngine
from lesion.errors import OutOfMemory
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

TEXT = "w3 w17 w42 w8 w25"
PROMPT = Prompt(0, TEXT, (3, 17, 42, 8, 25), "w5", 5)
LESIONS = [
    Lesion(lesion.top(share), layers=layers)
    for layers in ((0,), (1,), (2,), (0, 1), (0, 1, 2))
    for share in (0.1, 0.3, 0.5, 0.9)
]
"""Twenty rows and the clean one."""
ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 8000000000 bytes. Error code 12 (Cannot allocate memory)\nsecond line"
)
SHORTAGES: dict[str, Callable[[], Exception]] = {
    "a GPU's": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "Python's": MemoryError,
    "numpy's": lambda: MemoryError("Unable to allocate 8 GiB"),
    "the CPU allocator's": lambda: RuntimeError(ALLOCATOR),
    "Windows'": lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried 8"),
}

Tight = Callable[[LanguageModel, int, Callable[[], Exception]], list[int]]


@functools.cache
def model() -> LanguageModel:
    """The model of all tests."""
    return tiny_model("gpt2")


@functools.cache
def unhindered() -> Outcome:
    """What there is to be measured."""
    return PackedEngine(model()).run(PROMPT, LESIONS, hidden_norm=True, direct=True)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tight]:
    """Leaves room for so many rows (and the prefix) in the last block; gives the sizes it saw."""

    def tighten(model: LanguageModel, rows: int, error: Callable[[], Exception]) -> list[int]:
        block, seen = model.blocks[-1].module, []
        forward = block.forward

        def narrow(hidden: torch.Tensor, *args: Any, **words: Any) -> Any:
            seen.append(hidden.shape[0] * hidden.shape[1])
            if seen[-1] > rows:
                raise error()
            return forward(hidden, *args, **words)

        monkeypatch.setattr(block, "forward", narrow)
        return seen

    return tighten


def differences(one: Outcome, other: Outcome) -> float:
    """The largest difference between any two numbers; infinite where only one is NaN."""
    largest = 0.0
    for part in ("clean", "lesioned", "evidence", "direct"):
        for field in dataclasses.fields(getattr(one, part)):
            pair = [
                np.asarray(getattr(getattr(outcome, part), field.name)).astype(float)
                for outcome in (one, other)
            ]
            assert np.array_equal(np.isnan(pair[0]), np.isnan(pair[1])), (part, field.name)
            largest = max(largest, float(np.nan_to_num(np.abs(pair[0] - pair[1])).max()))
    return max(largest, float(np.abs(one.hidden_norm - other.hidden_norm).max()))


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_halved_passes_measure_the_same(tight: Tight, shortage: str) -> None:
    expected = unhindered()
    seen = tight(model(), 24, SHORTAGES[shortage])
    engine = PackedEngine(model(), most_rows=64)
    told: list[tuple[int, int]] = []
    found = engine.run(
        PROMPT, LESIONS, hidden_norm=True, direct=True, progress=lambda *at: told.append(at)
    )
    assert differences(found, expected) <= 1e-9
    assert np.array_equal(found.evidence.signature, expected.evidence.signature)
    # 64 and 32 carry all 21 rows at once; 16 carry half of them, and 8 slots of prefix.
    assert (engine.halvings, engine.rows_in_pass, engine.most_rows) == (2, 16, 64)
    assert min(seen[:2]) > 24
    assert max(seen[2:]) <= 24
    assert told[-1] == (20, 20)
    assert all(done <= total == 20 for done, total in told)


@pytest.mark.parametrize(("room", "halvings"), [(32, 0), (24, 1), (16, 2)])
def test_only_as_many_halvings_as_it_takes(tight: Tight, room: int, halvings: int) -> None:
    expected = unhindered()
    tight(model(), room, SHORTAGES["the CPU allocator's"])
    engine = PackedEngine(model(), most_rows=32)
    found = engine.run(PROMPT, LESIONS, hidden_norm=True, direct=True)
    assert engine.halvings == halvings
    assert differences(found, expected) <= 1e-9


def test_a_later_call_goes_on_with_the_rows_that_fitted(tight: Tight) -> None:
    seen = tight(model(), 16, SHORTAGES["a GPU's"])
    engine = PackedEngine(model(), most_rows=32)
    engine.run(PROMPT, LESIONS)
    assert (halvings := engine.halvings) > 0
    seen.clear()
    engine.run(PROMPT, LESIONS)
    assert engine.halvings == halvings
    assert max(seen) <= 16


def test_the_run_says_how_often_the_rows_were_halved(
    tight: Tight, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine whose memory carries 32 rows of this model.
    monkeypatch.setattr("lesion.engines.packed.default_rows", lambda *_: 32)
    words: dict[str, Any] = {"fractions": "0.1,0.3,0.5,0.9", "scope": "cumulative"}
    before = lesion.sweep(model(), TEXT, "w5", **words)
    assert (before.measuring.halvings, before.measuring.rows_in_pass) == (0, 32)
    told: list[tuple[int, int]] = []
    # The self-check's own batches of three prompts of five tokens fit.
    tight(model(), 16, SHORTAGES["the CPU allocator's"])
    run = lesion.sweep(model(), TEXT, "w5", **words, progress=lambda *at: told.append(at))
    assert (run.measuring.halvings, run.measuring.rows_in_pass) == (2, 8)
    assert told[-1] == (12, 12)
    assert all(done <= total for done, total in told)
    for mine, other in zip(run.table.to_pylist(), before.table.to_pylist(), strict=True):
        assert mine["effect_log_prob"] == pytest.approx(other["effect_log_prob"], abs=1e-9)
        assert mine["neurons"] == other["neurons"]


def test_what_was_done_before_the_shortage_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, block, calls = unhindered(), model().blocks[-1].module, [0]
    forward = block.forward

    def short_once(*args: Any, **words: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:  # the second pass of the prompt
            raise MemoryError("just now")
        return forward(*args, **words)

    monkeypatch.setattr(block, "forward", short_once)
    engine, told = PackedEngine(model(), most_rows=16), []
    found = engine.run(
        PROMPT, LESIONS, hidden_norm=True, direct=True, progress=lambda *at: told.append(at)
    )
    assert engine.halvings == 1
    assert differences(found, expected) <= 1e-9
    assert told[0][0] == 10
    assert told[-1] == (20, 20)
    assert max(done for done, _ in told) == 20


@pytest.mark.parametrize("room", [40, 20])
def test_several_prompts_are_measured_a_few_at_a_time(tight: Tight, room: int) -> None:
    prompts = [Prompt(i, "", (i, 7, 11), "w5", 5) for i in range(20)]
    lesions = LESIONS[:3]
    expected = PackedEngine(model()).run_many(prompts, lesions)
    # One prompt alone takes 16 slots: 8 of its prefix and 8 of its rows.
    seen = tight(model(), room, SHORTAGES["the CPU allocator's"])
    told: list[tuple[int, int]] = []
    engine = PackedEngine(model(), most_rows=128)
    found = engine.run_many(prompts, lesions, progress=lambda *at: told.append(at))
    assert engine.halvings > 0
    assert any(size > room for size in seen)
    for mine, other in zip(found, expected, strict=True):
        assert np.allclose(mine.lesioned.log_prob, other.lesioned.log_prob, rtol=0, atol=1e-9)
        assert np.array_equal(mine.evidence.signature, other.evidence.signature)
    assert told[-1] == (60, 60)
    assert max(done for done, _ in told) == 60


def test_every_token_of_a_text_fits_as_well(tight: Tight) -> None:
    expected = lesion.sweep(model(), TEXT, position="every", fractions="0.1,0.5")
    tight(model(), 16, SHORTAGES["a GPU's"])
    run = lesion.sweep(model(), TEXT, position="every", fractions="0.1,0.5", self_check=False)
    assert run.measuring.halvings > 0
    effects = [table["effect_log_prob"].to_pylist() for table in (run.table, expected.table)]
    assert np.allclose(*effects, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("shortage", "found"),
    [
        ("a GPU's", "CUDA out of memory. Tried to allocate 2 GiB"),
        ("Python's", "MemoryError"),
        ("numpy's", "Unable to allocate 8 GiB"),
        ("the CPU allocator's", ALLOCATOR.splitlines()[0]),
    ],
)
def test_a_prompt_that_does_not_fit_at_all_is_refused(
    tight: Tight, shortage: str, found: str
) -> None:
    tight(model(), 0, SHORTAGES[shortage])
    engine = PackedEngine(model(), most_rows=40)
    told: list[tuple[int, int]] = []
    with pytest.raises(OutOfMemory) as error:
        engine.run(PROMPT, LESIONS, progress=lambda *at: told.append(at))
    assert str(error.value) == (
        f"lesions of random gpt2: not even 8 rows at a time fit: {found}. "
        "A pass holds the prompt's tokens and some rows beside the model's weights. "
        "Shorten the prompt, or use a machine with more memory."
    )
    assert isinstance(error.value, MemoryError)
    assert error.value.__cause__ is not None
    assert told == []
    assert engine.halvings == 2


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no"), KeyError()],
)
def test_every_other_error_is_what_it_is(tight: Tight, error: Exception) -> None:
    seen = tight(model(), 0, lambda: error)
    engine = PackedEngine(model(), most_rows=64)
    with pytest.raises(type(error)) as raised:
        engine.run(PROMPT, LESIONS)
    assert raised.value is error
    assert len(seen) == 1
    assert engine.halvings == 0
