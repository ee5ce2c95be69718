"""Two runs compared pair by pair: how much more, or less, the second does.

1. A row of one run is paired with the row of the other that has the same prompt, target, position,
   layer, fraction, selection and draw. What pairs with nothing is counted.
2. Rows with a NaN or infinite logit, and rows where nothing was measured, are left out and counted.
3. The difference, other − one, is averaged within each group of prompts: prompts of one group are
   not independent.
4. The mean over groups has a 95 % interval: Student's t with (groups − 1) degrees of freedom.

Source: Student (1908), The probable error of a mean; `scipy.stats.ttest_1samp` gives the same.
"""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import InvalidChoice
from lesion.runs.manifest import differences
from lesion.runs.run import Run

PROMPT = ["prompt", "target", "target_id", "position"]
PAIR = [*PROMPT, "layer", "fraction", "selection", "draw"]
"""The columns in which the two rows of a pair are equal."""
COLUMNS = ("selection", "fraction", "layer", "rows", "groups", "mean_one", "mean_other",
           "difference", "low", "high")  # fmt: skip
METRICS = tuple(
    field.name
    for field in SWEEP_SCHEMA
    if (pa.types.is_floating(field.type) and field.name != "fraction")
    or field.name.endswith("target_rank")
)
CONFIDENCE = 0.95
FEW_GROUPS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs, compared.

    `table` has one row a selection × fraction × layer. `layer` is null in the rows over all blocks:
    the mean over the blocks that were lesioned one by one, or scope all. `rows` are the pairs. The
    population of `mean_one`, `mean_other` and `difference` are the groups, each the mean of its
    pairs. `low` and `high` are null with fewer than two groups.

    `differing` are the fields in which the runs differ, with both values. `unpaired` counts the
    rows of either run that pair with nothing, `nonfinite` and `unmeasured` the pairs that are left
    out. `notes` say all this in words, and what the intervals do not promise.
    """

    table: pd.DataFrame
    metric: str
    differing: tuple[tuple[str, object, object], ...]
    pairs: int
    unpaired: tuple[int, int]
    nonfinite: int
    unmeasured: int
    regrouped: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to beware of in the intervals."""
        groups = self.table["groups"]
        found = []
        if (groups < 2).any():
            found.append(
                f"{int((groups < 2).sum())} of {len(groups)} rows have fewer than 2 groups, and no "
                "interval: the spread between groups cannot be told from one"
            )
        few = groups[(groups >= 2) & (groups < FEW_GROUPS)]
        if len(few):
            found.append(
                f"{len(few)} of {len(groups)} intervals stand on fewer than {FEW_GROUPS} groups "
                f"({few.min()} at least): that they hold the true mean in 95 of 100 such studies "
                "is promised only where group means are normally distributed"
            )
        if self.regrouped:
            found.append("the runs group the same prompts differently: the first run's groups hold")
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was compared and left out, and the warnings."""
        one, other = self.unpaired
        told = [f"{self.pairs} pairs of rows; {self.metric}, difference = second − first"]
        if one or other:
            told.append(f"{one} rows of the first run and {other} of the second pair with nothing")
        if self.nonfinite:
            told.append(f"{self.nonfinite} pairs are left out: NaN or infinite")
        if self.unmeasured:
            told.append(
                f"{self.unmeasured} pairs are left out: nothing was measured in one or both"
            )
        if len(self.table) > 1:
            told.append(
                "each interval is for its own row: none is corrected for how many there are"
            )
        return (*told, *self.warnings)


def compare(one: Run, other: Run, metric: str = "effect_log_prob") -> pd.DataFrame:
    """The paired difference of two runs, other − one, with a 95 % interval.

    One row a selection × fraction × layer, and one over all blocks (`layer` null): `rows`,
    `groups`, `mean_one`, `mean_other`, `difference`, `low`, `high`. The frame's `attrs` hold the
    `differing` fields of the two runs, and `notes` in words. See `Comparison`.

    Warns:
        UserWarning: there are fewer than 20 groups, or fewer than 2.

    Raises:
        InvalidChoice: an unknown metric, rows that cannot be told apart, or none that pair.
        RunDamaged: a shard is not what was written.
    """
    found = compared(one, other, metric)
    for warning in found.warnings:
        warnings.warn(warning, UserWarning, stacklevel=2)
    found.table.attrs = {
        "differing": {field: [mine, theirs] for field, mine, theirs in found.differing},
        "notes": list(found.notes),
    }
    return found.table


def compared(one: Run, other: Run, metric: str = "effect_log_prob") -> Comparison:
    """The comparison with all that was counted.

    Raises:
        InvalidChoice: an unknown metric, rows that cannot be told apart, or none that pair.
        RunDamaged: a shard is not what was written.
    """
    if metric not in METRICS:
        rule = f"Runs are compared by a number that was measured: {', '.join(METRICS)}"
        raise InvalidChoice(f"compare by {metric!r}", "no such metric", rule, "Take one of those")
    differing = tuple(differences(one.manifest, other.manifest))
    first, second = _rows(one, metric, "first"), _rows(other, metric, "second")
    merged = first.merge(second, on=PAIR, how="outer", suffixes=("_one", "_other"), indicator="in")
    paired = merged[merged["in"] == "both"]
    unpaired = tuple(int((merged["in"] == side).sum()) for side in ("left_only", "right_only"))
    if paired.empty:
        fields = ", ".join(field for field, _, _ in differing) or "nothing that is recorded"
        raise InvalidChoice(
            "compare two runs",
            f"no row of one pairs with a row of the other (they differ in {fields})",
            f"Rows pair that have the same {', '.join(PAIR)}",
            "Measure both with the same prompts, targets, fractions, layers and selections",
        )
    nonfinite = _is_nonfinite(paired, "_one") | _is_nonfinite(paired, "_other")
    unmeasured = ~nonfinite & paired[["value_one", "value_other"]].isna().any(axis="columns")
    kept = paired[~nonfinite & ~unmeasured]
    if kept.empty:
        raise InvalidChoice(
            f"compare by {metric!r}",
            f"of {len(paired)} pairs of rows, {int(nonfinite.sum())} are NaN or infinite and in "
            f"{int(unmeasured.sum())} it was not measured",
            "A difference needs pairs of rows in which both runs measured the metric",
            "Take another metric, or measure this one",
        )
    return Comparison(
        table=_table(kept, list(dict.fromkeys(first["selection"]))),
        metric=metric,
        differing=differing,
        pairs=len(kept),
        unpaired=(unpaired[0], unpaired[1]),
        nonfinite=int(nonfinite.sum()),
        unmeasured=int(unmeasured.sum()),
        regrouped=_regrouped(kept),
    )


def _rows(run: Run, metric: str, which: str) -> pd.DataFrame:
    """The keys, groups and values of a run.

    Raises:
        InvalidChoice: two rows have the same key.
    """
    names = list(dict.fromkeys([*PAIR, "group", "status", metric]))
    tables = [shard.table.select(names) for shard in run.shards]
    table = pa.concat_tables(tables) if tables else SWEEP_SCHEMA.empty_table().select(names)
    # Nulls of whole numbers stay nulls, and pair with nulls.
    types = {pa.int64(): pd.Int64Dtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=types.get).rename(columns={metric: "value"})
    frame["value"] = frame["value"].astype("float64")
    twice = frame.duplicated(PAIR)
    if twice.any():
        row = frame.loc[twice, PAIR].iloc[0]
        raise InvalidChoice(
            "compare two runs",
            f"{int(twice.sum())} rows of the {which} run have the key of another: prompt "
            f"{str(row['prompt'])[:60]!r}, target {row['target']!r}, layer {row['layer']}, "
            f"fraction {row['fraction']:g}, {row['selection']}",
            f"In a run that is compared no two rows have the same {', '.join(PAIR)}",
            "Measure a prompt set in which every prompt stands once",
        )
    return frame


def _is_nonfinite(paired: pd.DataFrame, side: str) -> "pd.Series[bool]":
    infinite = np.isinf(paired[f"value{side}"].to_numpy(dtype="float64", na_value=np.nan))
    found: pd.Series[bool] = (paired[f"status{side}"] == "nonfinite") | infinite
    return found


def _regrouped(paired: pd.DataFrame) -> bool:
    """Whether the two runs put the same prompts together differently, whatever the names."""
    both = paired[["group_one", "group_other"]].drop_duplicates()
    return len(both) != both["group_one"].nunique() or len(both) != both["group_other"].nunique()


def _table(kept: pd.DataFrame, selections: list[str]) -> pd.DataFrame:
    """A row a selection × fraction × layer, after one over all blocks."""
    each = kept[kept["layer"].notna()]
    alone = kept.assign(layer=pd.array([pd.NA] * len(kept), dtype="Int64"))
    found = pd.concat([_summary(alone), _summary(each)], ignore_index=True)
    order = found["selection"].map({name: index for index, name in enumerate(selections)})
    found = found.assign(order=order).sort_values(
        ["order", "fraction", "layer"], na_position="first", kind="stable", ignore_index=True
    )
    return found[list(COLUMNS)]


def _summary(kept: pd.DataFrame) -> pd.DataFrame:
    cell = ["selection", "fraction", "layer"]
    values = kept.assign(difference=kept["value_other"] - kept["value_one"])
    named = {"mean_one": "value_one", "mean_other": "value_other", "difference": "difference"}
    within = values.groupby([*cell, "group_one"], dropna=False, observed=True).agg(
        rows=("difference", "size"), **{new: (old, "mean") for new, old in named.items()}
    )
    over = within.groupby(level=cell, dropna=False).agg(
        rows=("rows", "sum"),
        groups=("rows", "size"),
        **{name: (name, "mean") for name in named},
        spread=("difference", "std"),
    )
    groups = over["groups"].to_numpy()
    enough = groups > 1
    reach = np.full(len(over), np.nan)
    reach[enough] = (
        stats.t.ppf((1 + CONFIDENCE) / 2, groups[enough] - 1)
        * over["spread"].to_numpy()[enough]
        / np.sqrt(groups[enough])
    )
    over = over.assign(low=over["difference"] - reach, high=over["difference"] + reach)
    return over.reset_index()
