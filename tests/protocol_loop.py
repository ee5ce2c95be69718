"""The published protocol as one plain loop: the oracle that `lesion` is compared with.

Written from the protocol's description alone; it imports nothing from `lesion`. Per row one full
forward pass with plain hooks; ranking, choosing and replacing happen on Python lists of the last
token's values:

1. run the prompt as it is and keep every block's vectors;
2. per selection, set of blocks and fraction run it again; in each lesioned block rank the last
   token's values, take some of them and overwrite those;
3. compare the logits after the last token, and the hidden states after every block.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Neuron = tuple[int, int]
Vector = list[float]


@dataclass(frozen=True)
class LoopRow:
    """One lesion: what it took, what it did to its blocks, what it did to the prediction.

    `fraction` is None for a band and a set, `layer` in scope `all`, `draw` unless drawn,
    `out_delta_norm` where several blocks are lesioned. `chosen` holds (layer, neuron) pairs.
    """

    layer: int | None
    draw: int | None
    fraction: str | None
    chosen: tuple[Neuron, ...]
    changed: int
    largest_change: float
    removed_post: float
    out_delta_norm: float | None
    hidden_norm: tuple[float, ...]
    logits: tuple[float, ...]
    clean_logits: tuple[float, ...]
    logit: float
    log_prob: float
    effect_logit: float
    effect_log_prob: float


@dataclass(frozen=True)
class Places:
    """Where an architecture keeps its MLP, and its nonlinearity; `up` in gated MLPs only."""

    blocks: str
    pre: str
    down: str
    nonlinearity: Callable[[float], float]
    up: str | None = None


def gelu(x: float) -> float:
    """Gaussian error linear unit."""
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: float) -> float:
    """Gaussian error linear unit, tanh approximation."""
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def silu(x: float) -> float:
    """Sigmoid linear unit."""
    return x / (1 + math.exp(-x))


def relu(x: float) -> float:
    """Rectified linear unit."""
    return max(x, 0.0)


_GATED = Places("model.layers", "mlp.gate_proj", "mlp.down_proj", silu, "mlp.up_proj")
_GEMMA = Places("model.layers", "mlp.gate_proj", "mlp.down_proj", gelu_tanh, "mlp.up_proj")

PLACES = {
    "gpt2": Places("transformer.h", "mlp.c_fc", "mlp.c_proj", gelu_tanh),
    "gpt_neox": Places("gpt_neox.layers", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", gelu),
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "opt": Places("model.decoder.layers", "fc1", "fc2", relu),
    "phi": Places("model.layers", "mlp.fc1", "mlp.fc2", gelu_tanh),
    "stablelm": _GATED,
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": _GATED,
    "smollm3": _GATED,
    "gpt_neo": Places("transformer.h", "mlp.c_fc", "mlp.c_proj", gelu_tanh),
    "gptj": Places("transformer.h", "mlp.fc_in", "mlp.fc_out", gelu_tanh),
    # BLOOM's own spelling of the tanh approximation rounds its constant after eight digits.
    "bloom": Places("transformer.h", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", gelu_tanh),
    "falcon": Places("transformer.h", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", gelu),
    "bert": Places("bert.encoder.layer", "intermediate.dense", "output.dense", gelu),
    "roberta": Places("roberta.encoder.layer", "intermediate.dense", "output.dense", gelu),
}


def protocol_loop(
    hf_model: PreTrainedModel,
    model_type: str,
    token_ids: Sequence[int],
    target_id: int,
    *,
    site: str = "pre",
    scope: str = "each",
    selection: tuple = ("top",),
    fractions: Sequence[str] = (),
    rank: str | None = None,
    rank_on: str = "lesioned",
    replacement: tuple = ("median",),
    layers: Sequence[int] | None = None,
) -> list[LoopRow]:
    """All rows of one sweep: draws, then layers, then fractions.

    Args:
        selection: ("top",), ("bottom",), ("random", seed, draws), ("band", low, high) with the two
            fractions as text, or ("set", [(layer, neuron), …]).
        fractions: as text; one nameless lesion a layer for a band and a set.
        replacement: one word, or ("constant", number). `median_upper`, the upper of the two middle
            values, is no word of the protocol: it is there to be seen to differ.
    """
    kind, *details = selection
    places = PLACES[model_type]
    rank = rank or ("abs" if site == "out" else "value")
    clean = _run(hf_model, places, token_ids)
    rows = []
    for draw in range(details[1]) if kind == "random" else [None]:
        for layer, lesioned in _blocks_of_rows(scope, layers, len(clean.before["pre"])):
            for fraction in [None] if kind in ("band", "set") else fractions:

                def choose(at: int, run: "_Run", draw=draw, fraction=fraction) -> list[int]:
                    size = len(run.before[site][at])
                    if kind == "set":
                        return [neuron for in_layer, neuron in details[0] if in_layer == at]
                    if kind == "random":
                        order = _drawn(details[0], at, draw, token_ids, size)
                    else:
                        ranked = clean if rank_on == "clean" else run
                        keys = _rank_keys(rank, ranked, site, at, hf_model, places)
                        sign = 1 if kind == "bottom" else -1
                        order = sorted(range(size), key=lambda i: (sign * keys[i], i))
                    low, high = details if kind == "band" else ("0", fraction)
                    return order[_floor(low, size) : _floor(high, size)]

                run = _run(hf_model, places, token_ids, site, lesioned, choose, replacement)
                rows.append(_row(layer, draw, fraction, lesioned, site, run, clean, target_id))
    return rows


def log_softmax(logits: Sequence[float]) -> list[float]:
    """The log-probabilities of all tokens."""
    highest = max(logits)
    normaliser = highest + math.log(math.fsum(math.exp(logit - highest) for logit in logits))
    return [logit - normaliser for logit in logits]


def _blocks_of_rows(
    scope: str, layers: Sequence[int] | None, blocks: int
) -> list[tuple[int | None, list[int]]]:
    """Per row: the layer that names it, and the layers it lesions."""
    layers = list(range(blocks)) if layers is None else list(layers)
    if scope == "all":
        return [(None, layers)]
    if scope == "cumulative":
        return [(layer, [at for at in layers if at <= layer]) for layer in layers]
    return [(layer, [layer]) for layer in layers]


def _floor(fraction: str, size: int) -> int:
    return math.floor(Fraction(fraction) * size)


def _drawn(seed: int, layer: int, draw: int, token_ids: Sequence[int], size: int) -> list[int]:
    """A permutation that follows from the numbers and the prompt's token ids alone."""
    prompt_key = hashlib.sha256(",".join(str(i) for i in token_ids).encode()).hexdigest()
    digest = hashlib.sha256(f"{seed}|{layer}|{draw}|{prompt_key}".encode()).hexdigest()
    keys = np.random.PCG64(int(digest, 16)).random_raw(size)
    return sorted(range(size), key=lambda neuron: (int(keys[neuron]), neuron))


