"""Rows: what a field may be, what makes a row bad, what is carried along."""

import dataclasses
import datetime
import decimal
import json
import math
import pathlib
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion.prompt_sets.rows import FIELDS, BadRow, PromptRow, row_of, shown
from lesion.prompt_sets.values import row_of_value


def found_in(fields: dict) -> str:
    row = row_of(fields, 7, "x.jsonl:9")
    assert isinstance(row, BadRow), row
    assert (row.prompt_id, row.place) == (7, "x.jsonl:9")
    assert len(row.found.splitlines()) == 1
    assert row.found.isprintable()
    return row.found


class TestARow:
    def test_it_has_every_field(self):
        fields = {
            "prompt": "He shook his",
            "target": " head",
            "foil_id": 5,
            "group": "body",
            "z": [1, {"b": None, "a": "é"}],
            "kind": "idiom",
        }
        assert row_of(fields, 3, "x.jsonl:4") == PromptRow(
            3,
            "x.jsonl:4",
            "He shook his",
            target=" head",
            target_id=None,
            foil=None,
            foil_id=5,
            group="body",
            carried='{"kind": "idiom", "z": [1, {"a": "é", "b": null}]}',
        )

    def test_what_is_missing_or_null_is_not_given(self):
        bare = PromptRow(0, "p", "a")
        assert row_of({"prompt": "a"}, 0, "p") == bare
        assert row_of({"prompt": "a"} | dict.fromkeys(FIELDS[1:]), 0, "p") == bare
        assert [value for value in vars(bare).values() if value is None] == [None] * 6

    def test_it_cannot_be_changed(self):
        for row in (PromptRow(0, "p", "a"), BadRow(0, "p", "a")):
            with pytest.raises(dataclasses.FrozenInstanceError):
                row.place = "q"

    @pytest.mark.parametrize(
        "text",
        [
            " night",
            "night ",
            "<script>alert(1)</script>",
            "\x1b[31mred",
            "\u202eevil",
            "=1+1",
            "@SUM(A1)",
            "é",
            "e\u0301",
            "👩‍👩‍👧",
            "a\tb\nc",
            "￾",
        ],
    )
    def test_hostile_text_is_only_text(self, text):
        row = row_of({"prompt": text, "target": text, "group": text, "note": text}, 0, "p")
        assert (row.prompt, row.target, row.group) == (text, text, text)
        assert json.loads(row.carried) == {"note": text}

    def test_groups_may_be_numbers(self):
        assert row_of({"prompt": "a", "group": 12}, 0, "p").group == "12"
        assert row_of({"prompt": "a", "group": np.int64(12)}, 0, "p").group == "12"

    def test_ids_of_numpy_are_numbers(self):
        row = row_of({"prompt": "a", "target_id": np.int32(3), "foil_id": 0}, 0, "p")
        assert (row.target_id, row.foil_id) == (3, 0)
        assert type(row.target_id) is int


