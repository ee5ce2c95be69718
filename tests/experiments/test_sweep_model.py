"""What a sweep does to its model: nothing that lasts; and what it says if the model ignores it."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
import torch
from families import tiny_model
from sweep_cells import PROMPT, SITES, TARGET
from torch import nn
from torch.nn.functional import gelu

import lesion
from lesion.errors import LesionNotApplied
from lesion.models.language_model import LanguageModel

Tiny = Callable[..., LanguageModel]
Forward = Callable[[torch.Tensor], torch.Tensor]

WORDS = (
    {"fractions": "0.1,0.5", "hidden_norm": True},
    {"fractions": "0.1,0.5", "site": "post", "scope": "all", "select": "bottom", "replace": "zero"},
    {"fractions": "0.1,0.5", "site": "out", "select": "random:2", "replace": "mean"},
    {"fractions": "0.1,0.5", "scope": "cumulative", "rank": "write", "rank_on": "clean"},
)
"""Four sweeps that hook different modules."""


def table_of(model: LanguageModel, **words: Any) -> pa.Table:
    """The table of a sweep of the common prompt and target."""
    return lesion.sweep(model, PROMPT, TARGET, **words).table


def hooks_of(model: LanguageModel) -> list[tuple[str, str, int]]:
    """Every hook of every module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        (name, kind, key)
        for name, module in model.hf_model.named_modules()
        for kind in kinds
        for key in getattr(module, kind)
    ]


@pytest.mark.parametrize("engine", ["packed", "reference"])
@pytest.mark.parametrize("words", WORDS)
def test_modes_weights_and_hooks_are_as_before(words: dict[str, Any], engine: str) -> None:
    model, words = tiny_model("gpt2"), words | {"engine": engine}
    evaluated = table_of(model, **words)
    for module in model.hf_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.hf_model.train()
    model.hf_model.transformer.h[1].eval()
    modes = [module.training for module in model.hf_model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.hf_model.state_dict().items()}
    if engine == "reference":
        model.hf_model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda *_: None)
    hooks = hooks_of(model)
    assert len(hooks) == (engine == "reference")
    assert table_of(model, **words).equals(evaluated)
    assert [module.training for module in model.hf_model.modules()] == modes
    assert hooks_of(model) == hooks
    assert all(torch.equal(weights[name], now) for name, now in model.hf_model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())


@pytest.mark.parametrize("passes", [0, 1, 3])
@pytest.mark.parametrize("words", WORDS[:3])
def test_modes_and_hooks_are_as_before_if_a_pass_raises(words: dict[str, Any], passes: int) -> None:
    model = tiny_model("gpt2")
    model.hf_model.train()
    begun: list[int] = []

    def fail_later(*_: object) -> None:
        begun.append(1)
        if len(begun) > passes:
            raise MemoryError("no more memory")

    handle = model.hf_model.transformer.h[1].mlp.register_forward_hook(fail_later)
    hooks = hooks_of(model)
    with pytest.raises(MemoryError, match="no more memory"):
        table_of(model, **words)
    assert len(begun) == passes + 1
    assert hooks_of(model) == hooks
    assert all(module.training for module in model.hf_model.modules())
    handle.remove()
    assert table_of(model, **words).equals(table_of(tiny_model("gpt2"), **words))


def test_a_model_with_hooks_of_its_own_is_left_to_the_reference_engine() -> None:
    model = tiny_model("gpt2")
    handle = model.hf_model.transformer.h[1].mlp.register_forward_hook(lambda *_: None)
    run = lesion.sweep(model, PROMPT, TARGET, fractions=0.5)
    assert (run.measuring.engine, run.measuring.reason) == (
        "reference",
        "auto: it carries hooks of its own, which may mean another token than the packed rows",
    )
    handle.remove()
    assert lesion.sweep(model, PROMPT, TARGET, fractions=0.5).measuring.engine == "packed"


# A lesion that leaves no trace


