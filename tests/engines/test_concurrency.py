"""Threads that lesion one model at once get the tables of one thread, and leave no trace.

What a call changes for its time is seen by all who run the same modules (hooks, modes) or have the
same configuration (the name of its attention), so such calls wait for each other. Here a pass takes
a rest in its middle block: calls that did not wait would meet there.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from families import tiny_model
from sweep_cells import PROMPT, TARGET
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import lesion
from lesion.models.language_model import LanguageModel

THREADS, ROUNDS = 4, 3
REST_SECONDS = 0.002
BARRIER_SECONDS = 30

WORDS: tuple[dict[str, Any], ...] = (
    {"hidden_norm": True},
    {"site": "post", "scope": "all", "select": "bottom", "replace": "zero", "engine": "packed"},
    {"site": "out", "select": "random:2", "replace": "mean", "engine": "reference"},
    {"scope": "cumulative", "rank": "write", "rank_on": "clean", "engine": "packed"},
)
"""One sweep a thread: they hook different modules, and only some replace the attention."""


def one_for_all() -> list[LanguageModel]:
    """All threads use one object."""
    return [tiny_model("llama")] * THREADS


def one_each_of_the_same_modules() -> list[LanguageModel]:
    """Each thread has its own object, around the same Hugging Face model."""
    first = tiny_model("llama")
    return [lesion.load(hf_model=first.hf_model, tokenizer=first.tokenizer) for _ in range(THREADS)]


def one_each_of_one_configuration() -> list[LanguageModel]:
    """Each thread has its own weights, made from the same configuration object."""
    first = tiny_model("llama")
    words = {"tokenizer": first.tokenizer, "dtype": "float64", "device": "cpu"}
    return [
        lesion.load(config=first.config, random_weights=seed, **words) for seed in range(THREADS)
    ]


def table_of(model: LanguageModel, words: dict[str, Any]) -> pa.Table:
    """The table of a sweep of the common prompt and target."""
    return lesion.sweep(model, PROMPT, TARGET, fractions=0.5, **words).table


def state_of(model: LanguageModel) -> tuple[object, ...]:
    """The hooks, modes and attention of a model, and all attention functions there are."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    modules = list(model.hf_model.modules())
    return (
        [dict(getattr(module, kind)) for module in modules for kind in kinds],
        [module.training for module in modules],
        model.config._attn_implementation,
        dict(ALL_ATTENTION_FUNCTIONS),
    )


class Meetings:
    """Who was where at once: threads in a call, and threads in a middle block."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.calling = self.passing = 0
        self.most_calling = self.most_passing = 0

    def call(self, model: LanguageModel, words: dict[str, Any]) -> pa.Table:
        """The table of one thread's sweep."""
        with self.guard:
            self.calling += 1
        try:
            return table_of(model, words)
        finally:
            with self.guard:
                self.calling -= 1

    def rest_in(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A block's forward that rests, so that other threads go on, and looks who is there."""

        def resting(*args: Any, **words: Any) -> Any:
            with self.guard:
                self.passing += 1
                self.most_calling = max(self.most_calling, self.calling)
                self.most_passing = max(self.most_passing, self.passing)
            try:
                time.sleep(REST_SECONDS)
                return forward(*args, **words)
            finally:
                with self.guard:
                    self.passing -= 1

        return resting


@pytest.mark.parametrize(
    "models_of", [one_for_all, one_each_of_the_same_modules, one_each_of_one_configuration]
)
def test_threads_give_the_tables_of_one(
    models_of: Callable[[], list[LanguageModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_of()
    assert len({id(model.config) for model in models}) == 1
    networks = {id(model.hf_model): model for model in models}
    alone = {key: [table_of(model, words) for words in WORDS] for key, model in networks.items()}
    before = [state_of(model) for model in models]
    meetings, barrier = Meetings(), threading.Barrier(THREADS)
    for block in [model.blocks[1].module for model in networks.values()]:
        monkeypatch.setattr(block, "forward", meetings.rest_in(block.forward))

    def sweep(model: LanguageModel, which: int) -> pa.Table:
        barrier.wait(BARRIER_SECONDS)
        return meetings.call(model, WORDS[which])

    with ThreadPoolExecutor(THREADS) as threads:
        for turn in range(ROUNDS):
            turns = [(thread + turn) % len(WORDS) for thread in range(THREADS)]
            for model, which, table in zip(
                models, turns, threads.map(sweep, models, turns), strict=True
            ):
                assert table.equals(alone[id(model.hf_model)][which])
    assert [state_of(model) for model in models] == before
    assert meetings.most_calling == THREADS, "the calls never met"
    assert meetings.most_passing == 1, "two passes met"
