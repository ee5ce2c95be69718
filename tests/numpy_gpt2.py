"""GPT-2 as arithmetic: an independent forward pass in float64 numpy, used as an oracle.

Written from the architecture, not from any implementation of it:

1. residual = token embedding + position embedding;
2. each block adds attention(ln_1(residual)), then mlp(ln_2(residual));
3. attention is causal, scaled by 1 / sqrt(head width), softmax over the visible tokens;
4. mlp(x) = gelu_new(x · c_fc + bias) · c_proj + bias;
5. logits = ln_f(residual) · unembedding.

The three sites of the last token's MLP can be edited on the way, so any last-token lesion can be
replayed: ``pre`` (output of c_fc), ``post`` (after gelu_new), ``out`` (output of c_proj, before
the residual is added).

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3;
gelu_new: Hendrycks and Gimpel 2016, the tanh approximation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from transformers import GPT2Config, GPT2LMHeadModel

Weights = Mapping[str, np.ndarray]
Vector = Float64[np.ndarray, " width"]
Residual = Float64[np.ndarray, "token d_model"]
Edit = Callable[[int, str, Vector], Vector]


@dataclass(frozen=True, eq=False)
class ForwardRun:
    """What one forward pass produced; the site vectors are the last token's, after any edit.

    ``residual`` holds the last token's stream before block 0 and then after each block, always
    before the final norm.
    """

    logits: Float64[np.ndarray, "token vocabulary"]
    pre: Float64[np.ndarray, "layer neuron"]
    post: Float64[np.ndarray, "layer neuron"]
    out: Float64[np.ndarray, "layer d_model"]
    residual: Float64[np.ndarray, "layer+1 d_model"]


def weights_of(hf_model: GPT2LMHeadModel) -> dict[str, np.ndarray]:
    """Copies the state dict to float64 under its own names; projections stay (in, out)."""
    state = hf_model.state_dict()
    return {name: tensor.detach().cpu().double().numpy() for name, tensor in state.items()}


def forward(
    weights: Weights, config: GPT2Config, token_ids: Sequence[int], edit: Edit | None = None
) -> Float64[np.ndarray, "token vocabulary"]:
    """Gives the logits of every token; see ``run_forward`` for the meaning of ``edit``."""
    return run_forward(weights, config, token_ids, edit).logits


def run_forward(
    weights: Weights, config: GPT2Config, token_ids: Sequence[int], edit: Edit | None = None
) -> ForwardRun:
    """Runs one unpadded text and keeps the last token's vector at each site of each block.

    ``edit(layer, site, vector)`` receives a copy of the last token's vector at each site in the
    order pre, post, out, and returns the vector to go on with.

    Raises:
        ValueError: the config asks for arithmetic that this oracle does not know.
    """
    _refuse_other_arithmetic(config)
    edit = edit or (lambda _layer, _site, vector: vector)
    ids = np.asarray(token_ids)
    residual = (
        weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: len(ids)]
    )
    seen: dict[str, list[np.ndarray]] = {"pre": [], "post": [], "out": []}
    trace = [residual[-1].copy()]
    for layer in range(config.n_layer):
        name = f"transformer.h.{layer}"
        normed = _normalise(weights, f"{name}.ln_1", residual, config.layer_norm_epsilon)
        residual = residual + _attend(weights, f"{name}.attn", normed, config.n_head)
        normed = _normalise(weights, f"{name}.ln_2", residual, config.layer_norm_epsilon)
        residual = residual + _expand_and_contract(weights, layer, normed, edit, seen)
        trace.append(residual[-1].copy())
    final = _normalise(weights, "transformer.ln_f", residual, config.layer_norm_epsilon)
    return ForwardRun(
        logits=final @ weights["lm_head.weight"].T,
        pre=np.stack(seen["pre"]),
        post=np.stack(seen["post"]),
        out=np.stack(seen["out"]),
        residual=np.stack(trace),
    )


def gelu_new(x: np.ndarray) -> np.ndarray:
    """Gaussian error linear unit, tanh approximation, elementwise."""
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def _refuse_other_arithmetic(config: GPT2Config) -> None:
    known = {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    for option, value in known.items():
        found = getattr(config, option)
        if found != value:
            raise ValueError(
                f"numpy_gpt2 was asked for {option}={found!r}: it computes only {option}={value!r}."
                " Build the model with that option, or teach the oracle."
            )


def _project(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _normalise(weights: Weights, name: str, x: Residual, epsilon: float) -> Residual:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(variance + epsilon)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _attend(weights: Weights, name: str, x: Residual, n_head: int) -> Residual:
    tokens, width = x.shape
    by_head = _project(weights, f"{name}.c_attn", x).reshape(tokens, 3, n_head, width // n_head)
    query, key, value = by_head.transpose(1, 2, 0, 3)
    scores = np.einsum("hqd,hkd->hqk", query, key) / np.sqrt(width // n_head)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    pattern = np.exp(scores - scores.max(axis=-1, keepdims=True))
    pattern = pattern / pattern.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hqk,hkd->qhd", pattern, value).reshape(tokens, width)
    return _project(weights, f"{name}.c_proj", mixed)


def _expand_and_contract(
    weights: Weights, layer: int, x: Residual, edit: Edit, seen: dict[str, list[np.ndarray]]
) -> Residual:
    def visit(site: str, values: np.ndarray) -> np.ndarray:
        vector = edit(layer, site, values[-1].copy())
        seen[site].append(vector)
        return np.concatenate([values[:-1], vector[None]])

    name = f"transformer.h.{layer}.mlp"
    pre = visit("pre", _project(weights, f"{name}.c_fc", x))
    post = visit("post", gelu_new(pre))
    return visit("out", _project(weights, f"{name}.c_proj", post))
