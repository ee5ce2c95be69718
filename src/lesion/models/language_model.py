"""A language model whose MLP neurons can be reached: `LanguageModel` and its `Block`s."""

import contextlib
import dataclasses
import operator
import threading
import weakref
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from lesion.axes import Site
from lesion.errors import UnknownLayer, UnsuitableFamily
from lesion.models.families import Family, family_of


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """One transformer block and the modules of its MLP, as `Family` names them."""

    module: nn.Module
    pre: nn.Module
    activation: nn.Module
    up: nn.Module | None
    down: nn.Module

    @property
    def neurons(self) -> int:
        """Size of the vector at the sites `pre` and `post`."""
        return int(_weight(self.down).shape[0 if isinstance(self.down, Conv1D) else 1])

    @property
    def width(self) -> int:
        """Size of the vector at the site `out`: d_model."""
        return int(_weight(self.down).shape[1 if isinstance(self.down, Conv1D) else 0])

    def size(self, site: Site) -> int:
        """Size of the vector at a site."""
        return self.width if site == "out" else self.neurons

    def post_of(
        self, pre: Float[Tensor, "row neuron"], mlp_input: Float[Tensor, "row width"]
    ) -> Float[Tensor, "row neuron"]:
        """What the down projection would get for these values at `pre`; no hook is called."""
        post: Tensor = self.activation.forward(pre)
        return post if self.up is None else post * self.up.forward(mlp_input)

    def output_norms(self) -> Float[Tensor, " neuron"]:
        """Euclidean norm of each neuron's output weights, in the weights' dtype."""
        # Conv1D keeps (input, output), Linear (output, input).
        axis = 1 if isinstance(self.down, Conv1D) else 0
        with _fetched(self.down):
            norms: Tensor = torch.linalg.vector_norm(_weight(self.down).detach(), dim=axis)
        return norms


@dataclasses.dataclass(frozen=True)
class Origin:
    """How a model was loaded, in words that another process can load it by; see `load`.

    `config` is the JSON text of a configuration.
    """

    name: str | None
    revision: str | None
    device: str | None
    dtype: str | None
    config: str | None = None
    random_weights: int | None = None


class LanguageModel:
    """An unmodified Hugging Face model, its tokenizer, and the blocks of its MLPs.

    The model is causal, or masked where its family says so. `source` says in words where the
    weights came from, `revision` is the commit on the Hub if there is one.

    Raises:
        UnknownFamily: nobody has said where this architecture keeps its MLP.
        UnsuitableFamily: this architecture, or this form of it, cannot be lesioned.
    """

    def __init__(
        self,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        source: str,
        revision: str | None = None,
        origin: Origin | None = None,
        weight_files: Sequence[Path] = (),
    ) -> None:
        self.hf_model = hf_model
        self.tokenizer = tokenizer
        self.name = name
        self.source = source
        self.revision = revision
        self.origin = origin
        """How another process loads the same model; None for one that was handed over."""
        self.weight_files = tuple(weight_files)
        self.family = family_of(hf_model.config.model_type, name)
        self.blocks = _blocks(hf_model, self.family)
        _check_undivided(self.blocks, name)
        self.tail = _tail(hf_model, self.family)
        # Hooks on a module are seen by every thread that runs it: one engine call at a time.
        self.lock = _lock_of(hf_model.config)
        # How often lesions of a kind were measured: what decides when the engines are compared.
        self.uses: Counter[Hashable] = Counter()
        # The state of the weights with their hash, when it was last taken.
        self.fingerprint: tuple[tuple[tuple[int, int], ...], str] | None = None
        self.state_when_loaded = self.state_of_weights() if self.weight_files else None

    def state_of_weights(self) -> tuple[tuple[int, int], ...]:
        """Which memory the weights are in, and how often PyTorch saw it written to."""
        return tuple(
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in self.hf_model.state_dict(keep_vars=True).values()
        )

    @property
    def config(self) -> Any:
        """The model's Hugging Face configuration."""
        return self.hf_model.config

    @property
    def context(self) -> int | None:
        """Most tokens that a prompt may have, or None where the architecture sets no limit."""
        most: int | None = getattr(self.config, "max_position_embeddings", None)
        if most is not None and self.family.positions_after_padding:
            most -= self.config.pad_token_id + 1
        return most

    @property
    def device(self) -> torch.device:
        """Where token ids are to be put: where the embeddings are, if it is on several devices."""
        device = _weight(self.hf_model.get_input_embeddings()).device
        # Weights that are fetched from disk when needed; transformers then moves the token ids.
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def dtype(self) -> str:
        """Name of the weights' dtype, for example `float32`."""
        return str(self.hf_model.dtype).removeprefix("torch.")

    @property
    def pre_norm(self) -> bool:
        """Whether the residual stream is a plain sum: no block normalises after adding to it."""
        if isinstance(self.family.pre_norm, bool):
            return self.family.pre_norm
        word, value = self.family.pre_norm
        return bool(getattr(self.config, word) == value)

    def logits_of(self, hidden: Float[Tensor, "row width"]) -> Float[Tensor, "row vocabulary"]:
        """The logits of residual streams as the last block leaves them: norm, head, soft-cap."""
        for module in self.tail:
            hidden = module(hidden)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return hidden if cap is None else torch.tanh(hidden / cap) * cap

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode (no dropout); each module's own mode is restored afterwards."""
        modes = [(module, module.training) for module in self.hf_model.modules()]
        self.hf_model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def check_layers(self, layers: tuple[int, ...]) -> None:
        """Refuse blocks that the model does not have.

        Raises:
            UnknownLayer: naming the first of them and the model's blocks.
        """
        unknown = [layer for layer in layers if not 0 <= layer < len(self.blocks)]
        if unknown:
            raise UnknownLayer(
                f"layer {unknown[0]}",
                f"{self.name} has {len(self.blocks)} blocks",
                f"Its layers are numbered from 0 to {len(self.blocks) - 1}",
                "Pass layers in that range",
            )

    def check_neurons(self, neurons: Iterable[tuple[int, int]], site: Site) -> None:
        """Refuse (layer, neuron) pairs that the model does not have at a site.

        Raises:
            UnknownLayer: naming the first of them and the size of its block.
        """
        for layer, neuron in neurons:
            self.check_layers((layer,))
            size = self.blocks[layer].size(site)
            if neuron >= size:
                raise UnknownLayer(
                    f"neuron {neuron} of layer {layer} at site {site}",
                    f"the vector there has {size} values",
                    f"They are numbered from 0 to {size - 1}",
                    "Correct the set",
                )

    def __repr__(self) -> str:
        neurons = " / ".join(str(n) for n in sorted({block.neurons for block in self.blocks}))
        return (
            f"LanguageModel({self.name!r}: {self.family.name}, {len(self.blocks)} blocks × "
            f"{neurons} neurons, {self.dtype} on {self.device})"
        )


