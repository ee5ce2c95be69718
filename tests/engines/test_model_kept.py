"""Whatever happens in an engine call, the model and the process are as they were before it.

Every stage of a pass is made to raise, in its first use and in a later chunk of the same prompt.
Stages are broken by replacing a function, never by a hook: the packed engine refuses a model with
hooks that it does not know.
"""

import dataclasses
import importlib
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny_model
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import lesion
from lesion.engines.engine import Engine, Outcome
from lesion.engines.packed import PackedEngine
from lesion.engines.reference import ReferenceEngine
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

ATTENTION = {"gpt2": "attn", "llama": "self_attn", "opt": "self_attn", "gemma2": "self_attn"}
PROMPT = Prompt(0, "w3 w17 w42 w8 w25", (3, 17, 42, 8, 25), "w5", 5)
LESIONS = [
    Lesion(lesion.top(0.3), replace, site, (layer,))
    for site, replace in (("pre", "median"), ("post", "zero"), ("out", "mean"))
    for layer in range(3)
]
"""Nine lesions: two passes of at most 8 rows."""


class Broken(Exception):
    """What a broken stage raises; no error of the package, and no want of memory."""


@dataclasses.dataclass(frozen=True)
class State:
    """Everything that an engine call must leave as it was."""

    hooks: list[tuple[str, str, int]]
    modes: list[bool]
    own_names: list[list[str]]
    attention: str | None
    functions: dict[str, int]
    precision: str
    gradients: bool
    inference: bool
    weights: dict[str, bytes]
    lock_is_free: bool


def state_of(model: LanguageModel) -> State:
    """The state of a model and of what the process shares with it."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    named = list(model.hf_model.named_modules())
    return State(
        hooks=[
            (name, kind, key) for name, m in named for kind in kinds for key in getattr(m, kind)
        ],
        modes=[module.training for _, module in named],
        own_names=[sorted(vars(module)) for _, module in named],
        attention=model.config._attn_implementation,
        functions={name: id(function) for name, function in ALL_ATTENTION_FUNCTIONS.items()},
        precision=torch.get_float32_matmul_precision(),
        gradients=torch.is_grad_enabled(),
        inference=torch.is_inference_mode_enabled(),
        weights={name: t.numpy().tobytes() for name, t in model.hf_model.state_dict().items()},
        lock_is_free=lock_is_free(model),
    )


def lock_is_free(model: LanguageModel) -> bool:
    """Whether another thread can have the model's lock."""
    found: list[bool] = []

    def try_it() -> None:
        found.append(model.lock.acquire(blocking=False))
        if found[0]:
            model.lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return found[0]


def run(engine: Engine, **words: Any) -> Outcome:
    """All lesions, with everything that can be measured."""
    return engine.run(PROMPT, LESIONS, hidden_norm=True, direct=True, **words)


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes have the same bits."""
    return all(
        np.array_equal(getattr(part(one), field.name), getattr(part(other), field.name), True)
        for part in (lambda o: o.clean, lambda o: o.lesioned, lambda o: o.evidence,
                     lambda o: o.direct)
        for field in dataclasses.fields(part(one))
    ) and np.array_equal(one.hidden_norm, other.hidden_norm)  # fmt: skip


@cache
def prepared(model_type: str) -> tuple[LanguageModel, Outcome]:
    """A model with dropout of mixed modes, and the undisturbed outcome in passes of 8 rows."""
    model = tiny_model(model_type)
    undisturbed = run(PackedEngine(model, most_rows=8))
    for module in model.hf_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.hf_model.train()
    model.blocks[1].module.eval()
    return model, undisturbed


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """A precision that is neither the default nor the engines' own."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


Stage = tuple[object, str]


def stages_of(model: LanguageModel) -> dict[str, Stage]:
    """Where a pass can break: an owner and the name of its function."""
    attention = ATTENTION[model.config.model_type]
    modules: dict[str, nn.Module] = {"embedding": model.hf_model.get_input_embeddings()}
    for layer in (0, 2):
        block = model.blocks[layer]
        modules[f"block {layer}"] = block.module
        modules[f"attention {layer}"] = block.module.get_submodule(attention)
        for word in ("pre", "activation", "up", "down"):
            module = getattr(block, word)
            if module is not None:
                modules[f"{word} {layer}"] = module
    modules["norm"], modules["head"] = model.tail[0], model.tail[-1]
    return {name: (module, "forward") for name, module in modules.items()} | {
        "logits_of": (model, "logits_of"),
    }


FUNCTIONS = {
    "metrics": "lesion.engines.carried.measure",
    "attention of the rows": "lesion.engines.attention.attend",
    "the prefix that is kept": "lesion.engines.attention._seen",
    "ranking": "lesion.engines.row_edits.ranks",
    "replacement": "lesion.engines.row_edits.replacement_values",
    "head": "lesion.engines.carried._metrics",
    "joining of the passes": "lesion.engines.packed.joined",
}
MODEL_STAGES = (
    "embedding", "block 0", "attention 0", "pre 0", "activation 0", "up 0", "down 0",
    "block 2", "attention 2", "pre 2", "activation 2", "up 2", "down 2", "norm", "head",
    "logits_of",
)  # fmt: skip


