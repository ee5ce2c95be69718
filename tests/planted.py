"""A GPT-2 whose important neurons are known, because we put them there: the planted GPT-2.

1. Residual dims 0 to 7 are reserved. Dim 0 is the query flag, written only by the embeddings of
   query tokens; dim 1 is the answer; dim 2 relays twins to their gate; dim 7 is blind: no row of
   the head reads it. Attention, positions and biases are random and never write dims 0 to 7.
2. A planted neuron reads the flag (through ln_2) and writes ``alpha`` times its activation on the
   answer. On other tokens it is closed: its activation is exactly zero, because tanh saturates.
3. All other neurons are decoys: random inputs, live activations, a zero output row.
4. The head reads the answer: positively for the target, negatively for the foil; all other rows
   read dims 8 to 63. So logit(target) - logit(foil) knows the answer and the final norm's scale.

Hence zero replacement of one neuron at the last token changes the logit difference for planted
neurons, and by exactly 0.0 for decoys. The variants bend one of these sentences each; see
``build_planted``.

Source: STATISTICS.md, "Ground truth without downloads".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

Neuron = tuple[int, int]
"""A neuron's address: (layer, neuron)."""

RESERVED = 8
QUERY_DIM, ANSWER_DIM, RELAY_DIM, BLIND_DIM = 0, 1, 2, 7

UNKNOWN_ID, TARGET_ID, FOIL_ID = 0, 1, 2
CONTEXT_IDS = tuple(range(3, 120))
QUERY_IDS = tuple(range(120, 128))

FLAG = 6.0
"""What a query token's embedding writes on dim 0; about 7 after a layer norm."""
FLAG_READ = 2.0
"""A power of two: the product is exact, so ``pre`` is one rounding, in whatever order a matrix
product sums, and equal implants have bit-identical activations."""
HEAD_GAIN = 4.0
WRITER_LAYERS = (0, 0, 1, 1, 2, 2, 3, 3)
WRITER_ALPHAS = (0.03, 0.08, 0.05, 0.10, 0.06, 0.09, 0.04, 0.11)
WRITER_BIASES = (-11.0, -12.0) * 4
"""Two levels of ``pre``: some writers lead their block's ranking, some stand below decoys."""
TIED_COUNT = 24
"""More than 16: up to there torch's unstable sort happens to come out stable."""


@dataclass(frozen=True)
class Implant:
    """One neuron set by hand, reading the layer-normed residual stream x and nothing else.

    pre = 2 x[flag] + relay_read x[relay] + bias; it writes alpha post on the answer and
    relay_write post on the relay.
    """

    neuron: Neuron
    alpha: float = 0.0
    bias: float = -11.0
    relay_read: float = 0.0
    relay_write: float = 0.0


@dataclass(frozen=True)
class Circuit:
    """What a variant puts into the random network; ``blind_std`` is the decoys' output scale."""

    implants: tuple[Implant, ...]
    twins: tuple[Neuron, ...] = ()
    gate: Neuron | None = None
    tied: tuple[Neuron, ...] = ()
    blind_std: float = 0.0


@dataclass(frozen=True, eq=False)
class PlantedModel:
    """A planted network with its ground truth and one prompt that ends on a query token.

    ``alpha_of`` maps each planted neuron to its weight on the answer. ``decoys`` are all neurons
    that are neither planted nor the gate. ``tied`` is ordered by neuron index.
    """

    hf_model: GPT2LMHeadModel
    tokenizer: PreTrainedTokenizerFast
    variant: str
    seed: int
    alpha_of: Mapping[Neuron, float]
    decoys: frozenset[Neuron]
    twins: tuple[Neuron, ...]
    gate: Neuron | None
    tied: tuple[Neuron, ...]
    prompt_ids: tuple[int, ...]
    query_ids: tuple[int, ...] = QUERY_IDS
    target_id: int = TARGET_ID
    foil_id: int = FOIL_ID

    @property
    def config(self) -> GPT2Config:
        """The transformers config of the network."""
        return self.hf_model.config

    @property
    def planted(self) -> frozenset[Neuron]:
        """The neurons whose lesion, one at a time, changes the logit difference by design."""
        return frozenset(self.alpha_of)

    @property
    def suppressors(self) -> frozenset[Neuron]:
        """The planted neurons whose lesion raises the logit difference."""
        return frozenset(neuron for neuron, alpha in self.alpha_of.items() if alpha < 0)

    @property
    def prompt(self) -> str:
        """The prompt as text, for callers that tokenize."""
        return " ".join(f"w{token_id}" for token_id in self.prompt_ids)

    @property
    def target(self) -> str:
        """The target token as text."""
        return f"w{self.target_id}"

    @property
    def foil(self) -> str:
        """The foil token as text."""
        return f"w{self.foil_id}"


