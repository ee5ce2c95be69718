"""Batches: every prompt once, the beginnings of one text together, and as many rows as fit."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.engines import batches as batches_module
from lesion.engines.batches import MOST_TEXTS, Batch, batches, default_rows
from lesion.prompts import Prompt

CPU = torch.device("cpu")


def prompts_of(*token_ids: Sequence[int]) -> list[Prompt]:
    """A prompt each."""
    return [Prompt(n, "", tuple(ids), "x", 0) for n, ids in enumerate(token_ids)]


def made(prompts: Sequence[Prompt], rows: int = 10, most: int = 1000) -> list[Batch]:
    """All prompts in batches."""
    return list(batches(prompts, range(len(prompts)), rows, most))


def places(found: Sequence[Batch]) -> list[tuple[tuple[int, ...], ...]]:
    """Which prompts are where."""
    return [batch.places for batch in found]


def test_prompts_that_begin_one_another_share_a_text() -> None:
    found = made(prompts_of([1], [1, 2], [1, 2, 3], [5, 6], [1, 2, 3, 4]))
    assert places(found) == [((3,),), ((0, 1, 2, 4),)]
    text = found[1]
    assert text.positions(CPU).tolist() == [[0, 1, 2, 3]]
    assert text.last_tokens(CPU).tolist() == [[1, 2, 3, 4]]
    assert text.prefix_tokens(CPU).tolist() == [[1, 2, 3, 0, 0, 0, 0, 0]]


def test_a_prompt_that_begins_several_belongs_to_one_of_them() -> None:
    found = made(prompts_of([1], [1, 5], [1, 3]))
    assert sorted(place for batch in found for text in batch.places for place in text) == [0, 1, 2]
    for batch in found:
        for questions in batch.prompts:
            longest = max((p.token_ids for p in questions), key=len)
            assert all(longest[: len(p.token_ids)] == p.token_ids for p in questions)


def test_equal_prompts_are_questions_of_one_text() -> None:
    found = made(prompts_of([4, 7], [4, 7], [9]))
    assert places(found) == [((2,),), ((0, 1),)]
    assert found[1].positions(CPU).tolist() == [[1, 1]]


def test_prompts_that_share_nothing_stand_side_by_side_padded_on_the_right() -> None:
    found = made(prompts_of([1, 2, 3, 4], [5, 6], [7]))
    assert places(found) == [((2,), (1,), (0,))]
    (batch,) = found
    # To a multiple of eight, which is how rows are summed in one order.
    assert batch.prefix_tokens(CPU)[:, :3].tolist() == [[0, 0, 0], [5, 0, 0], [1, 2, 3]]
    assert batch.prefix_tokens(CPU)[:, 3:].tolist() == [[0] * 5] * 3
    assert batch.positions(CPU).tolist() == [[0], [1], [3]]
    assert batch.last_tokens(CPU).tolist() == [[7], [6], [4]]


def test_a_prompt_of_one_token_has_no_prefix() -> None:
    (batch,) = made(prompts_of([7]))
    assert batch.prefix_tokens(CPU).shape == (1, 0)
    assert batch.prefix_tokens(CPU).dtype == torch.int64


def test_no_prompt_no_batch() -> None:
    assert made([]) == []


@pytest.mark.parametrize(
    ("rows", "most", "sizes"),
    [(10, 1000, [32, 8]), (10, 160, [10] * 4), (10, 32, [2] * 20), (10, 9, [1] * 40)],
)
def test_as_many_texts_side_by_side_as_there_are_rows(
    rows: int, most: int, sizes: list[int]
) -> None:
    found = made(prompts_of(*([n] for n in range(40))), rows, most)
    assert [len(batch.prompts) for batch in found] == sizes
    assert max(sizes) <= MOST_TEXTS == 32


def test_only_the_prompts_that_are_asked_for() -> None:
    prompts = prompts_of([1], [1, 2], [3], [1, 2, 3])
    assert places(list(batches(prompts, [3, 1], 5, 100))) == [((1, 3),)]
    assert places(list(batches(prompts, [2, 0], 5, 100))) == [((0,), (2,))]


def test_questions_are_split_a_few_at_a_time() -> None:
    (batch,) = made(prompts_of([1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5]))
    parts = list(batch.split(2))
    assert places(parts) == [((0, 1),), ((2, 3),), ((4,),)]
    assert [part.positions(CPU).tolist() for part in parts] == [[[0, 1]], [[2, 3]], [[4]]]
    assert places(list(batch.split(5))) == places(list(batch.split(99))) == places([batch])


def test_keys_are_those_of_the_prompts() -> None:
    prompts = prompts_of([1], [1, 2], [3])
    for batch in made(prompts):
        for keys, at in zip(batch.keys, batch.places, strict=True):
            assert keys == [prompts[place].key for place in at]


TOKEN_IDS = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(TOKEN_IDS, max_size=15), st.integers(1, 9), st.integers(1, 60), st.integers(1, 4))
def test_every_prompt_is_measured_exactly_once(
    token_ids: list[list[int]], rows: int, most: int, questions: int
) -> None:
    prompts = prompts_of(*token_ids)
    seen = []
    for batch in made(prompts, rows, most):
        counts = {len(each) for each in batch.prompts}
        assert len(counts) == 1, "every text of a batch has as many questions"
        assert len(batch.prompts) == 1 or counts == {1}
        assert len(batch.prompts) <= max(1, most // rows)
        for part in batch.split(questions):
            positions, last = part.positions(CPU), part.last_tokens(CPU)
            for text, (asked, at) in enumerate(zip(part.prompts, part.places, strict=True)):
                seen.extend(at)
                for question, (prompt, place) in enumerate(zip(asked, at, strict=True)):
                    assert prompt is prompts[place]
                    end = int(positions[text, question])
                    assert end == len(prompt.token_ids) - 1
                    assert int(last[text, question]) == prompt.token_ids[-1]
                    # What its row sees is its own text, up to its own token.
                    prefix = batch.prefix_tokens(CPU)[text, :end].tolist()
                    assert [*prefix, prompt.token_ids[-1]] == list(prompt.token_ids)
    assert sorted(seen) == list(range(len(prompts)))


@settings(max_examples=50, deadline=None)
@given(st.lists(TOKEN_IDS, min_size=1, max_size=12), st.randoms())
def test_texts_do_not_depend_on_the_order_of_the_prompts(
    token_ids: list[list[int]], random: Any
) -> None:
    def texts(prompts: list[Prompt]) -> set[tuple[tuple[int, ...], ...]]:
        return {
            tuple(sorted(p.token_ids for p in questions))
            for batch in made(prompts)
            for questions in batch.prompts
        }

    prompts = prompts_of(*token_ids)
    shuffled = list(prompts)
    random.shuffle(shuffled)
    assert texts(prompts) == texts(shuffled)


# How many rows


@pytest.mark.parametrize("memory", [0, 1, 10_000, 10**6, 10**8, 2**40])
def test_rows_come_in_eights_and_there_are_some(memory: int) -> None:
    model = tiny_model("gpt2")
    rows = default_rows(model, 10, memory)
    assert rows % 8 == 0
    assert rows >= 8
    numbers = 16 * 16 + 6 * 48 + 4 * 4 * 11
    assert rows == 8 or rows * numbers * 8 <= memory
    assert (rows + 8) * numbers * 8 > memory


def test_longer_prompts_and_wider_numbers_take_fewer_rows() -> None:
    wide, narrow, half = (tiny_model("gpt2", dtype) for dtype in ("float64", "float32", "bfloat16"))
    assert default_rows(wide, 10, 10**8) < default_rows(narrow, 10, 10**8)
    # Much of it is computed in float32.
    assert default_rows(half, 10, 10**8) == default_rows(narrow, 10, 10**8)
    assert default_rows(narrow, 1000, 10**8) < default_rows(narrow, 10, 10**8)


def test_rows_follow_from_the_whole_memory_and_not_from_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, asked = tiny_model("gpt2"), []

    def sysconf(name: str) -> int:
        asked.append(name)
        return {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}[name]  # a gibibyte

    monkeypatch.setattr(batches_module, "os", SimpleNamespace(sysconf=sysconf))
    assert default_rows(model, 10, None) == default_rows(model, 10, 2**27)
    assert set(asked) == {"SC_PAGE_SIZE", "SC_PHYS_PAGES"}


def test_a_large_machine_gives_half_a_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    monkeypatch.setattr(batches_module, "_machine_bytes", lambda: 2**40)
    assert default_rows(model, 10, None) == default_rows(model, 10, 512 * 2**20)


@pytest.mark.parametrize("missing", [AttributeError, ValueError])
def test_a_system_that_does_not_tell_its_memory_has_four_gibibytes(
    monkeypatch: pytest.MonkeyPatch, missing: type[Exception]
) -> None:
    def sysconf(_: str) -> int:
        raise missing

    monkeypatch.setattr(batches_module, "os", SimpleNamespace(sysconf=sysconf))
    assert batches_module._machine_bytes() == 4 * 2**30


def test_a_gpu_gives_an_eighth_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2**33)
    )
    fake = SimpleNamespace(
        device=torch.device("cuda"), blocks=model.blocks, config=model.config,
        hf_model=model.hf_model,
    )  # fmt: skip
    unchecked = getattr(default_rows, "__wrapped__", default_rows)
    while hasattr(unchecked, "__wrapped__"):
        unchecked = unchecked.__wrapped__
    assert unchecked(fake, 10, None) == default_rows(model, 10, 2**30)
