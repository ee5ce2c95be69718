"""The training recipe on a few pages: its split, its order, its resume, its measures."""

import importlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import lesion
from lesion.models.loading import shipped_tokenizer

RECIPES = Path(__file__).parents[1] / "recipes"
ARCHITECTURES = ("gpt2", "llama")
SENTENCES = [
    "The captain of the ship was an old man, and he had seen many storms.",
    "She opened the door, and the cold wind came into the little room.",
    "Nobody in the village knew where the two brothers had gone that winter.",
    "It rained all day; the children sat by the fire and told each other tales.",
]


@pytest.fixture(scope="module")
def recipe() -> Iterator[ModuleType]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        yield importlib.import_module("train_default_model")


@pytest.fixture(scope="module")
def ingredients(recipe: ModuleType) -> ModuleType:
    """What the script starts from."""
    return importlib.import_module("ingredients")


@pytest.fixture(scope="module")
def card(recipe: ModuleType) -> ModuleType:
    """What the script measures and writes at the end."""
    return importlib.import_module("model_card")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven books; six of them are long enough to be kept out."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(7):
        paragraphs = [" ".join(rng.permutation(SENTENCES)) for _ in range(400 if number else 4)]
        (folder / f"book-{number}.txt").write_text("\n\n".join(paragraphs))
    return folder


def small(recipe: ModuleType, **words: int | str) -> object:
    sizes = {"vocabulary": 300, "blocks": 2, "width": 16, "heads": 2, "context": 16}
    return recipe.Recipe(**sizes, batch_windows=4, micro_windows=2, warmup_steps=2, **words)


def test_held_out_books_are_chosen_by_their_hash_and_are_long(
    recipe: ModuleType, corpus: Path
) -> None:
    training, held_out = recipe.split_books(corpus)
    assert len(held_out) == 4
    assert {book.stem for book in training} | {book.stem for book in held_out} == {
        f"book-{number}" for number in range(7)
    }
    assert not set(training) & set(held_out)
    assert "book-0" in {book.stem for book in training}


def test_an_epoch_reads_nearly_every_token_once(ingredients: ModuleType) -> None:
    words = small(ingredients)
    starts = np.arange(5, 1000, 40)
    windows = ingredients.window_starts(0, 1000, starts, words)
    assert len(set(windows.tolist()) & set(starts.tolist())) >= 5
    read = np.zeros(1000, dtype=int)
    for window in windows:
        read[window : window + words.context] += 1
    assert (read[50:900] == 1).mean() > 0.6
    assert read.max() <= 2
    assert not np.array_equal(windows, ingredients.window_starts(1, 1000, starts, words))


def test_orthogonalise_keeps_the_directions_and_evens_the_values(recipe: ModuleType) -> None:
    matrix = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 30))).float()
    for wide in (matrix, matrix.T):
        result = recipe.orthogonalise(wide)
        values = torch.linalg.svdvals(result)
        assert result.shape == wide.shape
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3
        left, _, right = torch.linalg.svd(wide, full_matrices=False)
        assert float((result - left @ right).norm() / (left @ right).norm()) < 0.35


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stopped_training_goes_on_to_the_same_weights(
    recipe: ModuleType, corpus: Path, tmp_path: Path, architecture: str
) -> None:
    words = small(recipe, architecture=architecture)

    def trained(folder: Path, stops: list[int]) -> dict[str, torch.Tensor]:
        folder.mkdir()
        books, _ = recipe.split_books(corpus)
        tokenizer = recipe.train_tokenizer(books, words, folder / "tokenizer.json")
        tokens, starts = recipe.encode_books(books, tokenizer, folder)
        for stop in stops:
            training = recipe.Training(words, 0, "cpu", folder)
            for rows in recipe.batches(tokens, starts, training.recipe, training.step):
                if training.step >= stop:
                    break
                training.set_learning_rate(8, 0.5)
                training.update(rows)
            training.save()
        return dict(training.model.state_dict())

    whole, resumed = trained(tmp_path / "a", [8]), trained(tmp_path / "b", [3, 8])
    for name, weights in whole.items():
        assert torch.equal(weights, resumed[name]), name
    with pytest.raises(SystemExit, match=r"another recipe: \['seed'\]"):
        recipe.Training(small(recipe, architecture=architecture, seed=1), 0, "cpu", tmp_path / "a")


