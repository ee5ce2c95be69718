"""Data sets through `datasets`: from a folder, from a Hub out of reach, and without the package."""

import hashlib
import json
import sys
import types

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lesion.errors import PromptSetError
from lesion.prompt_sets.prompt_set import open_prompt_set
from lesion.prompt_sets.rows import BadRow, PromptRow

RULE = "A data set is named hf:OWNER/NAME[:SPLIT], or hf:FOLDER[:SPLIT], and has a column prompt"
REMEDY = (
    "Check name and split; without a network, fetch it elsewhere with `hf download --repo-type "
    "dataset NAME` and pass hf:FOLDER"
)
PACKAGE = "Data sets of the Hub are read with the package datasets, version 4 or newer"


@pytest.fixture
def folder(tmp_path):
    """A data set of two splits."""
    rows = [{"prompt": "a", "target": " b", "n": 1}, {"prompt": "", "target": None, "n": 2}]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "test.jsonl").write_text(
        '{"prompt": "c", "target": null, "n": 3}', encoding="utf-8"
    )
    return tmp_path


def refusal(asked: str) -> str:
    with pytest.raises(PromptSetError) as caught:
        list(open_prompt_set(asked).rows())
    return str(caught.value)


def test_a_folder_is_read_like_the_hub(folder):
    asked = f"hf:{folder}"
    prompts = open_prompt_set(asked)
    assert prompts.name == asked
    rows = [
        PromptRow(0, f"{asked}[0]", "a", target=" b", carried='{"n": 1}'),
        BadRow(1, f"{asked}[1]", "its prompt is empty"),
    ]
    assert list(prompts.rows()) == list(prompts.rows()) == rows
    content = [[0, "a", " b", None, None, None, None, '{"n": 1}'], [1, "its prompt is empty"]]
    digest = hashlib.sha256("".join(json.dumps(row) + "\n" for row in content).encode())
    assert prompts.sha256() == digest.hexdigest()


def test_a_split_can_be_named(folder):
    assert [row.prompt for row in open_prompt_set(f"hf:{folder}:test").rows()] == ["c"]
    assert refusal(f"hf:{folder}:tset") == (
        f"prompts 'hf:{folder}:tset': Bad split: tset. Available splits: ['train', 'test']. "
        f"{RULE}. {REMEDY}."
    )


def test_one_without_prompts_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("text\na\n", encoding="utf-8")
    # Without a declaration of its columns, a set shows them row by row.
    (row,) = open_prompt_set(f"hf:{tmp_path}").rows()
    assert row == BadRow(0, f"hf:{tmp_path}[0]", "it has no prompt (its fields: 'text')")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
    (tmp_path / "train.csv").unlink()
    assert refusal(f"hf:{tmp_path}") == (
        f"prompts 'hf:{tmp_path}': it has no column prompt (its columns: 'text'). {RULE}. "
        "Choose another data set."
    )


def test_one_without_rows_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("prompt\n", encoding="utf-8")
    assert refusal(f"hf:{tmp_path}") == (
        f"prompts 'hf:{tmp_path}': it has no rows. A prompt set has at least one row. "
        "Choose another split."
    )


def test_one_that_breaks_off_is_an_error_of_the_set(folder):
    prompts = open_prompt_set(f"hf:{folder}")
    (folder / "train.jsonl").write_text('{"prompt": "a"\n{{{', encoding="utf-8")
    with pytest.raises(PromptSetError, match=rf"^prompts 'hf:{folder}': "):
        list(prompts.rows())


def test_code_of_a_data_set_is_not_run(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')", encoding="utf-8")
    assert refusal(f"hf:{folder}") == (
        f"prompts 'hf:{folder}': Dataset scripts are no longer supported, but found own.py. "
        f"{RULE}. {REMEDY}."
    )
    assert not ran.exists()


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert refusal("hf:nobody/nothing") == (
        "prompts 'hf:nobody/nothing': Couldn't reach 'nobody/nothing' on the Hub "
        f"(OfflineModeIsEnabled). {RULE}. {REMEDY}."
    )


@pytest.mark.parametrize("asked", ["hf:", "hf::train"])
def test_no_name_is_refused(asked):
    assert refusal(asked) == f"prompts '{asked}': no data set is named. {RULE}. {REMEDY}."


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal("hf:a/b") == (
        f"prompts 'hf:a/b': it is not installed. {PACKAGE}. pip install \"lesion[hub]\"."
    )


def test_a_package_that_might_run_code_is_refused(monkeypatch):
    old = types.SimpleNamespace(__version__="3.6.0")
    monkeypatch.setitem(sys.modules, "datasets", old)
    assert refusal("hf:a/b") == (
        "prompts 'hf:a/b': version 3.6.0 is installed, which may run a data set's own code. "
        f'{PACKAGE}. pip install "lesion[hub]".'
    )
