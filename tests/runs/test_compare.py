"""The paired difference of two runs, against scipy's own interval and an example by hand."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from built_runs import built_row, built_run
from scipy import stats

from lesion.errors import InvalidChoice
from lesion.runs.compare import COLUMNS, METRICS, PAIR, compare, compared
from lesion.runs.run import Run

KEY = "prompt, target, target_id, position, layer, fraction, selection, draw"
pytestmark = pytest.mark.filterwarnings("ignore:.*groups:UserWarning")


def two_runs(differences: dict[str, list[float]], **words: object) -> tuple[Run, Run]:
    """Runs with a prompt for every difference, by group; the first run's effects are −1, −2, …."""
    prompts = [(group, each) for group, found in differences.items() for each in found]
    one, other = (
        built_run(
            *[
                [built_row(f"p{i}", -1.0 - i + share * each, group=group)]
                for i, (group, each) in enumerate(prompts)
            ],
            **plan,
        )
        for share, plan in ((0.0, {}), (1.0, words))
    )
    return one, other


def one_row(one: Run, other: Run, **options: str) -> pd.Series:
    """The row over all blocks, of runs with one fraction and selection."""
    found = compare(one, other, **options)
    assert list(found.columns) == list(COLUMNS)
    rows = found[found["layer"].isna()]
    assert len(rows) == 1
    return rows.iloc[0]


class TestTheInterval:
    def test_an_example_by_hand(self) -> None:
        """Groups of 2, 1 and 1 prompts: group means 2, 1 and 6; mean 3, standard deviation √7.

        t with 2 degrees of freedom at 97.5 % is 4.302653, and half the interval 4.302653·√7/√3.
        """
        row = one_row(*two_runs({"a": [1.0, 3.0], "b": [1.0], "c": [6.0]}, replace="zero"))
        assert (row["rows"], row["groups"]) == (4, 3)
        assert row["difference"] == pytest.approx(3.0)
        assert row["mean_one"] == pytest.approx((-1.5 - 3 - 4) / 3)
        assert row["mean_other"] == pytest.approx((0.5 - 2 + 2) / 3)
        assert row["low"] == pytest.approx(3 - 4.302653 * math.sqrt(7 / 3), abs=1e-5)
        assert row["high"] == pytest.approx(3 + 4.302653 * math.sqrt(7 / 3), abs=1e-5)

    def test_it_is_that_of_scipy(self) -> None:
        """150 studies of up to 30 groups of up to 3 prompts, each at a fraction of its own."""
        rng = np.random.default_rng(3)
        shapes = [rng.integers(1, 4, size=groups) for groups in rng.integers(2, 31, size=150)]
        one, other, expected = [], [], []
        for study, sizes in enumerate(shapes):
            means = []
            for group, size in enumerate(sizes):
                first, second = rng.normal(scale=10.0 ** rng.integers(-6, 3), size=(2, size))
                means.append((second - first).mean())
                for rows, values in ((one, first), (other, second)):
                    rows.extend(
                        built_row(f"{group} {i}", value, group=f"{group}", fraction=study / 1000)
                        for i, value in enumerate(values)
                    )
            expected.append((np.mean(means), stats.ttest_1samp(means, 0.0).confidence_interval()))
        found = compare(built_run(one), built_run(other))
        found = found[found["layer"].isna()]
        assert list(found["groups"]) == [len(sizes) for sizes in shapes]
        assert list(found["rows"]) == [sum(sizes) for sizes in shapes]
        assert list(found["difference"]) == pytest.approx([mean for mean, _ in expected], rel=1e-9)
        assert list(found["low"]) == pytest.approx([each.low for _, each in expected], rel=1e-9)
        assert list(found["high"]) == pytest.approx([each.high for _, each in expected], rel=1e-9)

    def test_without_spread_it_is_a_point(self) -> None:
        row = one_row(*two_runs({"a": [2.0], "b": [2.0]}))
        assert (row["low"], row["difference"], row["high"]) == (2.0, 2.0, 2.0)

    def test_it_turns_around_with_the_runs(self) -> None:
        one, other = two_runs({"a": [1.0, 3.0], "b": [1.0], "c": [6.0]})
        row, back = one_row(one, other), one_row(other, one)
        assert back["difference"] == pytest.approx(-row["difference"])
        assert (back["low"], back["high"]) == (
            pytest.approx(-row["high"]),
            pytest.approx(-row["low"]),
        )

    def test_it_holds_the_true_difference_as_often_as_it_says(self) -> None:
        """1,000 studies of 8 normal groups: 95 % of the intervals, within 4 standard errors."""
        values = np.random.default_rng(4).normal(0.3, 1.0, size=(1000, 8))
        one, other = (
            built_run(
                [
                    built_row(f"g{group}", share * value, fraction=study / 1000)
                    for study, found in enumerate(values)
                    for group, value in enumerate(found)
                ]
            )
            for share in (0.0, 1.0)
        )
        found = compare(one, other)
        found = found[found["layer"].isna()]
        held = ((found["low"] <= 0.3) & (found["high"] >= 0.3)).mean()
        assert abs(held - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)

    def test_one_group_has_none(self) -> None:
        one, other = two_runs({"a": [1.0, 3.0]})
        found = compared(one, other)
        assert found.table[["low", "high"]].isna().all(axis=None)
        assert found.table["difference"].iloc[0] == 2.0
        assert found.warnings == (
            "2 of 2 rows have fewer than 2 groups, and no interval: the spread between groups "
            "cannot be told from one",
        )

    @pytest.mark.parametrize(("groups", "warned"), [(2, True), (19, True), (20, False)])
    def test_few_groups_are_warned_of(self, groups: int, warned: bool) -> None:
        one, other = two_runs({f"g{i}": [float(i)] for i in range(groups)})
        expected = (
            f"2 of 2 intervals stand on fewer than 20 groups ({groups} at least): that they hold "
            "the true mean in 95 of 100 such studies is promised only where group means are "
            "normally distributed",
        )
        assert compared(one, other).warnings == (expected if warned else ())
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            frame = compare(one, other)
        assert tuple(str(each.message) for each in heard) == (expected if warned else ())
        assert frame.attrs["notes"][-1] == (expected[0] if warned else frame.attrs["notes"][-1])