def build_planted(
    variant: str = "exact_set", seed: int = 0, dtype: torch.dtype = torch.float64
) -> PlantedModel:
    """Builds the network of one variant; equal arguments give bit-identical weights.

    The random background and the prompt depend on ``seed`` only, not on the variant.

    * ``exact_set``: eight planted neurons, two a layer, each with its own alpha.
    * ``suppressor``: the same, and one neuron of negative alpha; its lesion raises the metric.
    * ``redundant_twins``: two neurons of layer 1 keep a gate of layer 2 shut; either suffices.
      One lesion loses little, both lose much: the gate opens and writes against the answer.
      Lesioning the shut gate itself changes nothing, exactly.
    * ``exact_ties``: the 24 top neurons of layer 1 have bit-identical ``pre`` at the query. In
      index order they are planted, silent, planted, silent, ... and each alpha is half the one
      before, so the effect of any set of them tells which planted ones it holds.
    * ``blind_decoys``: ``exact_set``, but decoys write dim 7, which no logit reads. They become
      slightly non-zero through the norms (in float32 the smallest drown in rounding).

    Raises:
        ValueError: no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"build_planted(variant={variant!r}): no such variant. The variants are"
            f" {', '.join(VARIANTS)}. Pass one of them."
        )
    config = _make_config()
    circuit = VARIANTS[variant](np.random.default_rng((seed, 1)), config)
    weights = _draw_background(np.random.default_rng((seed, 0)), config, circuit.blind_std)
    for implant in circuit.implants:
        _set_neuron(weights, implant)
    alpha_of = {
        implant.neuron: implant.alpha
        for implant in circuit.implants
        if implant.alpha and implant.neuron != circuit.gate
    }
    everyone = {(layer, i) for layer in range(config.n_layer) for i in range(config.n_inner)}
    return PlantedModel(
        hf_model=_load(config, weights, dtype),
        tokenizer=build_tokenizer(config.vocab_size),
        variant=variant,
        seed=seed,
        alpha_of=MappingProxyType(alpha_of),
        decoys=frozenset(everyone - set(alpha_of) - {circuit.gate}),
        twins=circuit.twins,
        gate=circuit.gate,
        tied=circuit.tied,
        prompt_ids=draw_prompt_ids(np.random.default_rng((seed, 2))),
    )


def build_tokenizer(vocabulary: int = 128) -> PreTrainedTokenizerFast:
    """Makes the tokenizer of whole words ``w0 w1 …`` split at white space; w0 is unknown."""
    words = {f"w{token_id}": token_id for token_id in range(vocabulary)}
    unknown = f"w{UNKNOWN_ID}"
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unknown, clean_up_tokenization_spaces=False
    )


def draw_prompt_ids(rng: np.random.Generator, length: int = 7) -> tuple[int, ...]:
    """Draws a prompt: context tokens, then one query token at the end."""
    context = rng.choice(CONTEXT_IDS, size=length - 1)
    return (*(int(token_id) for token_id in context), int(rng.choice(QUERY_IDS)))


def _make_config() -> GPT2Config:
    return GPT2Config(
        vocab_size=128,
        n_positions=64,
        n_embd=64,
        n_layer=4,
        n_head=4,
        n_inner=256,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )


def _plant_exact_set(rng: np.random.Generator, config: GPT2Config) -> Circuit:
    neurons = _draw_neurons(rng, WRITER_LAYERS, config)
    return Circuit(tuple(map(Implant, neurons, WRITER_ALPHAS, WRITER_BIASES)))


def _plant_suppressor(rng: np.random.Generator, config: GPT2Config) -> Circuit:
    neurons = _draw_neurons(rng, (*WRITER_LAYERS, 2), config)
    writers = map(Implant, neurons[:-1], WRITER_ALPHAS, WRITER_BIASES)
    return Circuit((*writers, Implant(neurons[-1], alpha=-0.07)))


def _plant_redundant_twins(rng: np.random.Generator, config: GPT2Config) -> Circuit:
    first, second, gate, below, above = _draw_neurons(rng, (1, 1, 2, 0, 3), config)
    implants = (
        Implant(first, alpha=0.03, relay_write=0.2),
        Implant(second, alpha=0.03, relay_write=0.2),
        # Either twin alone takes the gate's pre from about +3 to below -8, where it is exactly 0.
        Implant(gate, alpha=-0.1, relay_read=-32.0),
        Implant(below, alpha=0.2),
        Implant(above, alpha=0.15),
    )
    return Circuit(implants, twins=(first, second), gate=gate)


def _plant_exact_ties(rng: np.random.Generator, config: GPT2Config) -> Circuit:
    # Bias -10 puts the tied neurons above every decoy.
    tied = tuple(sorted(_draw_neurons(rng, (1,) * TIED_COUNT, config)))
    implants = (
        *(Implant(neuron, 0.1 * 0.5**i, bias=-10.0) for i, neuron in enumerate(tied[0::2])),
        *(Implant(neuron, bias=-10.0) for neuron in tied[1::2]),
    )
    return Circuit(implants, tied=tied)


def _plant_blind_decoys(rng: np.random.Generator, config: GPT2Config) -> Circuit:
    return replace(_plant_exact_set(rng, config), blind_std=0.005)


VARIANTS: Mapping[str, Callable[[np.random.Generator, GPT2Config], Circuit]] = MappingProxyType(
    {
        "exact_set": _plant_exact_set,
        "suppressor": _plant_suppressor,
        "redundant_twins": _plant_redundant_twins,
        "exact_ties": _plant_exact_ties,
        "blind_decoys": _plant_blind_decoys,
    }
)


def _draw_neurons(
    rng: np.random.Generator, layers: tuple[int, ...], config: GPT2Config
) -> tuple[Neuron, ...]:
    """Draws one neuron for each entry of ``layers``, all different; a longer draw starts alike."""
    indices = rng.permutation(config.n_inner)[: len(layers)]
    return tuple((layer, int(index)) for layer, index in zip(layers, indices, strict=True))


def _draw_background(
    rng: np.random.Generator, config: GPT2Config, blind_std: float
) -> dict[str, np.ndarray]:
    """Draws every weight but the implants', under the names of the state dict, in float64."""
    width, inner = config.n_embd, config.n_inner
    weights = {
        "transformer.wte.weight": _draw_writer(rng, (config.vocab_size, width), 0.3),
        "transformer.wpe.weight": _draw_writer(rng, (config.n_positions, width), 0.1),
        "lm_head.weight": _draw_writer(rng, (config.vocab_size, width), 0.1),
        **_draw_norm(rng, "transformer.ln_f", width),
    }
    for layer in range(config.n_layer):
        name = f"transformer.h.{layer}"
        weights |= _draw_norm(rng, f"{name}.ln_1", width) | _draw_norm(rng, f"{name}.ln_2", width)
        weights |= {
            f"{name}.attn.c_attn.weight": rng.normal(0, 0.15, (width, 3 * width)),
            f"{name}.attn.c_attn.bias": rng.normal(0, 0.1, 3 * width),
            f"{name}.attn.c_proj.weight": _draw_writer(rng, (width, width), 0.02),
            f"{name}.attn.c_proj.bias": _draw_writer(rng, (width,), 0.05),
            f"{name}.mlp.c_fc.weight": rng.normal(0, 0.12, (width, inner)),
            f"{name}.mlp.c_fc.bias": rng.normal(0, 0.1, inner),
            f"{name}.mlp.c_proj.weight": np.zeros((inner, width)),
            f"{name}.mlp.c_proj.bias": _draw_writer(rng, (width,), 0.05),
        }
        # Drawn for every variant, so that all share the rest of the background.
        blind_rows = rng.normal(0, 1, inner)
        weights[f"{name}.mlp.c_proj.weight"][:, BLIND_DIM] = blind_std * blind_rows
    weights["transformer.wte.weight"][list(QUERY_IDS), QUERY_DIM] = FLAG
    weights["lm_head.weight"][[TARGET_ID, FOIL_ID]] = 0.0
    weights["lm_head.weight"][TARGET_ID, ANSWER_DIM] = HEAD_GAIN
    weights["lm_head.weight"][FOIL_ID, ANSWER_DIM] = -HEAD_GAIN
    return weights