# A configuration names the attention of every model made from it, so these share one lock, and so
# do several LanguageModels of the same modules. It is not kept on it: configurations are copied.
_LOCKS: dict[int, threading.RLock] = {}
_LOCKS_GUARD = threading.Lock()


def _lock_of(config: object) -> threading.RLock:
    with _LOCKS_GUARD:
        if id(config) not in _LOCKS:
            _LOCKS[id(config)] = threading.RLock()
            weakref.finalize(config, _LOCKS.pop, id(config), None)
        return _LOCKS[id(config)]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor), "a projection has a weight, and so have embeddings"
    return weight


@contextlib.contextmanager
def _fetched(projection: nn.Module) -> Iterator[None]:
    """Has the weights there that accelerate keeps elsewhere while the projection does not run."""
    hook: Any = getattr(projection, "_hf_hook", None)
    if hook is None or not _weight(projection).is_meta:
        yield
        return
    hook.pre_forward(projection)
    try:
        yield
    finally:
        hook.post_forward(projection, None)


def _tail(hf_model: PreTrainedModel, family: Family) -> tuple[nn.Module, ...]:
    found = (operator.attrgetter(path)(hf_model) for path in family.tail)
    return tuple(module for module in found if module is not None)


def _blocks(hf_model: PreTrainedModel, family: Family) -> tuple[Block, ...]:
    modules = hf_model.get_submodule(family.blocks)
    assert isinstance(modules, nn.ModuleList), f"{family.blocks} is no list of blocks"
    return tuple(
        Block(
            module=module,
            pre=module.get_submodule(family.pre),
            activation=module.get_submodule(family.activation),
            up=module.get_submodule(family.up) if family.up else None,
            down=module.get_submodule(family.down),
        )
        for module in modules
    )


def _check_undivided(blocks: tuple[Block, ...], asked: str) -> None:
    """Refuse blocks whose MLP runs several times a pass, which would move each token's index."""
    # Asked of the modules: every configuration has this word, and few architectures follow it.
    sizes = [getattr(block.module, "chunk_size_feed_forward", 0) for block in blocks]
    tokens = max(sizes, default=0)
    if tokens > 0:
        raise UnsuitableFamily(
            f"model {asked!r}",
            f"its MLPs run on chunk_size_feed_forward={tokens} tokens at a time",
            "A lesion is at a token's index in the whole prompt, which such a part does not know",
            "Pass as hf_model the model loaded with chunk_size_feed_forward=0: its logits are the "
            "same",
        )
