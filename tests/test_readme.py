"""What the README says to type works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from lesion import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NEEDS_THE_HUB = "gpt2-large"


def code_blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for named, text in blocks if named == language]


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = code_blocks("python")
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert {"run", "outcome"} <= names.keys()


def test_the_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in code_blocks("") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("lesion ")]
    assert len(commands) == 7
    for command in commands:
        if NEEDS_THE_HUB not in command:
            cli.main(command)
    assert (tmp_path / "runs" / "mine" / "run.json").exists()
    assert capsys.readouterr().out


def test_the_two_first_commands_are_makefile_targets() -> None:
    assert code_blocks("")[0].split("\n")[:2] == ["make demo", "make test"]
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert re.search(r"^demo: \$\(READY\)$", makefile, re.MULTILINE)
    assert re.search(r"^test: \$\(READY\)$", makefile, re.MULTILINE)