def _rank_keys(
    rank: str, run: "_Run", site: str, layer: int, hf_model: PreTrainedModel, places: Places
) -> Vector:
    if rank == "value":
        return run.before[site][layer]
    if rank == "abs":
        return [abs(value) for value in run.before[site][layer]]
    assert (rank, site) in [("write", "pre"), ("write", "post")]
    down = hf_model.get_submodule(places.blocks)[layer].get_submodule(places.down)
    weights = down.weight.detach().double().numpy()
    if not isinstance(down, Conv1D):  # (output, input)
        weights = weights.T
    lengths = [math.hypot(*row) for row in weights.tolist()]
    post = run.post_unlesioned[layer]
    return [abs(value) * length for value, length in zip(post, lengths, strict=True)]


def _replacement(replacement: tuple, values: Vector) -> float:
    kind, *number = replacement
    ordered, size = sorted(values), len(values)
    return {
        "median": lambda: ordered[(size - 1) // 2],
        "median_upper": lambda: ordered[size // 2],
        "median_mid": lambda: (ordered[(size - 1) // 2] + ordered[size // 2]) / 2,
        "mean": lambda: math.fsum(values) / size,
        "min": lambda: ordered[0],
        "zero": lambda: 0.0,
        "constant": lambda: number[0],
    }[kind]()


@dataclass
class _Run:
    """The last token of one forward pass, by site and layer, before and after overwriting.

    `post_unlesioned` is what the values at the lesion's site, before overwriting, give at `post`.
    """

    before: dict[str, dict[int, Vector]] = field(
        default_factory=lambda: {"pre": {}, "post": {}, "out": {}}
    )
    after: dict[str, dict[int, Vector]] = field(
        default_factory=lambda: {"pre": {}, "post": {}, "out": {}}
    )
    post_unlesioned: dict[int, Vector] = field(default_factory=dict)
    chosen: list[Neuron] = field(default_factory=list)
    hidden: list[Vector] = field(default_factory=list)
    logits: Vector = field(default_factory=list)


def _run(
    hf_model: PreTrainedModel,
    places: Places,
    token_ids: Sequence[int],
    lesion_site: str = "",
    lesioned: Sequence[int] = (),
    choose: Callable[[int, _Run], list[int]] | None = None,
    replacement: tuple = (),
) -> _Run:
    """One full forward pass, lesioned in some blocks."""
    run = _Run()

    def visit(site: str, layer: int, tensor: torch.Tensor, mlp_input: torch.Tensor) -> torch.Tensor:
        """Keep the last token's values at a site; in a lesioned block overwrite the chosen."""
        # Batch and tokens are one axis in some models; the batch is one prompt.
        values = tensor[..., -1, :].flatten().tolist()
        run.before[site][layer] = run.after[site][layer] = values
        if site == "pre":
            post = _post_by_hand(values, mlp_input[..., -1, :].flatten(), blocks[layer], places)
            run.post_unlesioned[layer] = post
        if site == "post" and lesion_site == "post":
            run.post_unlesioned[layer] = values
        if site != lesion_site or layer not in lesioned:
            return tensor
        chosen = set(choose(layer, run))
        value = _replacement(replacement, values)
        overwritten = [value if i in chosen else old for i, old in enumerate(values)]
        run.chosen.extend((layer, neuron) for neuron in sorted(chosen))
        tensor = tensor.clone()
        tensor[..., -1, :] = torch.tensor(overwritten, dtype=tensor.dtype)
        run.after[site][layer] = tensor[..., -1, :].flatten().tolist()
        return tensor

    blocks = list(hf_model.get_submodule(places.blocks))
    with ExitStack() as hooks, torch.no_grad():
        for layer, block in enumerate(blocks):
            pre, down = block.get_submodule(places.pre), block.get_submodule(places.down)
            for handle in (
                pre.register_forward_hook(lambda _, x, y, at=layer: visit("pre", at, y, x[0])),
                down.register_forward_pre_hook(
                    lambda _, x, at=layer: visit("post", at, x[0], x[0])
                ),
                down.register_forward_hook(lambda _, x, y, at=layer: visit("out", at, y, x[0])),
                block.register_forward_hook(lambda _, __, y: run.hidden.append(_last(y))),
            ):
                hooks.callback(handle.remove)
        first = blocks[0].register_forward_pre_hook(
            lambda _, x, words: run.hidden.append(_last(x or words["hidden_states"])),
            with_kwargs=True,
        )
        hooks.callback(first.remove)
        tokens = torch.tensor([list(token_ids)])
        run.logits = hf_model(tokens, use_cache=False).logits[0, -1].tolist()
    return run


def _post_by_hand(
    pre: Vector, mlp_input: torch.Tensor, block: torch.nn.Module, places: Places
) -> Vector:
    activated = [places.nonlinearity(value) for value in pre]
    if places.up is None:
        return activated
    up = block.get_submodule(places.up)
    factors = torch.nn.functional.linear(mlp_input, up.weight, up.bias).tolist()
    return [value * factor for value, factor in zip(activated, factors, strict=True)]


def _last(output: torch.Tensor | tuple) -> Vector:
    return (output[0] if isinstance(output, tuple) else output)[0, -1].tolist()


def _row(
    layer: int | None,
    draw: int | None,
    fraction: str | None,
    lesioned: Sequence[int],
    site: str,
    run: _Run,
    clean: _Run,
    target_id: int,
) -> LoopRow:
    changes = [
        abs(new - old)
        for at in lesioned
        for new, old in zip(run.after[site][at], run.before[site][at], strict=True)
    ]
    removed = 0.0
    if site != "out":
        for at in lesioned:
            removed += _distance(run.after["post"][at], run.post_unlesioned[at], order=1)
    out_delta_norm = None
    if len(lesioned) == 1:
        out_delta_norm = _distance(run.after["out"][lesioned[0]], clean.after["out"][lesioned[0]])
    log_prob, clean_log_prob = (log_softmax(each.logits)[target_id] for each in (run, clean))
    return LoopRow(
        layer=layer,
        draw=draw,
        fraction=fraction,
        chosen=tuple(run.chosen),
        changed=sum(change > 0 for change in changes),
        largest_change=max(changes),
        removed_post=removed,
        out_delta_norm=out_delta_norm,
        hidden_norm=tuple(map(_distance, run.hidden, clean.hidden)),
        logits=tuple(run.logits),
        clean_logits=tuple(clean.logits),
        logit=run.logits[target_id],
        log_prob=log_prob,
        effect_logit=run.logits[target_id] - clean.logits[target_id],
        effect_log_prob=log_prob - clean_log_prob,
    )


def _distance(one: Vector, other: Vector, order: int = 2) -> float:
    return float(np.linalg.norm(np.subtract(one, other), ord=order))
