"""The command: its flags are the words of the Python call, and what it refuses it says plainly."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lesion
from lesion import cli
from lesion.experiments.sweep import sweep

PROMPT = "He shook his"
QUICK = ["--prompt", PROMPT, "--target", " head", "--fractions", "0.1,0.5", "--layers", "0-1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a terminal wide enough that nothing is wrapped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path


def refused(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a refused command says; it exits with 2 and prints nothing else."""
    with pytest.raises(SystemExit) as stop:
        cli.main(tokens)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err


def test_flags_are_the_keywords_of_the_python_call() -> None:
    only_in_python = {"progress", "watch"}
    only_in_command = {"device", "dtype", "revision", "plan", "max_nonfinite"}
    python = set(inspect.signature(sweep).parameters) - only_in_python
    command = set(inspect.signature(cli.sweep.sweep).parameters) - only_in_command
    assert python == command


def test_sweep_writes_the_run_that_python_gives(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["sweep", *QUICK, "--select", "top,random:2", "--seed", "3", "--out", "run"])
    shown = capsys.readouterr().out
    written = lesion.open("run")
    model = lesion.load()
    expected = lesion.sweep(
        model, PROMPT, " head", fractions=[0.1, 0.5], layers=[0, 1], select="top,random:2", seed=3
    )
    assert written.table.equals(expected.table)
    assert "“He shook his”" in shown
    assert "“ head”; clean log-probability" in shown
    assert (
        "top, random at site pre, ranked by value on the lesioned run, replaced by median" in shown
    )
    assert "written to run" in shown
    for kind in ("curves", "dots", "heatmap"):
        assert f"figures/{kind}.png, .html" in shown
        assert (folder / "run" / "figures" / f"{kind}.png").stat().st_size > 10_000
        assert (folder / "run" / "figures" / f"{kind}.html").stat().st_size > 100_000
    for cell in written.frame().query("selection == 'top'")["effect_log_prob"]:
        assert f"{cell:+.2f}" in shown


def test_show_prints_the_saved_run_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["sweep", *QUICK, "--out", "run"])
    first = capsys.readouterr().out
    cli.main(["show", "run"])
    again = capsys.readouterr().out
    assert again
    assert first.startswith(again)


def test_without_a_target_it_is_the_models_own_and_said_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["sweep", "--prompt", PROMPT, "--fractions", "0.1", "--layers", "0", "--out", "run"])
    assert "(none was given: the model's own top token)" in capsys.readouterr().out
    assert lesion.open("run").prompts[0].target_source == "top"


def test_scope_all_draws_the_dose(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", PROMPT, "--scope", "all", "--fractions", "0.1:0.9:0.4", "--out", "run"]
    cli.main(["sweep", *words])
    shown = capsys.readouterr().out
    assert "all blocks at once" in shown
    assert [path.name for path in sorted((folder / "run" / "figures").iterdir())] == [
        "dose.html",
        "dose.png",
    ]


def test_flags_win_over_the_file_and_the_file_over_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESION_SITE", "post")
    monkeypatch.setenv("LESION_REPLACE", "mean")
    monkeypatch.setenv("LESION_RANK", "abs")
    config = folder / "study.yaml"
    config.write_text(
        f"prompt: {PROMPT}\nfractions: [0.1, 0.5]\nlayers: [0]\nreplace: zero\nselect: bottom\n"
    )
    cli.main(["sweep", "-c", "study.yaml", "--select", "top", "--out", "run"])
    plan = lesion.open("run").manifest.plan
    assert plan["fractions"] == ["0.1", "0.5"]
    assert plan["layers"] == [0]
    assert plan["select"] == ["top"]
    assert plan["replace"] == "zero"
    assert plan["site"] == "post"
    assert plan["rank"] == "abs"


def test_a_toml_file_serves_as_well(folder: Path) -> None:
    (folder / "study.toml").write_text(f'prompt = "{PROMPT}"\nfractions = "0.1"\nlayers = "0,1"\n')
    cli.main(["sweep", "--config", "study.toml", "--out", "run"])
    assert lesion.open("run").manifest.plan["layers"] == [0, 1]


def test_models_lists_every_family_and_its_sites(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["models"])
    shown = capsys.readouterr().out
    for word in (
        "GPT-2",
        "gpt_neox",
        "mistral",
        "packed",
        "reference",
        "mlp.c_fc",
        "mlp.down_proj",
    ):
        assert word in shown


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            ["--prompt", PROMPT, "--fractions", "5"],
            "error: fraction 5: it is greater than 1. A fraction is a share of the neurons and "
            "lies in [0, 1]. For 5 per cent, pass 0.05.\n",
        ),
        (
            ["--prompt", PROMPT, "--select", "best"],
            "error: select 'best': there is no such word. A selection is one of top, bottom, "
            "random[:DRAWS], band:LOW-HIGH, set:FILE. Pass one of them.\n",
        ),
        (
            ["--prompt", PROMPT, "--layers", "9"],
            "error: layer 9: default has 6 blocks. Its layers are numbered from 0 to 5. "
            "Pass layers in that range.\n",
        ),
        (
            ["--prompt", PROMPT, "-c", "nowhere.yaml"],
            "error: config nowhere.yaml: it cannot be read (No such file or directory). A "
            "configuration file is YAML (.yaml, .yml) or TOML (.toml) with flags as keys. "
            "Check the path.\n",
        ),
    ],
)
def test_a_wrong_word_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], tokens: list[str], message: str
) -> None:
    assert refused(["sweep", *tokens], capsys) == message
    assert list(folder.iterdir()) == []


