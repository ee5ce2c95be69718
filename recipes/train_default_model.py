"""Train the language model that ships with `lesion`, from a folder of plain text.

The steps, each kept in `--work` so that a stopped run goes on where it was:

1. *Split.* The `HELD_OUT_BOOKS` files with the lowest SHA-256 of their name (among those of at
   least 100 kB) are kept out whole. Nobody chooses them, and nothing below sees them.
2. *Tokenizer.* Byte-level BPE on the training books.
3. *Tokens.* Every training book after an end-of-text token, as one array of uint16.
4. *Training.* A GPT-2 from scratch. The order of the windows derives from (seed, epoch), never
   from a running generator, so a resumed run sees what the uninterrupted one would have seen.
   Half of the windows begin at the start of a paragraph, because prompts do.
   Muon moves the matrices of the blocks, AdamW everything else. The learning rate is constant and
   falls linearly to zero over the last `decay` share of the steps.
5. *Export and card.* Weights, config, tokenizer and a model card whose figures are measured on the
   weights as stored.

    python recipes/train_default_model.py CORPUS --work build/model --export src/lesion/models/default

On two CPU cores the defaults take about two hours. `--device cuda` trains on a GPU.
"""

import argparse
import csv
import dataclasses
import hashlib
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

HELD_OUT_BOOKS = 4
HELD_OUT_MIN_BYTES = 100_000
END_OF_TEXT = "<|endoftext|>"
WORD = re.compile(r" [A-Za-z]+(?=[^A-Za-z]|$)")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. Stored with the checkpoint; a different one is refused."""

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


def encode_books(
    books: list[Path], tokenizer: Tokenizer, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of the books, and the positions at which a paragraph begins."""
    tokens_path, starts_path = folder / "tokens.npy", folder / "starts.npy"
    if not (tokens_path.exists() and starts_path.exists()):
        end = tokenizer.token_to_id(END_OF_TEXT)
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


def batches(tokens: np.ndarray, starts: np.ndarray, recipe: Recipe, first_step: int):
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


def build_model(recipe: Recipe, end_of_text: int) -> GPT2LMHeadModel:
    """The untrained model. `gelu_pytorch_tanh` is GPT-2's own GELU, computed in one kernel."""
    torch.manual_seed(recipe.seed)
    config = GPT2Config(
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
    return GPT2LMHeadModel(config)


class Muon(torch.optim.Optimizer):
    """Momentum, then an update matrix made orthogonal by five Newton-Schulz steps, in float32.

    `torch.optim.Muon` computes them in bfloat16: on a CPU without bfloat16 instructions one step of
    this model took 4.5 s there and 0.14 s here.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(
        self, matrices: list[torch.Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, matrix.shape[1] / matrix.shape[0]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with nearly the same singular vectors and all singular values near one."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = torch.addmm(
            wide, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), wide, beta=3.4445
        )
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Training:
    """The model, its two optimizers and the step reached; saves and loads itself without pickle."""

    def __init__(self, recipe: Recipe, end_of_text: int, device: str, folder: Path) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.model = build_model(recipe, end_of_text).to(device)
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and ".h." in n]
        others = [p for n, p in self.model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
        muon = Muon(matrices, recipe.muon_learning_rate, 0.95, recipe.weight_decay)
        adam = torch.optim.AdamW(
            others, lr=recipe.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.optimizers = (muon, adam)
        self.peaks = (recipe.muon_learning_rate, recipe.adam_learning_rate)
        self.step = 0
        if (folder / "checkpoint.safetensors").exists():
            self._load()

    def set_learning_rate(self, steps: int, decay: float) -> None:
        warm = min(1.0, (self.step + 1) / self.recipe.warmup_steps)
        cool = min(1.0, (steps - self.step) / max(1.0, decay * steps))
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * warm * cool

    def update(self, rows: torch.Tensor) -> torch.Tensor:
        """One step on int64 rows × (context + 1); the loss in nats a token."""
        losses = []
        for part in rows.to(self.device).split(self.recipe.micro_windows):
            logits = self.model(part[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
            (loss * (len(part) / len(rows))).backward()
            losses.append(loss.detach() * len(part) / len(rows))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return torch.stack(losses).sum()

    def save(self) -> None:
        tensors = {
            f"model.{k}": v for k, v in self.model.state_dict().items() if k != "lm_head.weight"
        }
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer.{number}.{index}.{key}"] = value
        # One file, replaced at once, so that weights, optimizers and step never disagree.
        described = {"step": str(self.step), "recipe": json.dumps(dataclasses.asdict(self.recipe))}
        temporary = self.folder / "checkpoint.tmp"
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=described)
        temporary.replace(self.folder / "checkpoint.safetensors")

    def _load(self) -> None:
        with safe_open(self.folder / "checkpoint.safetensors", "pt") as file:
            described = file.metadata()
        stored = json.loads(described["recipe"])
        asked = dataclasses.asdict(self.recipe)
        differing = [key for key in asked if asked[key] != stored.get(key)]
        if differing:
            raise SystemExit(
                f"{self.folder}: the checkpoint was made with another recipe: {differing}"
            )
        tensors = load_file(self.folder / "checkpoint.safetensors", device=self.device)
        weights = {
            k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")
        }
        self.model.load_state_dict(weights, strict=False)
        for number, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimizer.{number}."):
                    _, _, index, key = name.split(".", 3)
                    state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.step = int(described["step"])


@torch.no_grad()
def score_book(
    model: GPT2LMHeadModel, ids: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Per token after the first: its negative log-probability (nats) and whether it was the top one.

    Windows of the full context move on by half of it, so a token sees at least half a context.
    """
    context = model.config.n_positions
    half = context // 2
    rows = torch.from_numpy(ids.astype(np.int64))
    losses, hits = np.zeros(len(ids)), np.zeros(len(ids), dtype=bool)
    begins = list(range(0, max(1, len(ids) - half), half))
    for chunk in range(0, len(begins), 64):
        windows = [rows[b : b + context + 1] for b in begins[chunk : chunk + 64]]
        padded = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).to(device)
        logits = model(padded[:, :-1]).logits.float()
        log_prob = logits.log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0].cpu().numpy()
        right = (logits.argmax(-1) == padded[:, 1:]).cpu().numpy()
        for row, begin in enumerate(begins[chunk : chunk + 64]):
            first = 0 if begin == 0 else half
            last = len(windows[row]) - 1
            losses[begin + 1 + first : begin + 1 + last] = -log_prob[row, first:last]
            hits[begin + 1 + first : begin + 1 + last] = right[row, first:last]
    return losses[1:], hits[1:]