class TestABadRow:
    @pytest.mark.parametrize(
        ("fields", "found"),
        [
            ({}, "it has no prompt (its fields: none)"),
            ({"promt": "a", "target": "b"}, "it has no prompt (its fields: 'promt', 'target')"),
            ({"prompt": None, "n": 1}, "its prompt is null"),
            (
                {f"f{number}": 0 for number in range(10)},
                "it has no prompt (its fields: 'f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'f6', 'f7' "
                "and 2 more)",
            ),
            ({"prompt": 1.5}, "its prompt is not text but a number"),
            ({"prompt": True}, "its prompt is not text but a truth value"),
            ({"prompt": ["a"]}, "its prompt is not text but a list"),
            ({"prompt": {}}, "its prompt is not text but an object"),
            ({"prompt": b"a"}, "its prompt is not text but a bytes"),
            ({"prompt": math.nan}, "its prompt is not text but a number"),
            ({"prompt": ""}, "its prompt is empty"),
            ({"prompt": " \t\n"}, "its prompt is blank"),
            ({"prompt": "a\0b"}, "its prompt holds a NUL character"),
            ({"prompt": "a\ud800"}, "its prompt holds half a character (a lone surrogate)"),
            ({"prompt": "a", "target": 3}, "its target is not text but a number"),
            ({"prompt": "a", "target": ""}, "its target is empty"),
            ({"prompt": "a", "foil": []}, "its foil is not text but a list"),
            ({"prompt": "a", "group": 1.0}, "its group is not text but a number"),
            ({"prompt": "a", "group": False}, "its group is not text but a truth value"),
            ({"prompt": "a", "group": ""}, "its group is empty"),
            ({"prompt": "a", "target": "b", "target_id": 3}, "it has both target and target_id"),
            ({"prompt": "a", "foil": "b", "foil_id": 0}, "it has both foil and foil_id"),
            ({"prompt": "a", "target_id": "3"}, "its target_id is not a whole number but text"),
            ({"prompt": "a", "target_id": 3.0}, "its target_id is not a whole number but 3.0"),
            ({"prompt": "a", "foil_id": math.nan}, "its foil_id is not a whole number but nan"),
            (
                {"prompt": "a", "foil_id": True},
                "its foil_id is not a whole number but a truth value",
            ),
            (
                {"prompt": "a", "target_id": -1},
                "its target_id is negative or too large for a token id",
            ),
            (
                {"prompt": "a", "target_id": 2**63},
                "its target_id is negative or too large for a token id",
            ),
            (
                {"prompt": "a", "score": math.inf},
                "it holds a number that JSON cannot (NaN, infinity, or of too many digits)",
            ),
            (
                {"prompt": "a", "note": ["\udfff"]},
                "one of its fields holds half a character (a lone surrogate)",
            ),
        ],
    )
    def test_it_says_what_is_wrong(self, fields, found):
        assert found_in(fields) == found

    def test_names_are_shown_short_and_escaped(self):
        assert found_in({"a\n\u202e": 1}) == r"it has no prompt (its fields: 'a\n\u202e')"
        assert found_in({"x" * 100: 1}) == f"it has no prompt (its fields: '{'x' * 40}…')"

    def test_deep_nesting_is_no_crash(self):
        deep: list = []
        for _ in range(100_000):
            deep = [deep]
        assert found_in({"prompt": "a", "note": deep}) == "it is nested too deeply"
        row = row_of_value({"prompt": "a", "note": deep}, 0, "p")
        assert row == BadRow(0, "p", "it is nested too deeply")

    @given(st.text())
    def test_shown_text_fits_on_a_line(self, text):
        assert shown(text).isprintable()
        assert len(shown("a" * len(text))) <= 43


class TestAValueOfPython:
    def test_a_text_is_a_prompt(self):
        assert row_of_value("a", 1, "prompts[1]") == PromptRow(1, "prompts[1]", "a")

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (3, "it is neither text nor a mapping but a number"),
            (None, "it is neither text nor a mapping but null"),
            (b"a", "it is neither text nor a mapping but a bytes"),
            (["prompt"], "it is neither text nor a mapping but a list"),
            ("", "its prompt is empty"),
            ({"prompt": "a", 3: 4}, "a field's name is not text but a number"),
            (
                {"prompt": "a", "x\n": object()},
                r"its field 'x\n' cannot be carried (JSON has nothing for a object)",
            ),
            (
                {"prompt": "a", "x": {1, 2}},
                "its field 'x' cannot be carried (JSON has nothing for a set)",
            ),
        ],
    )
    def test_what_cannot_be_a_row_is_bad(self, value, found):
        assert row_of_value(value, 1, "prompts[1]") == BadRow(1, "prompts[1]", found)

    def test_what_json_cannot_hold_is_carried_as_text(self):
        values = {
            "prompt": "a",
            "day": datetime.date(2024, 2, 29),
            "moment": datetime.datetime(2024, 2, 29, 1, 2, 3),
            "took": datetime.timedelta(seconds=90),
            "price": decimal.Decimal("1.10"),
            "file": pathlib.PurePosixPath("a/b"),
            "id": uuid.UUID(int=1),
            "raw": b"\xff\x00",
            "nan": math.nan,
            "low": -math.inf,
            "half": np.float32(0.5),
            "many": np.int64(2**40),
            "pair": (1, 2),
            "map": {1: datetime.date(2024, 1, 1)},
        }
        assert json.loads(row_of_value(values, 0, "p").carried) == {
            "day": "2024-02-29",
            "moment": "2024-02-29 01:02:03",
            "took": "0:01:30",
            "price": "1.10",
            "file": "a/b",
            "id": "00000000-0000-0000-0000-000000000001",
            "raw": "/wA=",
            "nan": "nan",
            "low": "-inf",
            "half": 0.5,
            "many": 2**40,
            "pair": [1, 2],
            "map": {"1": "2024-01-01"},
        }

    def test_the_caller_keeps_the_mapping(self):
        value = {"prompt": "a", "target": " b", "n": 1}
        row_of_value(value, 0, "p")
        assert value == {"prompt": "a", "target": " b", "n": 1}