def breaking(function: Callable[..., Any], error: type[BaseException], calls: int) -> Any:
    """The function, which raises after so many calls; until then it looks at the process."""
    made = [0]

    def broken(*args: Any, **words: Any) -> Any:
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.is_inference_mode_enabled()
        made[0] += 1
        if made[0] > calls:
            raise error("a broken stage")
        return function(*args, **words)

    return broken


def check_kept(
    model: LanguageModel, owner: object, name: str, error: type[BaseException], calls: int
) -> None:
    """Break one function of a packed run; see that all is as before."""
    before = state_of(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, breaking(getattr(owner, name), error, calls))
        with pytest.raises(error, match="a broken stage"):
            run(PackedEngine(model, most_rows=8))
    assert state_of(model) == before


@pytest.mark.parametrize("model_type", ATTENTION)
def test_the_model_is_as_before_if_one_of_its_modules_raises(model_type: str) -> None:
    model, undisturbed = prepared(model_type)
    stages = stages_of(model)
    missing = {stage for stage in MODEL_STAGES if stage not in stages}
    assert missing == (set() if model_type in ("llama", "gemma2") else {"up 0", "up 2"})
    for stage, (owner, name) in stages.items():
        check_kept(model, owner, name, Broken, calls=0)
        if stage in ("attention 0", "attention 2", "down 2", "logits_of"):
            # Once a pass: this is the second pass, which reads the keys that the first one kept.
            check_kept(model, owner, name, KeyboardInterrupt, calls=1)
    assert same(run(PackedEngine(model, most_rows=8)), undisturbed)


@pytest.mark.parametrize("stage", FUNCTIONS)
def test_the_model_is_as_before_if_one_of_our_functions_raises(stage: str) -> None:
    model, undisturbed = prepared("llama")
    path, name = FUNCTIONS[stage].rsplit(".", 1)
    module = importlib.import_module(path)
    check_kept(model, module, name, Broken, calls=0)
    if stage != "joining of the passes":  # it joins the passes of one prompt once
        check_kept(model, module, name, KeyboardInterrupt, calls=1)
    assert same(run(PackedEngine(model, most_rows=8)), undisturbed)


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_the_model_is_as_before_if_the_callers_progress_raises(
    error: type[BaseException], calls: int
) -> None:
    model, undisturbed = prepared("gpt2")
    before, told = state_of(model), []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) > calls:
            raise error("a broken stage")

    with pytest.raises(error, match="a broken stage"):
        run(PackedEngine(model, most_rows=8), progress=progress)
    assert len(told) == calls + 1
    assert state_of(model) == before
    assert same(run(PackedEngine(model, most_rows=8)), undisturbed)


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["attention 2", "pre 0", "down 2", "head"])
def test_the_reference_engine_keeps_the_model_as_well(
    stage: str, error: type[BaseException]
) -> None:
    model, _ = prepared("gemma2")
    owner, name = stages_of(model)[stage]
    before = state_of(model)
    for calls in (0, 1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, breaking(getattr(owner, name), error, calls))
            with pytest.raises(error, match="a broken stage"):
                ReferenceEngine(model).run(PROMPT, LESIONS[:4], hidden_norm=True, direct=True)
        assert state_of(model) == before


@pytest.mark.parametrize("model_type", ATTENTION)
def test_a_run_that_ends_well_leaves_everything_as_before(model_type: str) -> None:
    model, undisturbed = prepared(model_type)
    before = state_of(model)
    assert same(run(PackedEngine(model, most_rows=8)), undisturbed)
    assert state_of(model) == before
    found = lesion.sweep(model, "w3 w17 w42", fractions="0.1", position="every")
    assert found.manifest.model.attention == before.attention
    assert state_of(model) == before


def test_the_attention_that_the_caller_chose_is_left_alone() -> None:
    model = tiny_model("llama", "float32")
    model.hf_model.set_attn_implementation("eager")
    before = state_of(model)
    assert before.attention == "eager"
    with pytest.MonkeyPatch.context() as patch:
        owner, name = stages_of(model)["down 2"]
        patch.setattr(owner, name, breaking(getattr(owner, name), Broken, 0))
        with pytest.raises(Broken):
            run(PackedEngine(model))
    run(PackedEngine(model))
    assert state_of(model) == before


@pytest.mark.parametrize("model_type", ATTENTION)
def test_what_a_run_returns_does_not_keep_the_model_from_learning(model_type: str) -> None:
    model = tiny_model(model_type)
    run(PackedEngine(model))
    model.hf_model(torch.tensor([PROMPT.token_ids])).logits.sum().backward()
    gradients = [parameter.grad for parameter in model.hf_model.parameters()]
    assert all(gradient is not None for gradient in gradients)
