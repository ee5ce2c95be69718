"""The words of `select`, and the files that it reads."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.errors import InvalidChoice
from lesion.interventions.select import parse_select, read_neuron_set, takes_fractions
from lesion.interventions.selection import band, bottom, neuron_set, random, top

law = settings(deadline=None)

SHARES = (Decimal("0.01"), Decimal("0.1"))
WORDS = "A selection is one of top, bottom, random[:DRAWS], band:LOW-HIGH, set:FILE"
DRAWS = "random:DRAWS takes a whole number of draws from 1 to 9999. Pass for example random:5"
ENDS = "band:LOW-HIGH takes two fractions. Pass for example band:0.01-0.02"
SHARE = "A fraction is a share of the neurons and lies in [0, 1]"
PAIRS = "A set file holds one layer,neuron pair a line, counted from 0"


def select(asked, fractions=SHARES, rank=None, seed=0):
    return parse_select(asked, fractions, rank, seed)


def message_of(asked):
    with pytest.raises(InvalidChoice) as caught:
        select(asked)
    return str(caught.value)


@pytest.fixture
def set_file(tmp_path):
    """Writes a set file and gives its path."""

    def write(content: str | bytes, name: str = "set.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


class TestWords:
    def test_top_and_bottom_take_every_fraction(self):
        assert select("top") == (top("0.01"), top("0.1"))
        assert select("bottom", rank="abs") == (bottom("0.01", "abs"), bottom("0.1", "abs"))

    def test_random_draws_once_or_as_often_as_asked(self):
        assert select("random", seed=7) == (random("0.01", 7), random("0.1", 7))
        assert select("random:1", seed=7) == select("random", seed=7)
        assert select("random:2", seed=7) == (
            random("0.01", 7, 0),
            random("0.1", 7, 0),
            random("0.01", 7, 1),
            random("0.1", 7, 1),
        )
        assert len(select("random:999", SHARES[:1])) == 999

    @pytest.mark.parametrize(
        ("word", "low", "high"),
        [
            ("band:0.01-0.02", "0.01", "0.02"),
            ("band:0-1", 0, 1),
            ("band:.1-.2", "0.1", "0.2"),
            ("band:1e-3-2e-3", "0.001", "0.002"),
            ("band:1e-3-0.5", "0.001", "0.5"),
            ("band:0.001-2E-3", "0.001", "0.002"),
            ("band:1E-10-1e-9", "1e-10", "1e-9"),
            ("band: 0.1 - 0.2 ", "0.1", "0.2"),
        ],
    )
    def test_a_band_has_its_own_shares(self, word, low, high):
        assert select(word) == (band(low, high),)
        assert select(word, (), "abs") == (band(low, high, "abs"),)

    @law
    @given(
        st.lists(
            st.decimals(min_value=0, max_value=1, places=12), min_size=2, max_size=2, unique=True
        )
    )
    def test_the_word_of_a_band_means_it_again(self, ends):
        one = band(*sorted(ends))
        assert select(one.word) == (one,)

    def test_a_set_comes_from_its_file(self, set_file):
        path = set_file("3,17\n0,9\n")
        assert select(f"set:{path}") == (neuron_set([(0, 9), (3, 17)]),)

    def test_several_words_come_in_their_order(self, set_file):
        path = set_file("3,17\n")
        assert select(f"bottom,top,random:2,band:0.1-0.2,set:{path}", SHARES[:1]) == (
            bottom("0.01"),
            top("0.01"),
            random("0.01", 0, 0),
            random("0.01", 0, 1),
            band("0.1", "0.2"),
            neuron_set([(3, 17)]),
        )

    def test_words_and_built_selections_mix(self):
        built = top(0.5, "abs")
        assert select(built) == (built,)
        assert select(["random", built], SHARES[:1]) == (random("0.01"), built)
        assert select(word for word in ("top", " bottom ")) == select("top,bottom")

    @pytest.mark.parametrize(
        "asked", ["top,top", ["top", top("0.010"), "top"], "random:2,random:1"]
    )
    def test_a_selection_counts_once(self, asked):
        found = select(asked, SHARES[:1])
        assert len(set(found)) == len(found)
        assert found in ((top("0.01"),), (random("0.01", 0, 0), random("0.01", 0, 1)))

    @pytest.mark.parametrize("name", ["a,b.csv", "top,2.csv", "set,topmost.csv", "1,5", "a:b.csv"])
    def test_a_path_may_hold_a_comma(self, set_file, name):
        path = set_file("3,17\n", name)
        assert select(f"top,set:{path},bottom", SHARES[:1]) == (
            top("0.01"),
            neuron_set([(3, 17)]),
            bottom("0.01"),
        )

    @pytest.mark.parametrize("asked", ["top, bottom", "top ,bottom", " top\t,\n bottom "])
    def test_blanks_may_stand_around_the_comma(self, asked):
        assert select(asked) == select("top,bottom")
        assert takes_fractions("band:0.1-0.2, top")


class TestTakesFractions:
    @pytest.mark.parametrize(
        "asked",
        ["top", "bottom", "random:3", "band:0.1-0.2,top", ["set:a", "random"], [top(1), "top"]],
    )
    def test_what_is_multiplied_by_the_fractions(self, asked):
        assert takes_fractions(asked)

    @pytest.mark.parametrize(
        "asked", ["band:0.1-0.2", "set:a.csv", "band:0-1,set:a,b.csv", top(0.1), [top(0.1)], []]
    )
    def test_what_has_its_own_share(self, asked):
        assert not takes_fractions(asked)


class TestUnknownWords:
    @pytest.mark.parametrize(
        "word",
        [
            "",
            "Top",
            "best",
            "top:0.1",
            "bottom:",
            "band",
            "band:",
            "set",
            "set:",
            "top,",
            "top,best",
        ],
    )
    def test_they_are_refused(self, word):
        assert (
            message_of(word)
            == f"select {word!r}: there is no such word. {WORDS}. Pass one of them."
        )

    def test_the_one_of_a_list_is_named(self):
        expected = f"select 'best': there is no such word. {WORDS}. Pass one of them."
        assert message_of(["top", " best "]) == expected

    @pytest.mark.parametrize("asked", [[], ()])
    def test_none_at_all_is_refused(self, asked):
        assert message_of(asked) == f"select: it is empty. {WORDS}. Pass top."

    @pytest.mark.parametrize(
        "draws", ["", "0", "-1", "05", "1.5", "1e3", "many", "1000000", " 5", "1:2"]
    )
    def test_draws_that_are_no_number(self, draws):
        assert (
            message_of(f"random:{draws}") == f"select 'random:{draws}': {draws!r} is none. {DRAWS}."
        )

    @pytest.mark.parametrize("ends", ["0.1", "0.1-", "-0.2", "-0.1-0.2", "0.1-0.2-0.3", "0.1:0.2"])
    def test_bands_without_two_ends(self, ends):
        expected = f"select 'band:{ends}': {ends!r} is not two. {ENDS}."
        assert message_of(f"band:{ends}") == expected

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            (
                "band:0.2-0.1",
                "band(0.2, 0.1): it holds nothing. A band runs from a lower to a higher fraction. "
                "Pass for example band:0.01-0.02.",
            ),
            (
                "band:1-5",
                f"fraction 5: it is greater than 1. {SHARE}. For 5 per cent, pass 0.05.",
            ),
            (
                "band:low-high",
                f"fraction low: it is not a number. {SHARE}. Pass a decimal such as 0.05, a preset "
                "(coarse, fine, book) or start:stop:step.",
            ),
        ],
    )
    def test_bands_whose_ends_mean_nothing(self, word, message):
        assert message_of(word) == message


class TestSetFiles:
    @pytest.mark.parametrize(
        "content",
        [
            "3,17\n0,9\n",
            "layer,neuron\n3,17\n0,9\n",
            " layer , neuron \n3,17\n0,9",
            "\n\n3,17\n\n0,9\n\n",
            "3,17\r\n0,9\r\n",
            " 3 , 17 \n\t0,\t9\n",
            "0,9\n3,17\n3,17\n",
            "03,017\n0,9\n",
            "3,17\n , \n0,9\n",
        ],
    )
    def test_headers_blank_lines_and_spaces_do_not_matter(self, set_file, content):
        assert read_neuron_set(set_file(content)) == neuron_set([(0, 9), (3, 17)])

    @pytest.mark.parametrize(
        ("content", "line", "text"),
        [
            ("3,17\n3,x\n0,9\n", 2, "3,x"),
            ("layer,neuron\n\n3\n", 3, "3"),
            ("3,17,1\n", 1, "3,17,1"),
            ("3,17\n3,-1\n", 2, "3,-1"),
            ("3;17\n", 1, "3;17"),
            ("3,1.5\n", 1, "3,1.5"),
            ("3,\n", 1, "3,"),
            ("3,17\nlayer,neuron\n", 2, "layer,neuron"),
            ("neuron,layer\n3,17\n", 1, "neuron,layer"),
            ('0,9\n"3","17"\n', 2, '"3","17"'),
            ('3,"1\n7"\n4,x\n', 1, '3,"1'),
            ("3,²\n", 1, "3,²"),
            ("3,٣\n", 1, "3,٣"),
            ("3," + "9" * 5000, 1, "3," + "9" * 38 + "…"),
            ("1" * 200_000, 1, "1" * 40 + "…"),
            ("# chosen by hand\n3,17\n", 1, "# chosen by hand"),
        ],
    )
    def test_a_line_that_is_no_pair_is_named(self, set_file, content, line, text):
        path = set_file(content)
        expected = f"select set:{path}: line {line} is {text!r}. {PAIRS}. Write for example 3,17."
        assert message_of(f"set:{path}") == expected

    @pytest.mark.parametrize("content", ["", "\n\n", "layer,neuron\n"])
    def test_a_file_without_a_pair_is_refused(self, set_file, content):
        path = set_file(content)
        expected = f"select set:{path}: it holds no pair. {PAIRS}. Write for example 3,17."
        assert message_of(f"set:{path}") == expected

    def test_a_file_that_is_not_utf_8_is_refused(self, set_file):
        path = set_file(b"3,17\n\xff\xfe\n")
        assert message_of(f"set:{path}") == (
            f"select set:{path}: byte 5 is not UTF-8. {PAIRS}. Save the file as UTF-8 text."
        )

    def test_a_file_that_is_missing_is_refused(self, tmp_path):
        path = tmp_path / "none.csv"
        assert message_of(f"set:{path}") == (
            f"select set:{path}: it cannot be read (No such file or directory). {PAIRS}. "
            "Check the name."
        )

    def test_a_directory_is_refused(self, tmp_path):
        assert message_of(f"set:{tmp_path}") == (
            f"select set:{tmp_path}: it cannot be read (Is a directory). {PAIRS}. Check the name."
        )

    def test_a_byte_order_mark_does_not_matter(self, set_file):
        path = set_file("layer,neuron\n3,17\n".encode("utf-8-sig"))
        assert read_neuron_set(path) == neuron_set([(3, 17)])

    def test_a_name_that_no_file_can_have_is_refused(self):
        assert message_of("set:a\0b") == (
            f"select set:a\0b: it cannot be read (embedded null byte). {PAIRS}. Check the name."
        )
