"""The training recipe on a few pages: its split, its order, its resume, its measures."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

import lesion

RECIPE = Path(__file__).parents[1] / "recipes" / "train_default_model.py"
SENTENCES = [
    "The captain of the ship was an old man, and he had seen many storms.",
    "She opened the door, and the cold wind came into the little room.",
    "Nobody in the village knew where the two brothers had gone that winter.",
    "It rained all day; the children sat by the fire and told each other tales.",
]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("train_default_model", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven books; six of them are long enough to be kept out."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(7):
        paragraphs = [" ".join(rng.permutation(SENTENCES)) for _ in range(400 if number else 4)]
        (folder / f"book-{number}.txt").write_text("\n\n".join(paragraphs))
    return folder


def small(recipe: ModuleType, **words: int) -> object:
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


def test_an_epoch_reads_nearly_every_token_once(recipe: ModuleType) -> None:
    words = small(recipe)
    starts = np.arange(5, 1000, 40)
    windows = recipe.window_starts(0, 1000, starts, words)
    assert len(set(windows.tolist()) & set(starts.tolist())) >= 5
    read = np.zeros(1000, dtype=int)
    for window in windows:
        read[window : window + words.context] += 1
    assert (read[50:900] == 1).mean() > 0.6
    assert read.max() <= 2
    assert not np.array_equal(windows, recipe.window_starts(1, 1000, starts, words))


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


def test_a_stopped_training_goes_on_to_the_same_weights(
    recipe: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    def trained(folder: Path, stops: list[int]) -> dict[str, torch.Tensor]:
        folder.mkdir()
        books, _ = recipe.split_books(corpus)
        tokenizer = recipe.train_tokenizer(books, small(recipe), folder / "tokenizer.json")
        tokens, starts = recipe.encode_books(books, tokenizer, folder)
        for stop in stops:
            training = recipe.Training(small(recipe), 0, "cpu", folder)
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
        recipe.Training(small(recipe, seed=1), 0, "cpu", tmp_path / "a")


def test_an_ignorant_model_needs_the_bits_of_a_uniform_guess(
    recipe: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    books, held_out = recipe.split_books(corpus)
    tokenizer = recipe.train_tokenizer(books, small(recipe), tmp_path / "tokenizer.json")
    model = recipe.build_model(small(recipe), 0).eval()
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    score = recipe.measure_book(model, tokenizer, held_out[0], "cpu", 3000)
    bits = math.log2(300) * score.tokens / score.bytes
    assert score.bits_per_byte == pytest.approx(bits, rel=1e-6)
    assert score.bytes == 3000
    assert score.right_tokens == 0


def test_every_token_is_scored_once_as_a_plain_pass_scores_it(recipe: ModuleType) -> None:
    model: GPT2LMHeadModel = recipe.build_model(small(recipe), 0).eval()
    ids = np.random.default_rng(2).integers(0, 300, size=51)
    losses, hits = recipe.score_book(model, ids, "cpu")
    for place in range(1, len(ids)):
        # Token 16 and those before are read from 0; later ones from the last multiple of 8 that
        # leaves at least 8 tokens before them.
        begin = 0 if place <= 16 else (place - 9) // 8 * 8
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[None, begin:place])).logits[0, -1]
        expected = -float(logits.log_softmax(-1)[ids[place]])
        assert losses[place - 1] == pytest.approx(expected, abs=1e-4), place
        assert hits[place - 1] == (int(logits.argmax()) == ids[place])


def test_the_exported_model_loads_and_its_card_states_what_was_measured(
    recipe: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = "--vocabulary 300 --blocks 2 --width 16 --heads 2 --context 16 --batch-windows 4"
    places = f"{corpus} --work {tmp_path}/work --export {tmp_path}/model"
    monkeypatch.setattr("sys.argv", ["recipe", *f"{places} --steps 3 {sizes}".split()])
    recipe.main()
    model = lesion.load(tmp_path / "model")
    assert len(lesion.sweep(model, "The captain of", fractions=0.5).table) == 2
    _, held_out = recipe.split_books(corpus)
    tokenizer = recipe.Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    scores = [recipe.measure_book(model.hf_model, tokenizer, b, "cpu", None) for b in held_out]
    bits = sum(score.nats for score in scores) / math.log(2) / sum(s.bytes for s in scores)
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert f"| held-out bits per byte | **{bits:.3f}** |" in card
    assert "* book-0\n" in card
    assert "\\" not in card
