"""The page about runs: what it shows can be typed, and what is made from the code is up to date."""

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
from small_run import small_run

import lesion
from lesion import cli
from lesion.cli import application
from lesion.cli.runs import UNSOUND
from lesion.columns import SWEEP_COLUMNS
from lesion.errors import LesionError
from lesion.runs.published import columns_table, run_schema, run_schema_text

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "runs.md").read_text(encoding="utf-8")
REMEDY = "python recipes/write_docs.py writes it anew"


def code_blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for named, text in blocks if named == language]


def commands() -> list[list[str]]:
    lines = [line for block in code_blocks("") for line in block.splitlines()]
    assert all(line.startswith("lesion ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the two sweeps of the page were run."""
    folder = tmp_path_factory.mktemp("page")
    sweeps = [command for command in commands() if command[0] == "sweep"]
    assert len(sweeps) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for sweep in sweeps:
            cli.main(sweep)
    return folder


def test_its_commands_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    others = [command for command in commands() if command[0] != "sweep"]
    assert {command[0] for command in others} == {
        "runs", "show", "query", "export", "compare", "verify",
    }  # fmt: skip
    for command in others:
        cli.main(command)
        assert len(capsys.readouterr().out.splitlines()) >= 1, command
    assert (place / "median.csv").exists()
    assert (place / "median.parquet").exists()


def test_a_run_is_read_without_us(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    names: dict[str, object] = {}
    examples = code_blocks("python")
    assert len(examples) == 5
    imported = re.findall(r"^(?:import|from) (\w+)", "\n".join(examples), re.MULTILINE)
    assert set(imported) == {"hashlib", "json", "pathlib", "duckdb", "pandas", "pyarrow"}
    means = []
    for example in examples:
        exec(compile(example, "docs/runs.md", "exec"), names)
        means.append(names.get("means"))
    own = lesion.open("runs/median")
    frame = own.frame()
    measured = frame[frame["status"] == "ok"]
    expected = measured.groupby(["layer", "fraction"])["effect_log_prob"].mean()
    assert list(means[2]["effect"]) == pytest.approx(list(expected))
    assert list(means[3]) == pytest.approx(list(expected))
    assert names["table"].num_rows == len(frame)
    assert names["prompts"][0]["text"] == own.prompts[0].text


def test_the_first_examples_would_notice_damage(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lesion.open(place / "runs" / "median")
    monkeypatch.chdir(tmp_path)
    run.save("runs/median", figures=False)
    shard = Path("runs/median/shards/000000.parquet")
    content = bytearray(shard.read_bytes())
    content[200] ^= 1
    shard.write_bytes(content)
    names: dict[str, object] = {}
    exec(compile(code_blocks("python")[0], "docs/runs.md", "exec"), names)
    with pytest.raises(AssertionError):
        exec(compile(code_blocks("python")[1], "docs/runs.md", "exec"), names)
    with pytest.raises(LesionError):
        lesion.open("runs/median").frame()


class TestTheSchema:
    def test_it_is_up_to_date(self) -> None:
        published = (DOCS / "run.schema.json").read_text(encoding="utf-8")
        assert published == run_schema_text(), REMEDY

    def test_it_is_a_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(run_schema())

    def test_real_runs_are_valid(self, place: Path, tmp_path: Path) -> None:
        validator = jsonschema.Draft202012Validator(
            run_schema(), format_checker=jsonschema.FormatChecker()
        )
        small_run().save(tmp_path / "run", figures=False)
        for path in [*(place / "runs").glob("*/run.json"), tmp_path / "run" / "run.json"]:
            validator.validate(json.loads(path.read_text(encoding="utf-8")))

    @pytest.mark.parametrize(
        "changed",
        [
            {"schema_version": 2},
            {"experiment": "survey"},
            {"checksum": "0"},
            {"created": 0},
            {"versions": {"torch": 2}},
            {"more": 1},
            {"plan": None},
            {"model": {}},
            {"prompts": []},
        ],
    )
    def test_another_is_not(self, tmp_path: Path, changed: dict[str, object]) -> None:
        small_run().save(tmp_path / "run", figures=False)
        words = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(words | changed, run_schema())

    def test_every_field_is_required(self, tmp_path: Path) -> None:
        small_run().save(tmp_path / "run", figures=False)
        words = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
        for field in words:
            less = {name: value for name, value in words.items() if name != field}
            with pytest.raises(jsonschema.ValidationError, match=field):
                jsonschema.validate(less, run_schema())


class TestTheColumns:
    def test_they_are_up_to_date(self) -> None:
        assert columns_table() in PAGE, REMEDY

    def test_each_has_one_line(self) -> None:
        cells = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in columns_table().splitlines()[2:]
        ]
        assert cells == [
            [f"`{column.name}`", str(column.type), column.meaning.replace("|", "\\|")]
            for column in SWEEP_COLUMNS
        ]


def test_the_exit_codes_are_those_of_the_command() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)}
    assert codes == {
        0, UNSOUND, application.REFUSED, application.NONFINITE, application.DEVICE_LOST,
        application.INTERRUPTED,
    }  # fmt: skip