def test_a_wrong_flag_or_value_is_refused_with_the_nearest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Did you mean --site?" in refused(["sweep", *QUICK, "--sit", "pre"], capsys)
    assert "pre" in refused(["sweep", *QUICK, "--site", "here"], capsys)
    assert "--prompt" in refused(["sweep"], capsys)
    assert "swep" in refused(["swep"], capsys)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("study.yaml", "promt: hello\n", "promt"),
        ("study.yaml", "prompt: [unclosed\n", "line 2, column 1"),
        ("study.toml", "prompt = \n", "at line 1, column 10"),
        ("study.ini", "prompt = x\n", "its suffix is '.ini'"),
    ],
)
def test_a_wrong_configuration_file_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, reason: str
) -> None:
    (folder / name).write_text(text)
    assert reason in refused(["sweep", "-c", name, *QUICK], capsys)


def test_what_stands_there_is_gone_on_with_or_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["sweep", *QUICK, "--out", "run"])
    shard = (folder / "run/shards/000000.parquet").stat().st_mtime_ns
    capsys.readouterr()
    cli.main(["sweep", *QUICK, "--out", "run"])
    assert "1 of 1 units had been finished before: nothing was measured again" in (
        capsys.readouterr().err
    )
    assert (folder / "run/shards/000000.parquet").stat().st_mtime_ns == shard
    message = refused(["sweep", *QUICK, "--replace", "zero", "--out", "run"], capsys)
    assert message.startswith(
        'error: resume run: plan.replace was "median", is "zero". A run is resumed with the plan,'
    )
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("years of work")
    assert "something else stands there" in refused(["sweep", *QUICK, "--out", "thesis"], capsys)
    assert refused(["show", "nowhere"], capsys).startswith("error: open nowhere: run.json cannot")


def test_hostile_text_is_shown_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "[bold]red[/bold] \x1b[31m <script>alert(1)</script> \u202e"
    cli.main(["sweep", "--prompt", hostile, "--fractions", "0.1", "--layers", "0", "--out", "run"])
    shown = capsys.readouterr().out
    assert "[bold]red[/bold] \\x1b[31m <script>alert(1)</script> \\u202e" in shown
    assert "\x1b" not in shown
    assert "<script>alert(1)" not in (folder / "run" / "figures" / "curves.html").read_text()


def test_help_answers_without_torch_or_a_picture_library() -> None:
    code = (
        "import sys\nfrom lesion.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    print([name for name in ('torch', 'transformers', 'altair') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: lesion COMMAND" in child.stdout
    assert child.stdout.endswith("[]\n")


def test_the_installed_command_exits_with_2_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lesion", "sweep", "--prompt", "", "--target", " head"]
    child = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False
    )
    assert child.returncode == 2
    assert child.stderr == (
        "error: prompt '': it is empty. A prompt has at least one token before the one that is "
        "predicted. Pass some text.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_run_json_holds_what_repeats_the_run(folder: Path) -> None:
    cli.main(["sweep", *QUICK, "--out", "run"])
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["schema_version"] == 3
    assert lesion.open("run").prompts[0].text == PROMPT
    assert len(record["model"]["fingerprint"]["weights"]) == 64
    assert record["model"]["name"] == "default"
    assert record["model"]["neurons"] == [768] * 6
    assert set(record["versions"]) >= {"lesion", "torch", "transformers", "python"}
