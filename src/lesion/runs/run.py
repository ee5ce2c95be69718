"""A run: its manifest and its table, as frame, chart, query, or directory."""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import RunExists
from lesion.runs.manifest import Manifest, PromptRecord, SelfCheckRecord
from lesion.runs.opening import open_folder
from lesion.runs.run_json import read_manifest
from lesion.runs.shard import Shard, shard_name
from lesion.runs.shards import HeldShards, Shards, StoredShards, damaged
from lesion.runs.store import FIGURES, RunWriter, claim, sound_record, stored_units

_NULLABLE = {pa.int64(): pd.Int64Dtype()}
FIGURE_SUFFIXES = (".html", ".png")
DRAWN_ROWS = 2_000_000
"""Most rows of a run that the command draws by itself: a picture holds the whole frame."""


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How the units of a run were measured, together; the words are those of `MeasuringRecord`.

    `seconds` are summed over the units, whichever process measured them; `self_check` is the
    comparison with the largest difference, `noise_floor` the highest.
    """

    engines: tuple[str, ...]
    reason: str
    seconds: float
    rows_in_pass: int | None
    halvings: int
    self_check: SelfCheckRecord | None
    self_checks: int
    near_ties: int
    noise_floor: float | None

    @property
    def engine(self) -> str:
        """The engine, or several."""
        return ", ".join(self.engines)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What was asked (`manifest`) and what was measured (`table`, see `lesion.columns`).

    Not all units need be finished; see `complete`.
    """

    manifest: Manifest
    shards: Shards

    @functools.cached_property
    def table(self) -> pa.Table:
        """All rows, in the order of prompts and cells.

        Raises:
            RunDamaged: a shard is not what was written.
        """
        tables = [shard.table for shard in self.shards]
        return pa.concat_tables(tables) if tables else SWEEP_SCHEMA.empty_table()

    @functools.cached_property
    def prompts(self) -> tuple[PromptRecord, ...]:
        """What was asked of each prompt, and its clean prediction."""
        return tuple(prompt for shard in self.shards for prompt in shard.prompts)

    @property
    def complete(self) -> bool:
        """Whether every unit is finished."""
        return len(self.shards.units) == self.manifest.prompts.units

    @property
    def nonfinite(self) -> int:
        """How many rows had a NaN or infinite logit."""
        return self.shards.nonfinite

    @property
    def has_figures(self) -> bool:
        """Whether pictures were drawn of it."""
        return self.shards.has_figures

    @functools.cached_property
    def measuring(self) -> Measuring:
        """How it was measured."""
        found = self.shards.measuring
        checks = [each.self_check for each in found if each.self_check is not None]
        rows = [each.rows_in_pass for each in found if each.rows_in_pass is not None]
        floors = [each.noise_floor for each in found if each.noise_floor is not None]
        return Measuring(
            engines=tuple(dict.fromkeys(each.engine for each in found)),
            reason="; ".join(dict.fromkeys(each.reason for each in found)),
            seconds=sum(each.seconds for each in found),
            rows_in_pass=max(rows, default=None),
            halvings=sum(each.halvings for each in found),
            self_check=max(checks, key=lambda check: check.difference, default=None),
            self_checks=len(checks),
            near_ties=sum(each.near_ties for each in found),
            noise_floor=max(floors, default=None),
        )

    def frame(self) -> pd.DataFrame:
        """The table in pandas: one row a prompt × layer × fraction; whole numbers are nullable."""
        frame: pd.DataFrame = self.table.to_pandas(types_mapper=_NULLABLE.get)
        return frame

    def chart(self, kind: str, *, metric: str = "effect_log_prob") -> Any:
        """A picture of the run: `curves`, `dots`, `heatmap`, or `dose` for scope `all`.

        Raises:
            InvalidChoice: an unknown kind or metric, or a kind that does not suit the scope.
        """
        from lesion.figures import chart

        return chart(self.frame(), kind, metric=metric)

    def chart_kinds(self) -> tuple[str, ...]:
        """The kinds of picture that suit this run; none where nothing was measured."""
        from lesion.figures import kinds_for

        frame = self.frame()
        return kinds_for(frame) if (frame["status"] == "ok").any() else ()

    def query(self, sql: str) -> pd.DataFrame:
        """The answer of a SQL query over the table, which is named `rows` (DuckDB's SQL).

        It only reads, and only this run; rows in a directory are read piece by piece.

        Raises:
            InvalidChoice: the query means nothing, or does more than read.
            RunDamaged: a shard is not what was written.
        """
        from lesion.runs.query import frame_of

        return frame_of(self.shards, sql)

    def save(self, path: str | Path, *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write the run to a directory: `run.json`, `shards/`, and `figures/` as HTML and PNG.

        Raises:
            RunExists: something stands there already and `overwrite` is false, or it is no run.
            RunInUse: another process writes there.
            RunNotWritable: nothing can be written there, or the disk is full.
        """
        with claim(path, overwrite=overwrite) as writer:
            if writer.stored is not None and not overwrite:
                raise RunExists(
                    f"save to {path}",
                    "a run stands there already",
                    "A run is written to a new directory, or over an older run when that is asked "
                    "for",
                    "Pass overwrite (--overwrite), or another directory",
                )
            writer.begin(self.manifest, overwrite=overwrite)
            for shard in self.shards:
                writer.commit(shard)
            if figures:
                self.draw(writer)
        return Path(path)

    def draw(self, writer: RunWriter) -> None:
        """Write every picture that suits the run to its directory, as HTML and PNG."""
        from lesion.figures import save_chart

        charts = {kind: self.chart(kind) for kind in self.chart_kinds()}
        with tempfile.TemporaryDirectory() as folder:
            for kind, chart in charts.items():
                for suffix in FIGURE_SUFFIXES:
                    drawn = Path(folder) / f"{kind}{suffix}"
                    save_chart(chart, drawn)
                    writer.folder.put(f"{FIGURES}/{drawn.name}", drawn.read_bytes())

    def __repr__(self) -> str:
        plan, units = self.manifest.plan, len(self.shards.units)
        unfinished = "" if self.complete else f", {units} of {self.manifest.prompts.units} units"
        return (
            f"Run({self.manifest.experiment} of {self.manifest.model.name}: "
            f"{self.shards.rows} rows, site {plan.get('site')}, select {plan.get('select')}, "
            f"replace {plan.get('replace')}, scope {plan.get('scope')}{unfinished})"
        )


def held_run(manifest: Manifest, shards: list[Shard]) -> Run:
    """A run in memory."""
    return Run(manifest, HeldShards(shards))


def open_run(path: str | Path) -> Run:
    """Read back a run, finished or not; its shards are read and proven when they are asked for.

    Raises:
        RunNotFound: no run there, or one that this version cannot read.
        RunDamaged: run.json, or a shard of a size that was not written.
    """
    folder = open_folder(path)
    manifest = read_manifest(folder)
    records = folder.records()
    found = []
    for unit, size in stored_units(folder):
        record = sound_record(folder, unit, size, records.get(unit), manifest.key)
        if record is None:
            told = "has another size than was written" if unit in records else "has no record"
            raise damaged(folder, f"{shard_name(unit)} {told} and does not prove itself")
        found.append(record)
    return Run(manifest, StoredShards(folder, manifest, found))
