"""Which engine runs what: the packed one where it is proved, else the reference engine, and why."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from families import MASKED_TYPES, PACKED_TYPES, REFERENCE_TYPES, tiny_model

import lesion
from lesion.engines.choosing import choose_engine
from lesion.engines.packed import PackedEngine
from lesion.engines.proved import unproved_model
from lesion.errors import EngineRefused
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt
from lesion.runs.run import Run

tiny = cache(tiny_model)
TEXT = "w3 w17 w42 w8"
FAMILY_NAMES = {
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX",
    "opt": "OPT",
    "phi": "Phi",
    "stablelm": "StableLM",
    "llama": "Llama",
    "mistral": "Llama",
    "qwen2": "Llama",
    "qwen3": "Llama",
    "gemma": "Gemma",
    "gemma2": "Gemma",
    "gemma3_text": "Gemma",
    "olmo2": "OLMo 2",
    "smollm3": "SmolLM3",
}
REMEDY = (
    "It runs only what it has been proved for. "
    'Pass engine="reference", or engine="auto", which chooses.'
)
OWN = "the attention of {} is its own, not transformers' attention interface"
HOOKS = "it carries hooks of its own, which may mean another token than the packed rows"


def swept(model: LanguageModel, **words: Any) -> Run:
    """A short sweep."""
    text = "w3 [MASK] w42" if model.family.masked else TEXT
    position = {"position": "mask"} if model.family.masked else {}
    return lesion.sweep(model, text, "w5", **({"fractions": "0.3", "layers": 1} | position | words))


def chosen(run: Run) -> tuple[str, str]:
    """The engine that ran, and the reason that the run gives."""
    assert set(run.table["engine"].to_pylist()) == {run.measuring.engine}
    return run.measuring.engine, run.measuring.reason


def check_refused(model: LanguageModel, reason: str, **words: Any) -> None:
    """Auto takes the reference engine for that reason; `packed` is refused for it."""
    asked = swept(model, **words, engine="reference")
    assert chosen(asked) == ("reference", "asked for")
    found = swept(model, **words)
    assert chosen(found) == ("reference", f"auto: {reason}")
    assert found.table.equals(asked.table)
    assert found.measuring.self_check is None
    with pytest.raises(EngineRefused) as error:
        swept(model, **words, engine="packed")
    assert str(error.value) == f"the packed engine with {model.name}: {reason}. {REMEDY}"


@pytest.mark.parametrize("model_type", PACKED_TYPES)
def test_the_packed_engine_runs_the_families_that_it_is_proved_for(model_type: str) -> None:
    assert set(PACKED_TYPES) == set(FAMILY_NAMES)
    model = tiny(model_type)
    reason = f"auto: the packed engine is proved for {FAMILY_NAMES[model_type]}"
    run = swept(model)
    assert chosen(run) == ("packed", reason)
    assert run.manifest.engine.asked == "auto"
    for position in (-1, 3):
        assert chosen(swept(model, position=position, self_check=False)) == ("packed", reason)


def test_an_engine_that_was_asked_for_runs() -> None:
    for word in ("packed", "reference"):
        run = swept(tiny("gpt2"), engine=word)
        assert chosen(run) == (word, "asked for")
        assert run.manifest.engine.asked == word


@pytest.mark.parametrize("model_type", REFERENCE_TYPES)
def test_attention_of_its_own_goes_to_the_reference_engine(model_type: str) -> None:
    name = {"gpt_neo": "GPT-Neo", "gptj": "GPT-J", "bloom": "BLOOM", "falcon": "Falcon"}
    check_refused(tiny(model_type), OWN.format(name[model_type]))


@pytest.mark.parametrize("model_type", MASKED_TYPES)
def test_masked_models_go_to_the_reference_engine(model_type: str) -> None:
    reason = "it is a masked model, whose tokens all see the lesioned one"
    check_refused(tiny(model_type), reason)


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("path", ["", "transformer.h.1.mlp.act", "transformer.wte", "lm_head"])
def test_a_model_with_hooks_of_its_own_goes_to_the_reference_engine(path: str, kind: str) -> None:
    model = tiny("gpt2")
    handle = getattr(model.hf_model.get_submodule(path), kind)(lambda *_: None)
    try:
        check_refused(model, HOOKS)
    finally:
        handle.remove()
    assert chosen(swept(model))[0] == "packed"


def test_a_hook_of_every_module_of_the_process_is_a_hook() -> None:
    model = tiny("gpt2")
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        check_refused(model, HOOKS)
    finally:
        handle.remove()


Change = Callable[[pytest.MonkeyPatch, LanguageModel], None]
CHANGES: dict[str, Change] = {
    "its weights are quantized": lambda patch, model: patch.setattr(
        model.hf_model, "is_quantized", True, raising=False
    ),
    "its weights are on several devices": lambda patch, model: patch.setattr(
        model.hf_model, "hf_device_map", {"transformer": 0, "lm_head": "cpu"}, raising=False
    ),
    "it attends to an encoder": lambda patch, model: patch.setattr(
        model.config, "add_cross_attention", True
    ),
    "its tokens see those that come later": lambda patch, model: patch.setattr(
        model.config, "use_bidirectional_attention", True, raising=False
    ),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_changes_a_model_sends_it_to_the_reference_engine(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    model = tiny("gpt2")
    CHANGES[reason](monkeypatch, model)
    check_refused(model, reason)


@pytest.mark.parametrize("device_map", [{}, {"": "cpu"}, {"transformer": 0, "lm_head": 0}])
def test_a_map_of_one_device_is_no_reason(
    monkeypatch: pytest.MonkeyPatch, device_map: dict[str, object]
) -> None:
    model = tiny("gpt2")
    monkeypatch.setattr(model.hf_model, "hf_device_map", device_map, raising=False)
    monkeypatch.setattr(model.hf_model, "is_quantized", False, raising=False)
    assert chosen(swept(model))[0] == "packed"


def test_gemma_2_without_its_soft_cap_goes_to_the_reference_engine() -> None:
    # As a loaded model of older versions of transformers; the newest refuse to load it so.
    model = tiny_model("gemma2")
    model.config._attn_implementation = "sdpa"
    reason = 'it was loaded with attention "sdpa", which leaves out its soft-cap'
    engine, why = choose_engine("auto", model)
    assert (engine.name, why) == ("reference", f"auto: {reason}")
    with pytest.raises(EngineRefused) as error:
        PackedEngine(model)
    assert str(error.value) == f"the packed engine with {model.name}: {reason}. {REMEDY}"
    model.config._attn_implementation = "eager"
    assert chosen(swept(model))[0] == "packed"


def test_a_model_without_a_soft_cap_may_have_any_attention() -> None:
    model = tiny_model("llama", "float32")
    for attention in ("sdpa", "eager"):
        model.hf_model.set_attn_implementation(attention)
        run = swept(model)
        assert chosen(run)[0] == "packed"
        assert run.manifest.model.attention == attention


def test_attention_coarser_than_the_weights_goes_to_the_reference_engine() -> None:
    model = tiny_model("llama", "float64")
    model.hf_model.set_attn_implementation("eager")
    reason = 'its attention "eager" may take softmax in float32 where all else is float64'
    check_refused(model, reason)


@pytest.mark.parametrize(("position", "spelled"), [(0, "0"), (2, "2"), (-2, "-2")])
def test_a_lesion_before_the_last_token_goes_to_the_reference_engine(
    position: int, spelled: str
) -> None:
    reason = f"position {spelled} is not the last token, so later tokens would change too"
    check_refused(tiny("llama"), reason, position=position)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2"])
def test_both_engines_agree_where_an_index_is_the_last_token(model_type: str) -> None:
    model = tiny(model_type)
    tables = [
        swept(model, engine=engine, position=position, hidden_norm=True).table.to_pylist()
        for engine in ("packed", "reference")
        for position in ("last", -1, 3)
    ]
    for rows in tables:
        for row, first in zip(rows, tables[0], strict=True):
            assert row["position"] == first["position"] == 3
            for word in ("effect_log_prob", "kl", "direct_log_prob", "out_delta_norm"):
                assert row[word] == pytest.approx(first[word], abs=1e-6)
            assert row["hidden_norm"] == pytest.approx(first["hidden_norm"], abs=1e-6)


def test_one_prompt_that_is_too_long_for_an_index_decides_for_all() -> None:
    model = tiny("gpt2")
    prompts = [Prompt(n, "", (1, 2, 3, 4)[:n], "w5", 5) for n in (3, 4)]
    lesions = [Lesion(lesion.top(0.3), layers=(0,), position=at) for at in ("last", 2)]
    assert choose_engine("auto", model, lesions, prompts[:1])[0].name == "packed"
    assert choose_engine("auto", model, lesions[:1], prompts)[0].name == "packed"
    for order in (prompts, prompts[::-1]):
        engine, reason = choose_engine("auto", model, lesions, order)
        assert engine.name == "reference"
        assert reason == "auto: position 2 is not the last token, so later tokens would change too"
    with pytest.raises(EngineRefused, match="position 2 is not the last token"):
        PackedEngine(model).run_many(prompts, lesions)


def test_a_reason_is_given_by_the_model_that_is_asked_and_by_no_other() -> None:
    assert unproved_model(tiny("gpt2")) is None
    assert unproved_model(tiny("gpt_neo")) == OWN.format("GPT-Neo")
    with pytest.raises(EngineRefused):
        PackedEngine(tiny("bloom"))