def measure(
    model: GPT2LMHeadModel, tokenizer: Tokenizer, books: list[Path], device: str
) -> dict[str, float]:
    """Bits per byte, next-token and next-word accuracy over whole books.

    A word (a space and its letters) counts as right when each of its tokens was the top one.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    nats = right_tokens = tokens = right_words = words = bytes_total = 0.0
    for book in books:
        text = book.read_text(encoding="utf-8")
        encoding = tokenizer.encode(text)
        losses, hits = score_book(model, np.array([end, *encoding.ids]), device)
        nats += losses.sum()
        right_tokens += hits.sum()
        tokens += len(hits)
        bytes_total += len(text.encode())
        offsets = np.array(encoding.offsets)
        missed = np.concatenate([[0], np.cumsum(~hits)])
        for word in WORD.finditer(text):
            first = np.searchsorted(offsets[:, 0], word.start())
            after = np.searchsorted(offsets[:, 0], word.end())
            right_words += missed[after] == missed[first]
            words += 1
    return {
        "held_out_bits_per_byte": nats / math.log(2) / bytes_total,
        "next_token_accuracy": right_tokens / tokens,
        "next_word_accuracy": right_words / words,
        "held_out_bytes": bytes_total,
        "held_out_tokens": tokens,
        "held_out_words": words,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder of *.txt books, UTF-8")
    parser.add_argument("--work", type=Path, default=Path("build/model"))
    parser.add_argument("--export", type=Path, help="write the finished model here")
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument(
        "--decay", type=float, default=0.4, help="share of the steps that cool down"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-every", type=int, default=100)
    for field in dataclasses.fields(Recipe):
        parser.add_argument(
            "--" + field.name.replace("_", "-"), type=type(field.default), default=field.default
        )
    options = parser.parse_args()
    recipe = Recipe(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)}
    )
    options.work.mkdir(parents=True, exist_ok=True)

    training_books, held_out = split_books(options.corpus)
    tokenizer = train_tokenizer(training_books, recipe, options.work / "tokenizer.json")
    tokens, starts = encode_books(training_books, tokenizer, options.work)
    training = Training(recipe, tokenizer.token_to_id(END_OF_TEXT), options.device, options.work)
    print(
        f"{len(training_books)} books, {len(tokens):,} tokens, {training.model.num_parameters():,} parameters; "
        f"held out: {', '.join(book.stem for book in held_out)}; from step {training.step} to {options.steps}",
        flush=True,
    )
    begun, first_step, recent = time.perf_counter(), training.step, []
    for rows in batches(tokens, starts, recipe, training.step):
        if training.step >= options.steps:
            break
        training.set_learning_rate(options.steps, options.decay)
        recent.append(training.update(rows))
        if training.step % 20 == 0:
            rate = (
                (training.step - first_step) * rows[:, 1:].numel() / (time.perf_counter() - begun)
            )
            loss = torch.stack(recent).mean().item()
            recent.clear()
            print(
                f"step {training.step} loss {loss:.4f} nats/token, {rate:,.0f} tokens/s", flush=True
            )
        if training.step % options.save_every == 0 or training.step == options.steps:
            training.save()


if __name__ == "__main__":
    main()
