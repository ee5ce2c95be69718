"""What the training starts from: the recipe, the books, their tokens and the untrained model."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

HELD_OUT_BOOKS = 4
HELD_OUT_MIN_BYTES = 100_000
END_OF_TEXT = "<|endoftext|>"
ARCHITECTURES = ("gpt2", "llama")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides the weights; stored with the checkpoint, and a different one is refused."""

    architecture: str = "gpt2"
    vocabulary: int = 4096
    blocks: int = 6
    width: int = 192
    heads: int = 6
    context: int = 256
    batch_windows: int = 16
    micro_windows: int = 8
    muon_learning_rate: float = 0.02
    adam_learning_rate: float = 0.003
    weight_decay: float = 0.01
    warmup_steps: int = 100
    seed: int = 0

    @property
    def neurons(self) -> int:
        """The neurons of a block; a gated one has three matrices, so it gets fewer."""
        return (3 if self.architecture == "llama" else 4) * self.width

    @property
    def key_value_heads(self) -> int:
        """The heads for keys and values, each of which serves two heads of a Llama."""
        return self.heads // 2 if self.architecture == "llama" else self.heads


def split_books(corpus: Path) -> tuple[list[Path], list[Path]]:
    """The training and the held-out books of a folder, each sorted by name."""
    books = sorted(corpus.glob("*.txt"))
    large = [book for book in books if book.stat().st_size >= HELD_OUT_MIN_BYTES]
    by_hash = sorted(large, key=lambda book: hashlib.sha256(book.stem.encode()).hexdigest())
    held_out = set(by_hash[:HELD_OUT_BOOKS])
    return [book for book in books if book not in held_out], sorted(held_out)


def train_tokenizer(books: list[Path], recipe: Recipe, path: Path) -> Tokenizer:
    """A byte-level BPE tokenizer in GPT-2's manner, without special tokens around a prompt."""
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        trainer = trainers.BpeTrainer(
            vocab_size=recipe.vocabulary,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train([str(book) for book in books], trainer)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def end_of_text_id(tokenizer: Tokenizer) -> int:
    token_id = tokenizer.token_to_id(END_OF_TEXT)
    assert token_id is not None, "the tokenizer was trained with it"
    return token_id


def encode_books(
    books: list[Path], tokenizer: Tokenizer, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of the books, and the positions at which a paragraph begins."""
    tokens_path, starts_path = folder / "tokens.npy", folder / "starts.npy"
    if not (tokens_path.exists() and starts_path.exists()):
        end = end_of_text_id(tokenizer)
        tokens: list[int] = []
        starts: list[int] = []
        for book in books:
            tokens.append(end)
            paragraphs = book.read_text(encoding="utf-8").split("\n\n")
            pieces = [text + "\n\n" for text in paragraphs[:-1]] + paragraphs[-1:]
            for piece in tokenizer.encode_batch(pieces):
                starts.append(len(tokens))
                tokens.extend(piece.ids)
        np.save(tokens_path, np.array(tokens, dtype=np.uint16))
        np.save(starts_path, np.array(starts, dtype=np.int64))
    return np.load(tokens_path), np.load(starts_path)


def window_starts(epoch: int, total: int, starts: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Shuffled window starts of one epoch; every second window is moved on to a paragraph start."""
    rng = np.random.default_rng((recipe.seed, epoch))
    size = recipe.context + 1
    windows = np.arange(rng.integers(recipe.context), total - 2 * size, recipe.context)
    following = starts[np.minimum(np.searchsorted(starts, windows), len(starts) - 1)]
    near = (following - windows >= 0) & (following - windows <= recipe.context)
    windows = np.where(near & (rng.random(len(windows)) < 0.5), following, windows)
    return np.asarray(rng.permutation(windows))


def batches(
    tokens: np.ndarray, starts: np.ndarray, recipe: Recipe, first_step: int
) -> Iterator[torch.Tensor]:
    """Endless batches of int64 token ids, `batch_windows` × (context + 1), from `first_step` on."""
    step = 0
    for epoch in range(10**9):
        windows = window_starts(epoch, len(tokens), starts, recipe)
        for index in range(len(windows) // recipe.batch_windows):
            if step >= first_step:
                chosen = windows[index * recipe.batch_windows : (index + 1) * recipe.batch_windows]
                rows = tokens[chosen[:, None] + np.arange(recipe.context + 1)]
                yield torch.from_numpy(rows.astype(np.int64))
            step += 1


def build_model(recipe: Recipe, end_of_text: int) -> PreTrainedModel:
    """The untrained model."""
    configure = {"gpt2": _gpt2, "llama": _llama}[recipe.architecture]
    torch.manual_seed(recipe.seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(configure(recipe, end_of_text))
    return model


def _gpt2(recipe: Recipe, end_of_text: int) -> PreTrainedConfig:
    """`gelu_pytorch_tanh` is GPT-2's own GELU, computed in one kernel."""
    return GPT2Config(
        vocab_size=recipe.vocabulary,
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.blocks,
        n_head=recipe.heads,
        activation_function="gelu_pytorch_tanh",
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )


def _llama(recipe: Recipe, end_of_text: int) -> PreTrainedConfig:
    """Rotary positions, RMSNorm, a SiLU-gated MLP, and grouped queries in the attention."""
    return LlamaConfig(
        vocab_size=recipe.vocabulary,
        max_position_embeddings=recipe.context,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        intermediate_size=recipe.neurons,
        hidden_act="silu",
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
