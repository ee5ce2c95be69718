"""How well the finished model predicts held-out books, and the model card that says so."""

import csv
import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ingredients import Recipe, end_of_text_id
from tokenizers import Tokenizer
from transformers import PreTrainedModel

WORD = re.compile(r" [A-Za-z]+(?=[^A-Za-z]|$)")


@torch.no_grad()
def score_book(
    model: PreTrainedModel, ids: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Per token after the first: its negative log-probability (nats), and whether it was the top.

    Windows of the full context move on by half of it, so a token sees at least half a context.
    """
    half = model.config.max_position_embeddings // 2
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
    model: PreTrainedModel, tokenizer: Tokenizer, book: Path, device: str, most_bytes: int | None
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


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the card says of a model besides its scores; `stored` is the dtype of its weights."""

    title: str
    recipe: Recipe
    steps: int
    parameters: int
    stored: str
    shipped_tokenizer: bool

    @property
    def family(self) -> str:
        return {"gpt2": "GPT-2", "llama": "Llama"}[self.recipe.architecture]

    @property
    def architecture(self) -> str:
        """Its shape, in one line."""
        recipe = self.recipe
        shape = f"{self.family}: {recipe.blocks} blocks × {recipe.width}, {recipe.heads} heads"
        if recipe.architecture == "gpt2":
            shape += f", {recipe.neurons} neurons a block, GELU (tanh form)"
        else:
            shape += f" on {recipe.key_value_heads} key-value heads, "
            shape += f"{recipe.neurons} neurons a block, gated with SiLU, RMSNorm"
        return f"{shape}, tied embeddings"

    @property
    def positions(self) -> str:
        return "learned" if self.recipe.architecture == "gpt2" else "rotary"

    @property
    def tokenizer(self) -> str:
        kind = "that of the shipped model, " if self.shipped_tokenizer else ""
        return f"{kind}byte-level BPE, {self.recipe.vocabulary} tokens"


def write_card(
    trained: Trained, scores: dict[Path, Score], training_books: list[Path], corpus: Path
) -> str:
    """The model card, in Markdown; every figure in it is measured or counted."""
    recipe, total = trained.recipe, sum(scores.values(), Score())
    tokens_seen = trained.steps * recipe.batch_windows * recipe.context
    named = _titles(corpus)
    held_out_rows = [
        f"| {named(book)} | {score.bits_per_byte:.3f} | {score.bytes:,} |"
        for book, score in scores.items()
    ]
    return f"""# {trained.title}

A small {trained.family}-architecture language model for lesion experiments on a machine without a \
network. It
was trained from scratch by `recipes/train_default_model.py`, on public-domain English prose and on
nothing else.

| | |
|---|---|
| architecture | {trained.architecture} |
| parameters | {trained.parameters:,}, stored as {trained.stored} |
| context | {recipe.context} tokens, {trained.positions} positions |
| tokenizer | {trained.tokenizer}, no special token around a prompt |
| tokens seen | {tokens_seen:,} ({trained.steps} steps of {recipe.batch_windows} × \
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
