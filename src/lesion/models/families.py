"""Where each family of models keeps its MLP: data, one entry a family.

Paths are attribute paths: `blocks` from the causal model, the others from one block. To add a
family, add an entry and a row to `tests/families.py`; every test of the families then runs on it.
"""

import dataclasses

from lesion.errors import UnknownFamily


@dataclasses.dataclass(frozen=True)
class Family:
    """Where the parts of a block's MLP are, and what follows the last block.

    `pre` is the projection whose output is the site `pre`, `activation` the nonlinearity after it,
    `up` the second projection of a gated MLP (None in a plain one), `down` the projection whose
    input is the site `post` and whose output is the site `out`. `tail` lists the modules between
    the last block and the logits, in their order; those that a model does not have are left out.

    `attention_interface` says that attention goes through transformers' attention interface, which
    the packed engine needs. `pre_norm_if` names the word of the configuration that must be true for
    the residual stream to be a plain sum, None where it always is.
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
    pre_norm_if: str | None = None


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
        name="Llama",
        model_types=("llama", "mistral", "qwen2", "qwen3"),
        blocks="model.layers",
        pre="mlp.gate_proj",
        activation="mlp.act_fn",
        up="mlp.up_proj",
        down="mlp.down_proj",
        tail=("model.norm", "lm_head"),
    ),
)


def family_of(model_type: str, asked: str) -> Family:
    """The family with that Hugging Face `model_type`; `asked` is the model's name in the error.

    Raises:
        UnknownFamily: no entry has it; the known ones are listed.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(word for family in FAMILIES for word in family.model_types)
    raise UnknownFamily(
        f"model {asked!r}",
        f"its architecture is {model_type!r}",
        f"The known architectures are {known}",
        "Choose such a model, or add an entry to lesion/models/families.py",
    )
