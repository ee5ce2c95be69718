"""Bad rows are listed together; too many of them stop a run."""

import pytest

from lesion.errors import PromptSetError
from lesion.prompt_sets.bad_rows import check_bad_rows, listed
from lesion.prompt_sets.rows import BadRow


def bad(count: int) -> list[BadRow]:
    found = "its prompt is empty"
    return [BadRow(number, f"x.jsonl:{number + 1}", found) for number in range(count)]


def refusal(*arguments: object) -> str:
    with pytest.raises(PromptSetError) as caught:
        check_bad_rows(*arguments)
    return str(caught.value)


class TestTheList:
    def test_one_a_line(self):
        assert listed(bad(2)) == (
            "  x.jsonl:1: its prompt is empty\n  x.jsonl:2: its prompt is empty"
        )
        assert listed([]) == ""

    def test_it_says_how_many_more_there_are(self):
        assert listed(bad(50)).count("\n") == 49
        assert listed(bad(51)).splitlines()[-2:] == [
            "  x.jsonl:50: its prompt is empty",
            "  and 1 more",
        ]
        assert listed(bad(3), 1) == "  x.jsonl:1: its prompt is empty\n  and 2 more"
        assert listed(bad(1), count=2001) == "  x.jsonl:1: its prompt is empty\n  and 2,000 more"


class TestTheCheck:
    @pytest.mark.parametrize(("rows", "count"), [(5, 1), (10, 2), (1, 0), (0, 0), (1000, 200)])
    def test_a_fifth_may_be_bad(self, rows, count):
        check_bad_rows("x.jsonl", rows, bad(count), False)

    @pytest.mark.parametrize(("rows", "count"), [(4, 1), (9, 2), (1, 1), (1000, 201)])
    def test_more_than_a_fifth_may_not(self, rows, count):
        with pytest.raises(PromptSetError):
            check_bad_rows("x.jsonl", rows, bad(count), False)

    def test_too_many_are_all_listed(self):
        assert refusal("x.jsonl", 4, bad(2), False) == (
            "prompts 'x.jsonl': 2 of 4 rows cannot be measured:\n"
            "  x.jsonl:1: its prompt is empty\n"
            "  x.jsonl:2: its prompt is empty\n"
            "That is more than 20 %. At most 20 % of a prompt set's rows may be bad, and are then "
            "skipped and counted. Mend these rows or remove them."
        )
        assert refusal("x.jsonl", 500, bad(200), False).count("its prompt is empty") == 200

    def test_strict_allows_none(self):
        check_bad_rows("x.jsonl", 100, [], True)
        assert refusal("x.jsonl", 100, bad(1), True) == (
            "prompts 'x.jsonl': 1 of 100 rows cannot be measured:\n"
            "  x.jsonl:1: its prompt is empty\n"
            "Strict, none is skipped. With strict, no row of a prompt set may be bad. Mend these "
            "rows or remove them, or leave out strict (--strict)."
        )

    def test_the_count_may_exceed_the_list(self):
        check_bad_rows("x.jsonl", 10_000, bad(1), False, 2000)
        text = refusal("x.jsonl", 10_000, bad(1), False, 2001)
        assert "2,001 of 10,000 rows cannot be measured:\n" in text
        assert "\n  and 2,000 more\n" in text