def test_a_checkpoint_from_before_the_choice_is_a_gpt2(recipe: ModuleType, tmp_path: Path) -> None:
    training = recipe.Training(small(recipe), 0, "cpu", tmp_path)
    training.step = 5
    training.save()
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        described = file.metadata()
    assert '"architecture": "gpt2", ' in described["recipe"]
    described["recipe"] = described["recipe"].replace('"architecture": "gpt2", ', "")
    save_file(load_file(path), path, metadata=described)
    assert recipe.Training(small(recipe), 0, "cpu", tmp_path).step == 5
    with pytest.raises(SystemExit, match=r"another recipe: \['architecture'\]"):
        recipe.Training(small(recipe, architecture="llama"), 0, "cpu", tmp_path)


@pytest.mark.parametrize(("architecture", "matrices"), [("gpt2", 4), ("llama", 7)])
def test_muon_moves_the_matrices_of_the_blocks_and_adam_the_rest(
    recipe: ModuleType, tmp_path: Path, architecture: str, matrices: int
) -> None:
    training = recipe.Training(small(recipe, architecture=architecture), 0, "cpu", tmp_path)
    muon, adam = (
        {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in training.optimizers
    )
    assert len(muon) == 2 * matrices
    assert not muon & adam
    assert muon | adam == {id(parameter) for parameter in training.model.parameters()}
    assert id(training.model.get_input_embeddings().weight) in adam


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_widening_projection_is_moved_further(
    recipe: ModuleType, tmp_path: Path, architecture: str
) -> None:
    """By the root of outputs over inputs, whichever axis of the matrix they lie on."""
    training = recipe.Training(small(recipe, architecture=architecture), 0, "cpu", tmp_path)
    mlp = recipe.blocks_of(training.model)[0].mlp
    widening, narrowing = (
        (mlp.c_fc, mlp.c_proj) if architecture == "gpt2" else (mlp.up_proj, mlp.down_proj)
    )
    factor = {"gpt2": 4, "llama": 3}[architecture] ** 0.5
    before = [projection.weight.detach().clone() for projection in (widening, narrowing)]
    rows = torch.from_numpy(np.random.default_rng(3).integers(0, 300, size=(4, 17)))
    training.set_learning_rate(8, 0.5)
    training.update(rows)
    moved = [
        float((projection.weight.detach() - old).norm())
        for projection, old in zip((widening, narrowing), before, strict=True)
    ]
    assert moved[0] / moved[1] == pytest.approx(factor, rel=0.2)


def test_the_gated_model_shares_its_keys_and_values(recipe: ModuleType) -> None:
    model = recipe.build_model(small(recipe, architecture="llama"), 0)
    assert model.config.model_type == "llama"
    assert model.config.num_attention_heads == 2
    assert model.config.num_key_value_heads == 1
    assert model.config.intermediate_size == 48
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_ignorant_model_needs_the_bits_of_a_uniform_guess(
    recipe: ModuleType, card: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    books, held_out = recipe.split_books(corpus)
    tokenizer = recipe.train_tokenizer(books, small(recipe), tmp_path / "tokenizer.json")
    model = recipe.build_model(small(recipe), 0).eval()
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    score = card.measure_book(model, tokenizer, held_out[0], "cpu", 3000)
    bits = math.log2(300) * score.tokens / score.bytes
    assert score.bits_per_byte == pytest.approx(bits, rel=1e-6)
    assert score.bytes == 3000
    assert score.right_tokens == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_token_is_scored_once_as_a_plain_pass_scores_it(
    recipe: ModuleType, card: ModuleType, architecture: str
) -> None:
    words = small(recipe, architecture=architecture)
    model: PreTrainedModel = recipe.build_model(words, 0).eval()
    ids = np.random.default_rng(2).integers(0, 300, size=51)
    losses, hits = card.score_book(model, ids, "cpu")
    for place in range(1, len(ids)):
        # Token 16 and those before are read from 0; later ones from the last multiple of 8 that
        # leaves at least 8 tokens before them.
        begin = 0 if place <= 16 else (place - 9) // 8 * 8
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[None, begin:place])).logits[0, -1]
        expected = -float(logits.log_softmax(-1)[ids[place]])
        assert losses[place - 1] == pytest.approx(expected, abs=1e-4), place
        assert hits[place - 1] == (int(logits.argmax()) == ids[place])


