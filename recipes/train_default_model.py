r"""Train the language model that ships with `lesion`, from a folder of plain text.

The steps, each kept in `--work` so that a stopped run goes on where it was:

1. *Split.* The `HELD_OUT_BOOKS` files with the lowest SHA-256 of their name (among those of at
   least 100 kB) are kept out whole. Nobody chooses them, and nothing below sees them.
2. *Tokenizer.* Byte-level BPE on the training books.
3. *Tokens.* Every training book after an end-of-text token, as one array of uint16.
4. *Training.* A GPT-2 from scratch, or with `--architecture llama` a model with a gated MLP and
   grouped-query attention. The order of the windows derives from (seed, epoch), never from a
   running generator, so a resumed run sees what the uninterrupted one would have seen. Half of the
   windows begin at the start of a paragraph, because prompts do.
   Muon moves the matrices of the blocks, AdamW everything else. The learning rate is constant and
   falls linearly to zero over the last `decay` share of the steps.
5. *Export and card.* Weights, config, tokenizer and a model card whose figures are measured on the
   weights as stored.

    python recipes/train_default_model.py CORPUS --export src/lesion/models/default

On two CPU cores the defaults take about an hour. `--device cuda` trains on a GPU.

The gated model that the tests use takes about twelve minutes of one core:

    python recipes/train_default_model.py CORPUS --export tests/fixtures/tiny_llama \
        --work build/llama --architecture llama --shipped-tokenizer --steps 1900 \
        --title "The gated model that the tests use" --blocks 4 --width 64 --heads 4 \
        --context 128 --micro-windows 16 --adam-learning-rate 0.02
"""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from ingredients import (
    ARCHITECTURES,
    END_OF_TEXT,
    Recipe,
    batches,
    build_model,
    encode_books,
    end_of_text_id,
    split_books,
    train_tokenizer,
)
from model_card import Trained, measure_book, write_card
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

SHIPPED_TOKENIZER = Path(__file__).parents[1] / "src/lesion/models/default/tokenizer.json"


class Muon(torch.optim.Optimizer):
    """Momentum, then an update matrix made orthogonal by five Newton-Schulz steps, in float32.

    `torch.optim.Muon` computes them in bfloat16: on a CPU without bfloat16 instructions one step of
    this model took 4.5 s there and 0.14 s here.

    `output_axis` is the axis of the matrices that holds the outputs of their projections.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
        output_axis: int,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, defaults | {"output_axis": output_axis})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            axis = group["output_axis"]
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, matrix.shape[axis] / matrix.shape[1 - axis]) ** 0.5
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


def blocks_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The blocks, whatever they are called: the one list of modules that the base model has."""
    parts = model.base_model.children()
    (blocks,) = (part for part in parts if isinstance(part, torch.nn.ModuleList))
    return blocks


class Training:
    """The model, its two optimizers and the step reached; saves and loads itself without pickle."""

    def __init__(self, recipe: Recipe, end_of_text: int, device: str, folder: Path) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.model = build_model(recipe, end_of_text)
        torch.nn.Module.to(self.model, torch.device(device))
        blocks = blocks_of(self.model)
        matrices = [parameter for parameter in blocks.parameters() if parameter.ndim == 2]
        taken = {id(matrix) for matrix in matrices}
        others = [parameter for parameter in self.model.parameters() if id(parameter) not in taken]
        # GPT-2's projections are stored inputs × outputs, all others outputs × inputs.
        output_axis = 1 if any(isinstance(module, Conv1D) for module in blocks.modules()) else 0
        muon = Muon(matrices, recipe.muon_learning_rate, 0.95, recipe.weight_decay, output_axis)
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
        # A checkpoint from before there was a choice of architecture is a GPT-2.
        stored = {"architecture": "gpt2"} | json.loads(described["recipe"])
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


def export(
    training: Training, tokenizer_file: Path, folder: Path, options: argparse.Namespace
) -> None:
    """Write weights, configuration, tokenizer and card; the card measures what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    large = training.model.num_parameters() > 5_000_000
    stored = torch.float16 if large else torch.float32
    torch.nn.Module.to(training.model, stored)
    training.model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if not options.shipped_tokenizer:
        PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer_file),
            bos_token=END_OF_TEXT,
            eos_token=END_OF_TEXT,
            model_max_length=training.recipe.context,
            clean_up_tokenization_spaces=False,
        ).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    training_books, held_out = split_books(options.corpus)
    measured = model.to(options.device)
    scores = {
        book: measure_book(measured, tokenizer, book, options.device, None) for book in held_out
    }
    trained = Trained(
        title=options.title,
        recipe=training.recipe,
        steps=training.step,
        parameters=training.model.num_parameters(),
        stored=str(stored).removeprefix("torch."),
        shipped_tokenizer=options.shipped_tokenizer,
    )
    card = write_card(trained, scores, training_books, options.corpus)
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


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
    parser.add_argument("--title", default="The model that ships with `lesion`", help="of the card")
    parser.add_argument(
        "--shipped-tokenizer",
        action="store_true",
        help="use the tokenizer of the model that ships with `lesion`, and export none",
    )
    for field in dataclasses.fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        choices = ARCHITECTURES if field.name == "architecture" else None
        parser.add_argument(flag, type=type(field.default), default=field.default, choices=choices)
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


def _take_shipped_tokenizer(path: Path) -> None:
    if path.exists() and path.read_bytes() != SHIPPED_TOKENIZER.read_bytes():
        raise SystemExit(f"{path.parent}: its tokens were made with another tokenizer")
    shutil.copy(SHIPPED_TOKENIZER, path)


def main() -> None:
    options = read_options()
    fields = dataclasses.fields(Recipe)
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields})
    options.work.mkdir(parents=True, exist_ok=True)
    training_books, held_out = split_books(options.corpus)
    tokenizer_file = options.work / "tokenizer.json"
    if options.shipped_tokenizer:
        _take_shipped_tokenizer(tokenizer_file)
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
        export(training, tokenizer_file, options.export, options)


if __name__ == "__main__":
    main()
