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

    python recipes/train_default_model.py CORPUS --export src/lesion/models/default

On two CPU cores the defaults take about an hour. `--device cuda` trains on a GPU.
"""

import argparse
import csv
import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
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
    """What decides the weights; stored with the checkpoint, and a different one is refused."""

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
        self, matrices: list[torch.nn.Parameter], lr: float, momentum: float, weight_decay: float
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
        self.model = build_model(recipe, end_of_text)
        torch.nn.Module.to(self.model, torch.device(device))
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
    """Per token after the first: its negative log-probability (nats), and whether it was the top.

    Windows of the full context move on by half of it, so a token sees at least half a context.
    """
    half = model.config.n_positions // 2
    rows = torch.from_numpy(ids.astype(np.int64))
    losses, hits = np.zeros(len(ids)), np.zeros(len(ids), dtype=bool)
    begins = list(range(0, max(1, len(ids) - half), half))
    for chunk in range(0, len(begins), 16):
        windows = [rows[b : b + 2 * half + 1] for b in begins[chunk : chunk + 16]]
        padded = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).to(device)
        logits = model(padded[:, :-1], use_cache=False).logits.float()
        log_prob = logits.log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0].cpu().numpy()
        right = (logits.argmax(-1) == padded[:, 1:]).cpu().numpy()
        for row, begin in enumerate(begins[chunk : chunk + 16]):
            scored = slice(0 if begin == 0 else half, len(windows[row]) - 1)
            places = slice(begin + 1 + scored.start, begin + 1 + scored.stop)
            losses[places], hits[places] = -log_prob[row, scored], right[row, scored]
    return losses[1:], hits[1:]


@dataclasses.dataclass(frozen=True)
class Score:
    """Sums over held-out text.

    A word is a space and its letters, and counts as right when each of its tokens was the model's
    top one.
    """

    nats: float = 0.0
    bytes: int = 0
    tokens: int = 0
    right_tokens: int = 0
    words: int = 0
    right_words: int = 0

    def __add__(self, other: "Score") -> "Score":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Score(*(mine + theirs for mine, theirs in pairs))

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def measure_book(
    model: GPT2LMHeadModel, tokenizer: Tokenizer, book: Path, device: str, most_bytes: int | None
) -> Score:
    """The score of one whole book, or of its first bytes where `most_bytes` is given."""
    text = book.read_bytes()[:most_bytes].decode("utf-8", errors="ignore")
    encoding = tokenizer.encode(text)
    end = end_of_text_id(tokenizer)
    losses, hits = score_book(model, np.array([end, *encoding.ids]), device)
    begins = np.array([begin for begin, _ in encoding.offsets])
    missed = np.concatenate([[0], np.cumsum(~hits)])
    words = [(word.start(), word.end()) for word in WORD.finditer(text)]
    edges = np.searchsorted(begins, np.array(words).reshape(-1, 2))
    return Score(
        nats=float(losses.sum()),
        bytes=len(text.encode()),
        tokens=len(hits),
        right_tokens=int(hits.sum()),
        words=len(words),
        right_words=int((missed[edges[:, 0]] == missed[edges[:, 1]]).sum()),
    )


def export(
    training: Training,
    tokenizer_file: Path,
    folder: Path,
    corpus: Path,
    options: argparse.Namespace,
) -> None:
    """Write weights, configuration, tokenizer and card; the card measures what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    large = training.model.num_parameters() > 5_000_000
    stored = torch.float16 if large else torch.float32
    torch.nn.Module.to(training.model, stored)
    training.model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=training.recipe.context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval().to(options.device)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    training_books, held_out = split_books(corpus)
    scores = {book: measure_book(model, tokenizer, book, options.device, None) for book in held_out}
    card = write_card(training, stored, scores, training_books, corpus)
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def write_card(
    training: Training,
    stored: torch.dtype,
    scores: dict[Path, Score],
    training_books: list[Path],
    corpus: Path,
) -> str:
    """The model card, in Markdown; every figure in it is measured or counted."""
    recipe, total = training.recipe, sum(scores.values(), Score())
    tokens_seen = training.step * recipe.batch_windows * recipe.context
    named = _titles(corpus)
    held_out_rows = [
        f"| {named(book)} | {score.bits_per_byte:.3f} | {score.bytes:,} |"
        for book, score in scores.items()
    ]
    return f"""# The model that ships with `lesion`

A small GPT-2-architecture language model for lesion experiments on a machine without a network. It
was trained from scratch by `recipes/train_default_model.py`, on public-domain English prose and on
nothing else.

| | |
|---|---|
| architecture | GPT-2: {recipe.blocks} blocks × {recipe.width}, {recipe.heads} heads, \
{4 * recipe.width} neurons a block, GELU (tanh form), tied embeddings |
| parameters | {training.model.num_parameters():,}, stored as {str(stored).split(".")[1]} |
| context | {recipe.context} tokens, learned positions |
| tokenizer | byte-level BPE, {recipe.vocabulary} tokens, no special token around a prompt |
| tokens seen | {tokens_seen:,} ({training.step} steps of {recipe.batch_windows} × \
{recipe.context}) |
| seed | {recipe.seed} |
| licence | MIT, like the package; the texts are in the public domain |

## Measured quality

On the stored weights computed in float32, over four whole books that neither the tokenizer nor the
training saw. They are those of the corpus whose file names hash lowest, so nobody chose them. A
token sees at least {recipe.context // 2} tokens before it, or all there are.

| | |
|---|---|
| held-out bits per byte | **{total.bits_per_byte:.3f}** |
| next-token accuracy | {total.right_tokens / total.tokens:.1%} of {total.tokens:,} tokens |
| next-word accuracy | {total.right_words / total.words:.1%} of {total.words:,} words |

| held-out book | bits per byte | bytes |
|---|---|---|
{chr(10).join(held_out_rows)}

## Limits

It knows the English of novels and tales printed before 1930, their spelling, their subjects and
their prejudices, and little of the world. It continues a sentence plausibly for some words; it
cannot follow instructions, reason or recall facts. It is meant for experiments on how such a
network works, not for producing text that anyone relies on.

## Data

{len(training_books)} books for training. No text was repeated on purpose, and none was added
for the demonstration.

{chr(10).join(f"* {named(book)}" for book in training_books)}
""".replace(" \\\n", " ")