class TestPairs:
    def test_every_word_of_the_key_tells_rows_apart(self) -> None:
        """Against pairing by hand: each row has another value, and finds its own."""
        changed = {
            "prompt": "q", "target": " day", "target_id": 8, "position": 4, "layer": None,
            "fraction": 0.2, "selection": "random", "draw": 0,
        }  # fmt: skip
        assert list(changed) == PAIR
        rows = [{}, *({name: value} for name, value in changed.items())]
        one = built_run([built_row("p", -1.0) | each for each in rows])
        other = built_run(
            [built_row("p", -1.0 + index) | each for index, each in enumerate(rows)][::-1]
        )
        found = compared(one, other)
        assert (found.pairs, found.unpaired) == (len(rows), (0, 0))
        for word in PAIR:
            missing = built_run(
                [row for row in other.table.to_pylist() if row[word] != changed[word]]
            )
            assert compared(one, missing).unpaired == (1, 0), word

    def test_layers_fractions_and_selections_have_their_rows(self) -> None:
        def run(scale: float) -> Run:
            return built_run(
                *[
                    [
                        built_row(f"p{i}", scale * (i + 1) * (layer + 1) * fraction, layer=layer,
                                  fraction=fraction, selection=selection, draw=draw)
                        for layer in range(2)
                        for fraction in (0.5, 0.1)
                        for selection, draw in (("top", None), ("random", 0), ("random", 1))
                    ]
                    for i in range(3)
                ]
            )  # fmt: skip

        found = compare(run(1.0), run(2.0))
        assert [
            tuple(row) for row in found[["selection", "fraction", "layer"]].fillna(-1).values
        ] == [
            (selection, fraction, layer)
            for selection in ("top", "random")
            for fraction in (0.1, 0.5)
            for layer in (-1, 0, 1)
        ]
        assert list(found["rows"]) == [6, 3, 3, 6, 3, 3, 12, 6, 6, 12, 6, 6]
        assert set(found["groups"]) == {3}
        # Mean over prompts of (i + 1) is 2; over blocks of (layer + 1) it is 1.5.
        expected = [
            2 * blocks * fraction for _ in "12" for fraction in (0.1, 0.5) for blocks in (1.5, 1, 2)
        ]
        assert list(found["difference"]) == pytest.approx(expected)

    def test_what_pairs_with_nothing_is_counted(self) -> None:
        one, other = two_runs({"a": [1.0], "b": [2.0], "c": [3.0]})
        few = built_run(*[[row] for row in other.table.to_pylist()[:2]], [built_row("new", -1.0)])
        found = compared(one, few)
        assert (found.pairs, found.unpaired) == (2, (1, 1))
        assert "1 rows of the first run and 1 of the second pair with nothing" in found.notes

    def test_runs_that_share_nothing_are_refused(self) -> None:
        one = built_run([built_row("p", -1.0)])
        other = built_run([built_row("q", -1.0)], replace="zero", scope="all")
        with pytest.raises(InvalidChoice) as refusal:
            compare(one, other)
        assert str(refusal.value) == (
            "compare two runs: no row of one pairs with a row of the other (they differ in "
            f"plan.replace, plan.scope). Rows pair that have the same {KEY}. Measure both with the "
            "same prompts, targets, fractions, layers and selections."
        )

    def test_a_key_that_stands_twice_is_refused(self) -> None:
        one = built_run([built_row("p", -1.0)])
        twice = built_run([built_row("p", -1.0)], [built_row("p", -2.0)])
        with pytest.raises(InvalidChoice) as refusal:
            compare(one, twice)
        assert str(refusal.value) == (
            "compare two runs: 1 rows of the second run have the key of another: prompt 'p', "
            "target ' night', layer 0, fraction 0.1, top. In a run that is compared no two rows "
            f"have the same {KEY}. Measure a prompt set in which every prompt stands once."
        )
        with pytest.raises(InvalidChoice, match=r"1 rows of the first run"):
            compare(twice, one)


