"""The packaged set `idioms`: large, in clusters, askable, and half known to the shipped model."""

import collections
import json
import re
from pathlib import Path

import pytest
import torch

import lesion
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import likely_tokens, resolve_token, tokenize_prompt
from lesion.prompt_sets.prompt_set import open_prompt_set
from lesion.prompt_sets.rows import PromptRow

PACKAGED = Path(lesion.__file__).parent / "prompt_sets" / "packaged"
IDIOMS = PACKAGED / "idioms.jsonl"
KINDS = ["agreement", "collocation", "idiom"]
LIKELY = 5


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """The file as it is, read without the package."""
    return [json.loads(line) for line in IDIOMS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return lesion.load()


@pytest.fixture(scope="module")
def known(model: LanguageModel, rows: list[dict[str, str]]) -> list[bool]:
    """Whether each row's target is among the tokens that the intact model finds likeliest."""
    threads = torch.get_num_threads()
    # Prompts are so short that more threads only wait for one another.
    torch.set_num_threads(1)
    try:
        return [
            row["target"]
            in [
                one.token
                for one in likely_tokens(model, tokenize_prompt(model, row["prompt"]), LIKELY)
            ]
            for row in rows
        ]
    finally:
        torch.set_num_threads(threads)


def share(flags: list[bool]) -> float:
    assert flags
    return sum(flags) / len(flags)


def test_there_are_enough_prompts_in_enough_groups(rows: list[dict[str, str]]) -> None:
    sizes = collections.Counter(row["group"] for row in rows)
    assert len(rows) >= 240
    assert len(sizes) >= 60
    assert min(sizes.values()) >= 4


def test_every_row_has_the_fields_and_no_other(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert set(row) - {"foil"} == {"prompt", "target", "group", "kind"}
        assert all(isinstance(text, str) and text.strip() for text in row.values())
        assert row["kind"] in KINDS
        assert row["group"].startswith(row["kind"] + "-")
        assert "foil" in row or row["kind"] != "agreement"


def test_a_group_is_one_block_of_the_file_and_kinds_alternate(rows: list[dict[str, str]]) -> None:
    """A study of the first rows has whole groups, and all kinds of them."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    assert [row["group"] for row in rows] == [group for group in groups for _ in range(4)]
    kinds = [group.partition("-")[0] for group in groups]
    assert all(sorted(kinds[at : at + 3]) == KINDS for at in range(0, len(kinds), 3))


def test_no_prompt_is_there_twice(rows: list[dict[str, str]]) -> None:
    prompts = collections.Counter(" ".join(row["prompt"].lower().split()) for row in rows)
    assert [prompt for prompt, times in prompts.items() if times > 1] == []


def test_prompts_end_where_the_target_begins(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert row["prompt"] == row["prompt"].strip()
        assert re.fullmatch(r" [a-z]+", row["target"])
        assert re.fullmatch(r" ([a-z]+|I)", row.get("foil", " none"))


def test_prompts_are_short(model: LanguageModel, rows: list[dict[str, str]]) -> None:
    lengths = [len(tokenize_prompt(model, row["prompt"])) for row in rows]
    assert min(lengths) >= 3
    assert max(lengths) <= 25


def test_targets_and_foils_are_one_unmistakable_token(
    model: LanguageModel, rows: list[dict[str, str]]
) -> None:
    for row in rows:
        target_id = resolve_token(model, row["target"], "target")
        assert "foil" not in row or resolve_token(model, row["foil"], "foil") != target_id
        whole = tokenize_prompt(model, row["prompt"] + row["target"])
        assert whole == (*tokenize_prompt(model, row["prompt"]), target_id)


def test_the_shipped_model_knows_at_least_half_of_them(known: list[bool]) -> None:
    assert share(known) >= 0.5


def test_some_prompts_of_every_kind_are_known_and_some_are_not(
    rows: list[dict[str, str]], known: list[bool]
) -> None:
    for kind in KINDS:
        of_kind = [one for row, one in zip(rows, known, strict=True) if row["kind"] == kind]
        assert 0.5 <= share(of_kind) < 1


def test_its_page_says_what_was_measured(rows: list[dict[str, str]], known: list[bool]) -> None:
    page = " ".join((PACKAGED / "README.md").read_text(encoding="utf-8").split())
    groups = len({row["group"] for row in rows})
    assert f"**{len(rows)} prompts in {groups} groups of 4**" in page
    measured = {"prompts": share(known)}
    for kind, name in zip(KINDS, ("agreement", "collocations", "idioms"), strict=True):
        measured[name] = share(
            [k for row, k in zip(rows, known, strict=True) if row["kind"] == kind]
        )
    for name, value in measured.items():
        stated = re.search(rf"\b(\d+) %(?:\*\*)? of (?:the )?{name}\b", page)
        assert stated is not None, name
        # A tie between two tokens may fall the other way on another processor.
        assert int(stated[1]) / 100 == pytest.approx(value, abs=0.016), name


def test_it_opens_by_its_name(rows: list[dict[str, str]]) -> None:
    assert list(open_prompt_set("idioms").rows()) == [
        PromptRow(
            prompt_id=number,
            place=f"idioms.jsonl:{number + 1}",
            prompt=row["prompt"],
            target=row["target"],
            foil=row.get("foil"),
            group=row["group"],
            carried=json.dumps({"kind": row["kind"]}),
        )
        for number, row in enumerate(rows)
    ]