def _titles(corpus: Path) -> Callable[[Path], str]:
    """Title, author and year of a book from the corpus's SOURCES.tsv, or its file name."""
    listed: dict[str, dict[str, str]] = {}
    if (corpus / "SOURCES.tsv").exists():
        with (corpus / "SOURCES.tsv").open(encoding="utf-8", newline="") as file:
            listed = {row["slug"]: row for row in csv.DictReader(file, delimiter="\t")}

    def named(book: Path) -> str:
        row = listed.get(book.stem)
        if row is None:
            return book.stem
        return f"{row['title']}, {row['author']} ({row['year first published']})"

    return named


def read_options() -> argparse.Namespace:
    """The command line: the folder, what to write, and every field of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder of *.txt books, UTF-8")
    parser.add_argument("--work", type=Path, default=Path("build/model"))
    parser.add_argument("--export", type=Path, help="write the finished model here")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--decay", type=float, default=0.4, help="share of steps that cool down")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-every", type=int, default=100)
    for field in dataclasses.fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    return parser.parse_args()


def train(
    training: Training, tokens: np.ndarray, starts: np.ndarray, options: argparse.Namespace
) -> None:
    """Train up to the asked number of steps, saving and saying how it goes."""
    begun, first_step, recent = time.perf_counter(), training.step, []
    for rows in batches(tokens, starts, training.recipe, training.step):
        if training.step >= options.steps:
            break
        training.set_learning_rate(options.steps, options.decay)
        recent.append(training.update(rows))
        if training.step % 20 == 0:
            seconds = time.perf_counter() - begun
            rate = (training.step - first_step) * rows[:, 1:].numel() / seconds
            loss = torch.stack(recent).mean().item()
            recent.clear()
            print(f"step {training.step} loss {loss:.4f} nats/token, {rate:,.0f} tokens/s")
        if training.step % options.save_every == 0 or training.step == options.steps:
            training.save()


def main() -> None:
    options = read_options()
    fields = dataclasses.fields(Recipe)
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields})
    options.work.mkdir(parents=True, exist_ok=True)
    training_books, held_out = split_books(options.corpus)
    tokenizer_file = options.work / "tokenizer.json"
    tokenizer = train_tokenizer(training_books, recipe, tokenizer_file)
    tokens, starts = encode_books(training_books, tokenizer, options.work)
    training = Training(recipe, end_of_text_id(tokenizer), options.device, options.work)
    print(
        f"{len(training_books)} books, {len(tokens):,} tokens, "
        f"{training.model.num_parameters():,} parameters; "
        f"held out: {', '.join(book.stem for book in held_out)}; "
        f"from step {training.step} to {options.steps}"
    )
    train(training, tokens, starts, options)
    if options.export is not None:
        export(training, tokenizer_file, options.export, options.corpus, options)


if __name__ == "__main__":
    main()
