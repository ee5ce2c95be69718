"""Where models come from, and what each that cannot come says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import CONFIGS, MASKED_TYPES, mask_tokenizer, tiny_model, word_tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import lesion
from lesion.errors import (
    InvalidChoice,
    ModelNotFound,
    UnknownFamily,
    UnsafeWeights,
    UnsuitableFamily,
)

ELSEWHERE = (
    "A model is a local folder, or a name on the Hugging Face Hub or in its cache. Check the name; "
    "without a network, fetch it elsewhere with `hf download NAME` and pass the folder, or set "
    "HF_HOME to a cache that holds it."
)
DTYPES = "dtype is one of float32, bfloat16, float16, float64"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with its tokenizer, as Hugging Face's libraries write it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny_model("gpt2", dtype="float32")
    model.hf_model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_gives_the_model_that_was_saved(saved: Path) -> None:
    model = lesion.load(saved)
    original = tiny_model("gpt2", dtype="float32")
    assert model.name == model.source == str(saved)
    assert model.dtype == "float32"
    assert not model.hf_model.training
    for name, weights in original.hf_model.state_dict().items():
        assert torch.equal(weights, model.hf_model.state_dict()[name]), name
    first, second = (
        lesion.sweep(m, "w1 w2", "w3", fractions=0.5).frame() for m in (model, original)
    )
    assert first["effect_log_prob"].equals(second["effect_log_prob"])


def test_a_loaded_model_is_used_as_it_is(saved: Path) -> None:
    original = tiny_model("llama")
    model = lesion.load(hf_model=original.hf_model, tokenizer=original.tokenizer)
    assert model.hf_model is original.hf_model
    assert model.source == "a loaded model"
    assert model.dtype == "float64"


def test_weights_are_computed_in_float32_unless_asked(saved: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    tiny_model("gpt2", dtype="bfloat16").hf_model.save_pretrained(half)
    word_tokenizer().save_pretrained(half)
    assert lesion.load(half).dtype == "float32"
    assert lesion.load(half, dtype="bfloat16").dtype == "bfloat16"
    assert lesion.load(half, dtype=torch.float64).dtype == "float64"


def test_random_weights_derive_from_their_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 4096}
        model = lesion.load(config=config, random_weights=seed)
        return model.hf_model.get_input_embeddings().weight

    state = torch.random.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_a_configuration_object_serves_as_well_as_a_mapping() -> None:
    words = {**CONFIGS["gpt2"], "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model("gpt2", **words)
    model = lesion.load(config=config, random_weights=3, tokenizer=word_tokenizer())
    assert len(model.blocks) == 3
    assert model.source == "random weights, seed 3"


def test_a_model_with_too_small_a_vocabulary_needs_its_own_tokenizer() -> None:
    with pytest.raises(InvalidChoice) as refusal:
        lesion.load(config={"model_type": "gpt2", "vocab_size": 64}, random_weights=0)
    assert str(refusal.value) == (
        "load(config=…): its vocabulary has 64. The shipped tokenizer has 4096 tokens. "
        "Pass tokenizer=…, or a configuration with a larger vocab_size."
    )


def test_an_unknown_family_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mpt"}))
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(UnknownFamily, match=r"its architecture is 'mpt'\. The known archit"):
        lesion.load(tmp_path)
    with pytest.raises(UnknownFamily, match="model 'random weights': its architecture is 'mpt'"):
        lesion.load(config={"model_type": "mpt"}, random_weights=0)


def test_an_architecture_without_neurons_is_refused_before_its_weights_are_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(UnsuitableFamily, match="'mixtral', is a mixture of experts"):
        lesion.load(tmp_path)
    with pytest.raises(UnsuitableFamily, match="'mamba', is a state-space"):
        lesion.load(config={"model_type": "mamba"}, random_weights=0)


@pytest.mark.parametrize("model_type", MASKED_TYPES)
def test_a_masked_model_comes_with_its_masked_head(model_type: str, tmp_path: Path) -> None:
    untrained = tiny_model(model_type, dtype="float32")
    untrained.hf_model.save_pretrained(tmp_path)
    mask_tokenizer().save_pretrained(tmp_path)
    trained = lesion.load(tmp_path)
    adopted = lesion.load(hf_model=trained.hf_model, tokenizer=trained.tokenizer)
    tokens = torch.tensor([[3, 62, 4, 1]])
    with torch.inference_mode():
        expected = untrained.hf_model(tokens).logits
        for model in (trained, adopted):
            assert type(model.hf_model).__name__.endswith("ForMaskedLM")
            assert model.family.masked
            assert torch.equal(model.hf_model(tokens).logits, expected)


def test_a_loaded_model_without_its_familys_head_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidChoice) as refusal:
        lesion.load(hf_model=AutoModel.from_pretrained(saved), tokenizer=word_tokenizer())
    assert str(refusal.value) == (
        "load(hf_model=…): it is a GPT2Model. A GPT-2 model is lesioned as GPT2LMHeadModel, with "
        "the head that predicts tokens. Load it with AutoModelForCausalLM.from_pretrained(…)."
    )
    config = tiny_model("bert").config
    config.is_decoder = True
    with pytest.raises(InvalidChoice) as refusal:
        lesion.load(hf_model=AutoModelForCausalLM.from_config(config), tokenizer=mask_tokenizer())
    assert str(refusal.value) == (
        "load(hf_model=…): it is a BertLMHeadModel. A BERT model is lesioned as BertForMaskedLM, "
        "with the head that predicts tokens. Load it with AutoModelForMaskedLM.from_pretrained(…)."
    )


@pytest.mark.parametrize("words", [{"site": "out"}, {"rank": "write"}, {"scope": "all"}])
@pytest.mark.parametrize("embeddings", ["cpu", "disk"])
def test_a_model_whose_weights_lie_on_several_devices_gives_the_same(
    embeddings: str, words: dict[str, str], tmp_path: Path
) -> None:
    whole = tiny_model("llama", dtype="float32")
    whole.hf_model.save_pretrained(tmp_path)
    places = {
        "model.embed_tokens": embeddings,
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
        "model.norm": "disk",
        "lm_head": "cpu",
    }
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map=places, offload_folder=tmp_path / "offloaded"
    )
    assert any(parameter.is_meta for parameter in spread.parameters())
    model = lesion.load(hf_model=spread, tokenizer=word_tokenizer())
    assert model.device == torch.device("cpu")
    found, expected = (
        lesion.sweep(m, "w3 w1 w4", "w5", fractions=0.5, engine="reference", **words).frame()
        for m in (model, whole)
    )
    assert found["effect_log_prob"].equals(expected["effect_log_prob"])


def test_a_checkpoint_without_safetensors_is_refused(saved: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(saved, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UnsafeWeights) as refusal:
        lesion.load(pickled)
    assert str(refusal.value) == (
        f"model '{pickled}': it has no safetensors weights. Only safetensors are loaded, because "
        "other checkpoints can run code. Where you trust it, convert it once with "
        "`model.save_pretrained(folder)`; pass the folder."
    )


def test_a_folder_that_is_missing_or_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as refusal:
        lesion.load(tmp_path / "nothing")
    assert str(refusal.value) == (
        f"model '{tmp_path}/nothing': there is no such folder. {ELSEWHERE}"
    )
    with pytest.raises(ModelNotFound) as refusal:
        lesion.load(tmp_path)
    assert str(refusal.value) == f"model '{tmp_path}': the folder has no config.json. {ELSEWHERE}"


def test_a_checkpoint_without_a_tokenizer_says_so(saved: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(saved, bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelNotFound) as refusal:
        lesion.load(bare)
    assert str(refusal.value) == (
        f"model '{bare} (its tokenizer)': it has no vocabulary. {ELSEWHERE}"
    )


def test_a_name_that_is_nowhere_says_what_to_do_without_a_network(tmp_path: Path) -> None:
    # In a child: the Hub's libraries read their environment when they are imported.
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "lesion", "sweep", "no/where", "--prompt", "hello"]
    child = subprocess.run(
        command, capture_output=True, text=True, env=offline, cwd=tmp_path, check=False
    )
    assert child.returncode == 2, child.stderr
    assert child.stdout == ""
    assert child.stderr.startswith("error: model 'no/where': We couldn't connect to ")
    assert child.stderr.endswith(f"{ELSEWHERE}\n")
    assert "Traceback" not in child.stderr
    assert list(tmp_path.glob("runs")) == []


def test_arguments_that_contradict_each_other_are_refused() -> None:
    model = tiny_model("gpt2")
    remedy = "Call load(hf_model=model, tokenizer=tokenizer)."
    with pytest.raises(InvalidChoice) as refusal:
        lesion.load(hf_model=model.hf_model)
    assert str(refusal.value) == (
        "load(hf_model=…): no tokenizer came with it. A loaded model comes with its tokenizer and "
        f"nothing that makes another model. {remedy}"
    )
    with pytest.raises(InvalidChoice) as refusal:
        lesion.load(random_weights=0)
    assert str(refusal.value) == (
        "load: only one of config and random_weights was given. A random-weight model needs both "
        "its config and the seed of its weights. Pass config=… and random_weights=0."
    )


def test_an_unknown_dtype_or_device_is_refused_before_anything_is_read(saved: Path) -> None:
    with pytest.raises(InvalidChoice) as refusal:
        lesion.load(saved, dtype="int8")
    assert str(refusal.value) == (
        f"dtype 'int8': there is no such word. {DTYPES}. Pass one of them."
    )
    with pytest.raises(InvalidChoice) as refusal:
        lesion.load(saved, device="abacus")
    assert str(refusal.value).startswith("device abacus: ")
    assert str(refusal.value).endswith(
        ". A device is cpu, cuda, cuda:1, … as PyTorch names them, and present here. Pass cpu."
    )
