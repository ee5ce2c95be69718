"""Where each family of models keeps its MLP: data, one entry a family.

Paths are attribute paths: `blocks` and `tail` from the model, the others from one block. To add a
family, add an entry and a row to `tests/families.py`; every test of the families then runs on it.
Architectures that cannot be lesioned are listed as well, each kind with its reason.
"""

import dataclasses

from lesion.errors import UnknownFamily, UnsuitableFamily


@dataclasses.dataclass(frozen=True)
class Family:
    """Where the parts of a block's MLP are, and what follows the last block.

    `pre` is the projection whose output is the site `pre`, `activation` the nonlinearity after it,
    `up` the second projection of a gated MLP (None in a plain one), `down` the projection whose
    input is the site `post` and whose output is the site `out`. `tail` lists the modules between
    the last block and the logits, in their order; those that a model does not have are left out.

    `attention_interface` says that attention goes through transformers' attention interface, which
    the packed engine needs. `pre_norm` says that the residual stream is a plain sum; where a word
    of the configuration decides it, that word and the value that makes it one. `masked` models
    predict the token behind a mask from both its sides. `positions_after_padding` says that
    positions are counted from the id of the padding token plus one.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    pre: str
    activation: str
    down: str
    tail: tuple[str, ...]
    up: str | None = None
    attention_interface: bool = True
    pre_norm: bool | tuple[str, bool] = True
    masked: bool = False
    positions_after_padding: bool = False


_LLAMA = Family(
    name="Llama",
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    blocks="model.layers",
    pre="mlp.gate_proj",
    activation="mlp.act_fn",
    up="mlp.up_proj",
    down="mlp.down_proj",
    tail=("model.norm", "lm_head"),
)
_BERT = Family(
    name="BERT",
    model_types=("bert",),
    blocks="bert.encoder.layer",
    pre="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    down="output.dense",
    tail=("cls",),
    pre_norm=False,
    masked=True,
)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="GPT-2",
        model_types=("gpt2",),
        blocks="transformer.h",
        pre="mlp.c_fc",
        activation="mlp.act",
        down="mlp.c_proj",
        tail=("transformer.ln_f", "lm_head"),
    ),
    Family(
        name="GPT-NeoX",
        model_types=("gpt_neox",),
        blocks="gpt_neox.layers",
        pre="mlp.dense_h_to_4h",
        activation="mlp.act",
        down="mlp.dense_4h_to_h",
        tail=("gpt_neox.final_layer_norm", "lm_head"),
    ),
    Family(
        name="OPT",
        model_types=("opt",),
        blocks="model.decoder.layers",
        pre="fc1",
        activation="activation_fn",
        down="fc2",
        tail=("model.decoder.final_layer_norm", "model.decoder.project_out", "lm_head"),
        pre_norm=("do_layer_norm_before", True),
    ),
    Family(
        name="Phi",
        model_types=("phi",),
        blocks="model.layers",
        pre="mlp.fc1",
        activation="mlp.activation_fn",
        down="mlp.fc2",
        tail=("model.final_layernorm", "lm_head"),
    ),
    _LLAMA,
    dataclasses.replace(_LLAMA, name="Gemma", model_types=("gemma", "gemma2", "gemma3_text")),
    dataclasses.replace(_LLAMA, name="OLMo 2", model_types=("olmo2",)),
    dataclasses.replace(_LLAMA, name="SmolLM3", model_types=("smollm3",)),
    dataclasses.replace(_LLAMA, name="StableLM", model_types=("stablelm",)),
    Family(
        name="GPT-Neo",
        model_types=("gpt_neo",),
        blocks="transformer.h",
        pre="mlp.c_fc",
        activation="mlp.act",
        down="mlp.c_proj",
        tail=("transformer.ln_f", "lm_head"),
        attention_interface=False,
    ),
    Family(
        name="GPT-J",
        model_types=("gptj",),
        blocks="transformer.h",
        pre="mlp.fc_in",
        activation="mlp.act",
        down="mlp.fc_out",
        tail=("transformer.ln_f", "lm_head"),
        attention_interface=False,
    ),
    Family(
        name="BLOOM",
        model_types=("bloom",),
        blocks="transformer.h",
        pre="mlp.dense_h_to_4h",
        activation="mlp.gelu_impl",
        down="mlp.dense_4h_to_h",
        tail=("transformer.ln_f", "lm_head"),
        attention_interface=False,
        pre_norm=("apply_residual_connection_post_layernorm", False),
    ),
    Family(
        name="Falcon",
        model_types=("falcon",),
        blocks="transformer.h",
        pre="mlp.dense_h_to_4h",
        activation="mlp.act",
        down="mlp.dense_4h_to_h",
        tail=("transformer.ln_f", "lm_head"),
        attention_interface=False,
    ),
    _BERT,
    dataclasses.replace(
        _BERT,
        name="RoBERTa",
        model_types=("roberta",),
        blocks="roberta.encoder.layer",
        tail=("lm_head",),
        positions_after_padding=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class Unsuitable:
    """Architectures that cannot be lesioned: what they are, why not, and what to do instead."""

    kind: str
    reason: str
    model_types: tuple[str, ...]
    remedy: str = "Choose a dense transformer"


UNSUITABLE: tuple[Unsuitable, ...] = (
    Unsuitable(
        kind="a mixture of experts",
        reason="A neuron of a mixture of experts exists only for the tokens that are routed to its "
        "expert, so the neurons of a block are no vector that could be ranked",
        model_types=(
            "dbrx",
            "deepseek_v2",
            "deepseek_v3",
            "dots1",
            "ernie4_5_moe",
            "flex_olmo",
            "glm4_moe",
            "gpt_oss",
            "granitemoe",
            "granitemoeshared",
            "hunyuan_v1_moe",
            "jetmoe",
            "llama4",
            "llama4_text",
            "minimax",
            "mixtral",
            "olmoe",
            "phimoe",
            "qwen2_moe",
            "qwen3_moe",
        ),
    ),
    Unsuitable(
        kind="a state-space or recurrent model",
        reason="Its blocks keep a recurrent state where a transformer has attention and an MLP, so "
        "they have no MLP neurons",
        model_types=("falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"),
    ),
    Unsuitable(
        kind="a hybrid of attention and recurrent blocks",
        reason="Its recurrent blocks keep a state where a transformer has attention, so its blocks "
        "are not alike and no layer can be compared with the next",
        model_types=(
            "bamba",
            "falcon_h1",
            "granitemoehybrid",
            "jamba",
            "lfm2",
            "nemotron_h",
            "qwen3_next",
            "recurrent_gemma",
            "zamba",
            "zamba2",
        ),
    ),
    Unsuitable(
        kind="a transformer whose gate and up projections are one matrix",
        reason="The site pre is what the gate projection gives, and no module gives that alone",
        model_types=("glm", "glm4", "phi3"),
        remedy="Choose a model with two projections, or with a plain MLP",
    ),
    Unsuitable(
        kind="a multimodal model",
        reason="It holds several models, each with blocks of its own, so a layer's number does not "
        "say which block is meant",
        model_types=(
            "gemma3",
            "gemma3n",
            "gemma4",
            "idefics3",
            "internvl",
            "llava",
            "llava_next",
            "mistral3",
            "mllama",
            "paligemma",
            "phi4_multimodal",
            "qwen2_5_vl",
            "qwen2_vl",
            "qwen3_vl",
            "smolvlm",
        ),
        remedy="Pass its text model alone as hf_model, as docs/families.md shows, if its "
        "architecture is known",
    ),
)


def family_of(model_type: str, asked: str) -> Family:
    """The family with that Hugging Face `model_type`; `asked` is the model's name in the error.

    Raises:
        UnsuitableFamily: an architecture that cannot be lesioned; the reason is given.
        UnknownFamily: no entry has it; the known ones are listed.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(word for family in FAMILIES for word in family.model_types)
    for unsuitable in UNSUITABLE:
        if model_type in unsuitable.model_types:
            raise UnsuitableFamily(
                f"model {asked!r}",
                f"its architecture, {model_type!r}, is {unsuitable.kind}",
                unsuitable.reason,
                f"{unsuitable.remedy}: {known}",
            )
    raise UnknownFamily(
        f"model {asked!r}",
        f"its architecture is {model_type!r}",
        f"The known architectures are {known}",
        "Choose such a model, or add an entry to lesion/models/families.py",
    )
