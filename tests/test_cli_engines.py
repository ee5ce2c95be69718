"""The command's words for engines, positions and dtypes: what they do, and what they refuse."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from families import mask_tokenizer, tiny_model, word_tokenizer
from unchecked import outcomes

import lesion
from lesion import cli
from lesion.errors import SelfCheckFailed

TEXT = "w3 w17 w42 w8 w25"
ASK = ["--prompt", TEXT, "--fractions", "0.1,0.5", "--out", "run"]
TARGET = ["--target-id", "5"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, a wide terminal, and two tiny models beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("lesion.runs.run.Run.chart_kinds", lambda _: ())
    return tmp_path


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny models: what the command takes in place of a name."""
    folders = {}
    for model_type in ("gpt2", "bloom", "bert"):
        model, place = tiny_model(model_type, "float32"), tmp_path_factory.mktemp(model_type)
        model.hf_model.save_pretrained(place)
        (mask_tokenizer if model_type == "bert" else word_tokenizer)().save_pretrained(place)
        folders[model_type] = str(place)
    return folders


def run_of(tokens: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record and the rows that a command writes; `measured` says how it was measured."""
    cli.main(["sweep", *tokens])
    run = lesion.open("run")
    record = json.loads(Path("run/run.json").read_text()) | {"measured": run.measuring}
    return record, run.table.to_pylist()


def refused(tokens: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a refused command says; it exits with 2, prints nothing else and writes nothing."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", *tokens])
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert list(folder.iterdir()) == []
    return output.err


@pytest.mark.parametrize(
    ("flags", "engine", "reason"),
    [
        ([], "packed", "auto: the packed engine is proved for GPT-2"),
        (["--engine", "auto"], "packed", "auto: the packed engine is proved for GPT-2"),
        (["--engine", "packed"], "packed", "asked for"),
        (["--engine", "reference"], "reference", "asked for"),
    ],
)
def test_the_engine_is_chosen_or_asked_for(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str],
    flags: list[str], engine: str, reason: str,
) -> None:  # fmt: skip
    record, rows = run_of([saved["gpt2"], *ASK, *TARGET, *flags])
    assert (record["measured"].engine, record["measured"].reason) == (engine, reason)
    assert record["engine"]["asked"] == (flags[-1] if flags else "auto")
    assert {row["engine"] for row in rows} == {engine}
    assert (record["measured"].self_check is None) == (engine == "reference")
    shown = capsys.readouterr().out
    assert f"{engine}, " in shown
    assert ("lesions measured again by the reference engine" in shown) == (engine == "packed")


def test_auto_says_why_it_took_the_reference_engine(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record, _ = run_of([saved["bloom"], *ASK, *TARGET])
    why = "the attention of BLOOM is its own, not transformers' attention interface"
    assert record["measured"].reason == f"auto: {why}"
    assert f"; {why}" in capsys.readouterr().out


def test_self_check_and_direct_effect_are_left_out_on_demand(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record, rows = run_of([saved["gpt2"], *ASK, *TARGET, "--no-self-check", "--no-direct"])
    assert (record["engine"]["self_check"], record["plan"]["direct"]) == (False, False)
    assert record["measured"].self_check is None
    assert all(row["direct_log_prob"] is None for row in rows)
    assert "measured again" not in capsys.readouterr().out
    both = [saved["gpt2"], *ASK, *TARGET, "--self-check", "--direct", "--overwrite"]
    record, rows = run_of(both)
    assert (record["engine"]["self_check"], record["plan"]["direct"]) == (True, True)
    assert record["measured"].self_check.lesions == 3
    assert all(row["direct_log_prob"] is not None for row in rows)


@pytest.mark.parametrize(
    ("flags", "stored", "at", "engine"),
    [
        (["--position", "last"], "last", 4, "packed"),
        (["--position", "-1"], -1, 4, "packed"),
        (["--position=-1"], -1, 4, "packed"),
        (["--position", "4"], 4, 4, "packed"),
        (["--position", "2"], 2, 2, "reference"),
        (["--position", "-5"], -5, 0, "reference"),
        (["--position", "0"], 0, 0, "reference"),
    ],
)
def test_a_position_is_a_word_or_an_index(
    folder: Path, saved: dict[str, str], flags: list[str], stored: Any, at: int, engine: str
) -> None:
    record, rows = run_of([saved["gpt2"], *ASK, *TARGET, *flags])
    assert record["plan"]["position"] == stored
    assert {row["position"] for row in rows} == {at}
    assert record["measured"].engine == engine
    expected = lesion.sweep(
        lesion.load(saved["gpt2"], device="cpu"), TEXT, target_id=5, fractions="0.1,0.5",
        position=stored,
    )  # fmt: skip
    assert rows == expected.table.to_pylist()


def test_every_token_of_a_text(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record, rows = run_of([saved["gpt2"], *ASK, "--position", "every"])
    assert record["plan"]["position"] == "every"
    assert lesion.open("run").prompts[0].predictions == 4
    assert [row["target_id"] for row in rows[::6]] == [17, 42, 8, 25]
    shown = capsys.readouterr().out
    assert "mean over 4 tokens" in shown
    cli.main(["show", "run"])
    assert "mean over 4 tokens" in capsys.readouterr().out


def test_the_mask_of_a_masked_model(folder: Path, saved: dict[str, str]) -> None:
    tokens = [saved["bert"], "--prompt", "w3 [MASK] w8", "--fractions", "0.5", "--out", "run"]
    record, rows = run_of([*tokens, "--position", "mask"])
    assert {row["position"] for row in rows} == {1}
    assert record["measured"].engine == "reference"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_dtype_is_what_the_model_computes_in(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    record, rows = run_of([saved["gpt2"], *ASK, *TARGET, "--dtype", dtype])
    assert record["model"]["dtype"] == dtype
    half = dtype in ("bfloat16", "float16")
    assert (record["measured"].noise_floor is not None) == half
    assert all((row["below_noise"] is not None) == half for row in rows)
    below = sum(row["below_noise"] or False for row in rows)
    note = f"{below} of 6 effects are below the noise floor of "
    assert (note in capsys.readouterr().out) == half


def test_positions_and_engines_come_from_the_file_and_the_environment(
    folder: Path, saved: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In YAML and TOML an index is a number.
    for name, text in {
        "a.yaml": "position: 2\nself_check: false\n",
        "b.yaml": "position: -3\nself-check: false\n",
        "c.toml": "position = 2\nself_check = false\n",
        "d.yaml": "position: '2'\nself_check: false\n",
    }.items():
        (folder / name).write_text(text)
        record, _ = run_of([saved["gpt2"], *ASK, *TARGET, "-c", name, "--overwrite"])
        assert record["plan"]["position"] in (2, -3)
        assert record["engine"]["self_check"] is False
    monkeypatch.setenv("LESION_POSITION", "-1")
    monkeypatch.setenv("LESION_ENGINE", "reference")
    monkeypatch.setenv("LESION_DIRECT", "false")
    record, _ = run_of([saved["gpt2"], *ASK, *TARGET, "--overwrite"])
    plan = record["plan"]
    assert (plan["position"], plan["direct"]) == (-1, False)
    assert record["engine"]["asked"] == "reference"


POSITION = (
    "error: position {}: there is no such word. position is one of last, every, mask, or the index "
    "of a token. Pass one of them.\n"
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--position", "9"],
            "error: position 9: the prompt 'w3 w17 w42 w8 w25' has 5 tokens. Positions are counted "
            "from 0 to 4, or from the end: -1 is the last. Pass one in that range.\n",
        ),
        (
            ["--position", "-6"],
            "error: position -6: the prompt 'w3 w17 w42 w8 w25' has 5 tokens. Positions are "
            "counted from 0 to 4, or from the end: -1 is the last. Pass one in that range.\n",
        ),
        (
            ["--position", "mask"],
            "error: position 'mask': {gpt2} predicts the next token, not a masked one. A lesion "
            "takes the last token of a causal model's prompt, the mask of a masked model's, or the "
            'token of an index. Pass position="last", or the index of a token.\n',
        ),
        (
            ["--position", "every", *TARGET],
            "error: target_id 5 with position 'every': every token of the text has its own target: "
            "the token that follows. A target and a foil belong to one prediction. "
            "Leave target_id out, or pass position='last'.\n",
        ),
        (
            ["--position", "2", "--engine", "packed"],
            "error: the packed engine with {gpt2}: position 2 is not the last token, so later "
            "tokens would change too. It runs only what it has been proved for. "
            'Pass engine="reference", or engine="auto", which chooses.\n',
        ),
        (
            ["--dtype", "float8"],
            "error: dtype 'float8': there is no such word. dtype is one of float32, bfloat16, "
            "float16, float64. Pass one of them.\n",
        ),
    ],
)
def test_what_means_nothing_is_refused_and_leaves_nothing_behind(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str],
    flags: list[str], message: str,
) -> None:  # fmt: skip
    found = refused([saved["gpt2"], *ASK, *flags], folder, capsys)
    assert found == message.replace("{gpt2}", saved["gpt2"])


CHILD = """
import contextlib, io, os, tempfile
import lesion.models.loading
from lesion import cli

lesion.models.loading.load = None  # what is refused here needs no model
os.chdir(tempfile.mkdtemp())

def said(word):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            cli.main(["sweep", "--prompt", "w3", "--out", "run", "--position", word])
        except SystemExit as stop:
            return stop.code, errors.getvalue().replace("\\n", " "), os.listdir()
"""


def test_a_position_without_meaning_is_refused_before_the_model_is_loaded() -> None:
    words = ["nonsense", "1.5", "--1", "", "LAST", "1e3", "+1", "12345678901"]
    found = outcomes(CHILD, [f"said({word!r})" for word in words])
    for word in words:
        message = POSITION.format(repr(word)).replace("\n", " ")
        assert ast.literal_eval(found[f"said({word!r})"]) == (2, message, []), word


@pytest.mark.parametrize("flag", ["--engine", "--position"])
def test_a_flag_without_its_word_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert refused([*ASK, flag], folder, capsys).startswith("error: ")


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused([*ASK, "--engine", "fast"], folder, capsys)
    for word in ("fast", "auto", "packed", "reference"):
        assert word in message


@pytest.mark.parametrize("model_type", ["bloom", "bert"])
def test_the_packed_engine_is_refused_for_what_it_is_not_proved_for(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str], model_type: str
) -> None:
    masked = model_type == "bert"
    prompt = ["--prompt", "w3 [MASK]", "--position", "mask"] if masked else ["--prompt", TEXT]
    tokens = [saved[model_type], *prompt, "--out", "run", "--engine", "packed"]
    reason = {
        "bloom": "the attention of BLOOM is its own, not transformers' attention interface",
        "bert": "it is a masked model, whose tokens all see the lesioned one",
    }[model_type]
    assert refused(tokens, folder, capsys) == (
        f"error: the packed engine with {saved[model_type]}: {reason}. It runs only what it has "
        'been proved for. Pass engine="reference", or engine="auto", which chooses.\n'
    )


def test_a_masked_model_is_asked_where_its_mask_is(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = refused([saved["bert"], "--prompt", "w3 [MASK]", "--out", "run"], folder, capsys)
    assert found == (
        f"error: position 'last': {saved['bert']} is a masked model. A lesion takes the last token "
        "of a causal model's prompt, the mask of a masked model's, or the token of an index. "
        'Pass position="mask", or the index of a token.\n'
    )


def test_a_failed_self_check_finishes_nothing(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise SelfCheckFailed("self-check of a lesion", "they differ", "They agree", "Report it")

    monkeypatch.setattr("lesion.experiments.measuring.self_check", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", saved["gpt2"], *ASK, *TARGET])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: self-check of a lesion: they differ. They agree. Report it.\n"
    )
    run = lesion.open("run")
    assert (run.shards.units, run.complete) == ((), False)


def test_interrupting_exits_with_130_and_the_same_command_goes_on(
    folder: Path, saved: dict[str, str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lesion.engines.carried.measure", interrupt)
        with pytest.raises(SystemExit) as stop:
            cli.main(["sweep", saved["gpt2"], *ASK, *TARGET])
    assert stop.value.code == 130
    assert capsys.readouterr().err.startswith("interrupted; what is finished stays")
    assert not lesion.open("run").complete
    cli.main(["sweep", saved["gpt2"], *ASK, *TARGET])
    assert lesion.open("run").complete