class TestWhatIsLeftOut:
    def test_it_is_counted(self) -> None:
        nan, infinite = float("nan"), float("-inf")
        one = built_run(
            [
                built_row("a", -1.0, group="a"),
                built_row("b", -1.0, status="nonfinite"),
                built_row("c", infinite),
                built_row("d", None),
                built_row("e", -4.0),
                built_row("f", None),
                built_row("g", nan, status="nonfinite"),
            ]
        )
        values = {"a": -3.0, "b": -1.0, "c": -1.0, "d": -1.0, "e": -8.0, "f": None, "g": nan}
        found = compared(one, built_run([built_row(name, each) for name, each in values.items()]))
        assert (found.pairs, found.nonfinite, found.unmeasured) == (2, 3, 2)
        row = found.table.iloc[0]
        assert (row["mean_one"], row["mean_other"], row["difference"]) == (-2.5, -5.5, -3.0)
        assert found.notes[:3] == (
            "2 pairs of rows; effect_log_prob, difference = second − first",
            "3 pairs are left out: NaN or infinite",
            "2 pairs are left out: nothing was measured in one or both",
        )

    def test_nothing_left_is_refused(self) -> None:
        one = built_run([built_row("a", None), built_row("b", -1.0, status="nonfinite")])
        with pytest.raises(InvalidChoice) as refusal:
            compare(one, one)
        assert str(refusal.value) == (
            "compare by 'effect_log_prob': of 2 pairs of rows, 1 are NaN or infinite and in 1 it "
            "was not measured. A difference needs pairs of rows in which both runs measured the "
            "metric. Take another metric, or measure this one."
        )


class TestMetrics:
    def test_another_metric(self) -> None:
        one, other = two_runs({"a": [1.0], "b": [2.0]})
        assert one_row(one, other, metric="effect_logit")["difference"] == pytest.approx(3.0)

    @pytest.mark.parametrize("metric", ["", "fraction", "layer", "prompt", "effect", "hidden_norm"])
    def test_an_unknown_one_is_refused(self, metric: str) -> None:
        one, other = two_runs({"a": [1.0]})
        with pytest.raises(InvalidChoice) as refusal:
            compare(one, other, metric)
        assert str(refusal.value) == (
            f"compare by {metric!r}: no such metric. Runs are compared by a number that was "
            f"measured: {', '.join(METRICS)}. Take one of those."
        )

    def test_they_are_what_a_sweep_measures(self) -> None:
        assert set(METRICS) >= {
            "effect_log_prob", "effect_logit", "effect_logit_diff", "kl", "entropy", "prob",
            "target_rank", "removed_post", "out_delta_norm", "direct_log_prob",
        }  # fmt: skip


class TestWhatDiffers:
    def test_the_fields_are_told(self) -> None:
        one, other = two_runs({"a": [1.0], "b": [2.0]}, replace="zero", seed=1)
        frame = compare(one, other)
        assert frame.attrs["differing"] == {
            "plan.replace": ["median", "zero"],
            "plan.seed": [0, 1],
        }
        json.dumps(frame.attrs)

    def test_the_same_run_differs_in_nothing(self) -> None:
        one, _ = two_runs({"a": [1.0], "b": [2.0]})
        found = compared(one, one)
        assert found.differing == ()
        assert list(found.table["difference"]) == [0.0, 0.0]

    def test_other_groups_are_told_and_other_names_are_not(self) -> None:
        one, other = two_runs({"a": [1.0, 1.0], "b": [2.0]})
        rows = other.table.to_pylist()
        renamed = built_run([row | {"group": f"new {row['group']}"} for row in rows])
        assert not compared(one, renamed).regrouped
        for group in ("one for all", None):
            moved = built_run([row | {"group": group or row["prompt"]} for row in rows])
            found = compared(one, moved)
            assert found.regrouped
            assert found.table["groups"].iloc[0] == 2
            assert found.warnings[-1] == (
                "the runs group the same prompts differently: the first run's groups hold"
            )