def exported(
    recipe: ModuleType,
    corpus: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *further: str,
) -> Path:
    """The folder that the script exports to after three steps."""
    sizes = "--blocks 2 --width 16 --heads 2 --context 16 --batch-windows 4"
    places = f"{corpus} --work {folder}/work --export {folder}/model"
    words = ["recipe", *f"{places} --steps 3 {sizes}".split(), *further]
    monkeypatch.setattr("sys.argv", words)
    recipe.main()
    return folder / "model"


def test_the_exported_model_loads_and_its_card_states_what_was_measured(
    recipe: ModuleType,
    card: ModuleType,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = exported(recipe, corpus, tmp_path, monkeypatch, "--vocabulary", "300")
    model = lesion.load(folder)
    assert len(lesion.sweep(model, "The captain of", fractions=0.5).table) == 2
    _, held_out = recipe.split_books(corpus)
    tokenizer = recipe.Tokenizer.from_file(str(folder / "tokenizer.json"))
    scores = [card.measure_book(model.hf_model, tokenizer, b, "cpu", None) for b in held_out]
    bits = sum(score.nats for score in scores) / math.log(2) / sum(s.bytes for s in scores)
    text = (folder / "MODEL_CARD.md").read_text()
    assert text.startswith("# The model that ships with `lesion`\n\nA small GPT-2-architecture ")
    assert (
        "| architecture | GPT-2: 2 blocks × 16, 2 heads, 64 neurons a block, GELU (tanh form), "
        "tied embeddings |\n"
    ) in text
    assert "| context | 16 tokens, learned positions |\n" in text
    assert "| tokenizer | byte-level BPE, 300 tokens, no special" in text
    assert f"| held-out bits per byte | **{bits:.3f}** |" in text
    assert "* book-0\n" in text
    assert "\\" not in text


def test_a_gated_model_with_the_shipped_tokenizer_is_exported_without_it(
    recipe: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = ["--architecture", "llama", "--shipped-tokenizer", "--title", "A gated one"]
    folder = exported(recipe, corpus, tmp_path, monkeypatch, *further)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "MODEL_CARD.md"}
    model = lesion.load(folder, tokenizer=shipped_tokenizer())
    assert len(lesion.sweep(model, "The captain of", fractions=0.5).table) == 2
    text = (folder / "MODEL_CARD.md").read_text()
    assert text.startswith("# A gated one\n\nA small Llama-architecture ")
    assert (
        "| architecture | Llama: 2 blocks × 16, 2 heads on 1 key-value heads, 48 neurons a block, "
        "gated with SiLU, RMSNorm, tied embeddings |\n"
    ) in text
    assert f"| parameters | {model.hf_model.num_parameters():,}, stored as float32 |" in text
    assert "| context | 16 tokens, rotary positions |\n" in text
    assert "| tokenizer | that of the shipped model, byte-level BPE, 4096 tokens" in text
    assert "GPT-2" not in text


def test_the_shipped_tokenizer_does_not_replace_another(
    recipe: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    shutil.copy(corpus / "book-0.txt", tmp_path / "work" / "tokenizer.json")
    with pytest.raises(SystemExit, match="its tokens were made with another tokenizer"):
        exported(recipe, corpus, tmp_path, monkeypatch, "--shipped-tokenizer")