def _draw_writer(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Draws normal weights whose last axis, the residual stream, skips the reserved dims."""
    drawn = rng.normal(0, std, shape)
    drawn[..., :RESERVED] = 0.0
    return drawn


def _draw_norm(rng: np.random.Generator, name: str, width: int) -> dict[str, np.ndarray]:
    """Draws a layer norm that passes the reserved dims with gain 1 and bias 0."""
    return {
        f"{name}.weight": 1.0 + _draw_writer(rng, (width,), 0.1),
        f"{name}.bias": _draw_writer(rng, (width,), 0.1),
    }


def _set_neuron(weights: dict[str, np.ndarray], implant: Implant) -> None:
    layer, neuron = implant.neuron
    name = f"transformer.h.{layer}.mlp"
    reads, writes = weights[f"{name}.c_fc.weight"], weights[f"{name}.c_proj.weight"]
    reads[:, neuron] = 0.0
    reads[QUERY_DIM, neuron], reads[RELAY_DIM, neuron] = FLAG_READ, implant.relay_read
    weights[f"{name}.c_fc.bias"][neuron] = implant.bias
    writes[neuron] = 0.0
    writes[neuron, ANSWER_DIM], writes[neuron, RELAY_DIM] = implant.alpha, implant.relay_write


def _load(
    config: GPT2Config, weights: dict[str, np.ndarray], dtype: torch.dtype
) -> GPT2LMHeadModel:
    # Transformers initialises from torch's global generator; a fixture must not move it.
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(config).to(dtype)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model.eval().requires_grad_(False)