@pytest.fixture
def bent() -> Iterator[Callable[[Callable[[nn.Module], Forward]], LanguageModel]]:
    """Gives a GPT-2 whose block 1 has another MLP forward, made from the MLP."""

    def bend(forward_of: Callable[[nn.Module], Forward]) -> LanguageModel:
        model = tiny_model("gpt2")
        mlp = model.hf_model.transformer.h[1].mlp
        mlp.forward = forward_of(mlp)
        return model

    return bend


def ignore_modules(_: nn.Module) -> Forward:
    """Computes something else."""
    return lambda x: x / 2


def expand_twice(mlp: nn.Module) -> Forward:
    """Runs `c_fc`, hooks and all, but goes on with the result of another call."""
    return lambda x: (mlp.c_fc(x), mlp.c_proj(mlp.act(mlp.c_fc.forward(x))))[1]


def expand_by_hand(mlp: nn.Module) -> Forward:
    """The same, but the other result is rounded in another way."""
    return lambda x: (
        mlp.c_fc(x),
        mlp.c_proj(mlp.act(mlp.c_fc.bias + (x.flip(-1) @ mlp.c_fc.weight.flip(0)))),
    )[1]


def activate_by_hand(mlp: nn.Module) -> Forward:
    """The same without the activation module."""
    return lambda x: (mlp.c_fc(x), mlp.c_proj(gelu(mlp.c_fc.forward(x), approximate="tanh")))[1]


@pytest.mark.parametrize("scope", ["each", "all"])
@pytest.mark.parametrize("site", SITES)
def test_an_mlp_that_ignores_its_modules_is_refused(bent: Any, site: str, scope: str) -> None:
    model = bent(ignore_modules)
    with pytest.raises(LesionNotApplied) as error:
        table_of(
            model,
            fractions=0.3,
            site=site,
            scope=scope,
            rank_on="clean" if site == "out" else "lesioned",
        )
    assert str(error.value) == (
        f"lesion at site {site} of layers {'(0, 1, 2)' if scope == 'all' else '(1,)'}: "
        f"block 1 never ran its {site} there. "
        "A lesion changes the vector that it is applied to. "
        "The MLP of this model does not run where its family says: report the model's name."
    )
    assert hooks_of(model) == []
    assert len(table_of(model, fractions=0.3, site=site, layers="0,2")) == 2


def test_an_edit_that_the_model_does_not_go_on_with_is_refused(bent: Any) -> None:
    with pytest.raises(LesionNotApplied) as error:
        table_of(bent(expand_twice), fractions=0.3, layers=1)
    assert str(error.value) == (
        "lesion at site pre of layers (1,): block 1 went on with another vector than the edited. "
        "A lesion changes the vector that it is applied to. "
        "The MLP of this model does not run where its family says: report the model's name."
    )


@pytest.mark.parametrize("forward_of", [expand_by_hand, activate_by_hand])
def test_an_edit_beside_the_path_of_the_model_is_refused(bent: Any, forward_of: Any) -> None:
    with pytest.raises(LesionNotApplied):
        table_of(bent(forward_of), fractions=0.3, layers=1)


@pytest.mark.parametrize("scope", ["each", "all"])
def test_zeroing_what_is_zero_is_no_error(scope: str) -> None:
    model = tiny_model("gpt2")
    expansion = model.hf_model.transformer.h[1].mlp.c_fc
    with torch.no_grad():
        expansion.weight[:, 7], expansion.bias[7] = 0.0, 0.0
    select = lesion.neuron_set([(1, 7)])
    (row,) = table_of(model, select=select, replace="zero", scope=scope).to_pylist()
    assert (row["status"], row["neurons"], row["changed"]) == ("ok", 1, 0)
    evidence = ("largest_change", "removed_post", "effect_logit", "effect_log_prob", "kl")
    assert [row[name] for name in evidence] == [0.0] * 5
    (other,) = table_of(model, select=select, replace="constant:1", scope=scope).to_pylist()
    assert other["changed"] == 1
    assert abs(other["effect_log_prob"]) > 1e-3
