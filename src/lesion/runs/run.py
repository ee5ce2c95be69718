"""A finished run: its manifest and its table, as frame, chart, query, or directory."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lesion.errors import InvalidChoice
from lesion.runs import store
from lesion.runs.manifest import Manifest

_NULLABLE = {pa.int64(): pd.Int64Dtype()}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What was asked (`manifest`) and what was measured (`table`, see `lesion.columns`)."""

    manifest: Manifest
    table: pa.Table

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

        Raises:
            InvalidChoice: the query means nothing.
        """
        import duckdb

        with duckdb.connect(config={"enable_external_access": False}) as connection:
            connection.register("rows", self.table)
            try:
                answer = connection.execute(sql)
                # A text without a statement gives no answer at all.
                frame: pd.DataFrame | None = answer.df() if answer and answer.description else None
            except duckdb.Error as error:
                raise _bad_query(sql, str(error).splitlines()[0].rstrip(".")) from error
        if frame is None:
            raise _bad_query(sql, "it asks nothing")
        return frame

    def save(self, path: str | Path, *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write the run to a directory: `run.json`, `shards/`, and `figures/` as HTML and PNG.

        The directory appears whole or not at all.

        Raises:
            RunExists: something stands there already and `overwrite` is false, or it is no run.
            RunNotWritable: nothing can be written there, or the disk is full.
        """
        folder = Path(path)
        store.check_free(folder, overwrite)
        charts = {kind: self.chart(kind) for kind in self.chart_kinds()} if figures else {}
        store.write(self.manifest, self.table, charts, folder, overwrite=overwrite)
        return folder

    def __repr__(self) -> str:
        plan = self.manifest.plan
        return (
            f"Run({self.manifest.experiment} of {self.manifest.model.name}: "
            f"{len(self.table)} rows, site {plan.get('site')}, select {plan.get('select')}, "
            f"replace {plan.get('replace')}, scope {plan.get('scope')})"
        )


def _bad_query(sql: str, found: str) -> InvalidChoice:
    rule = "A query is one SQL statement over the table rows, whose columns are those of the frame"
    return InvalidChoice(f"query {sql!r}", found, rule, "Try: select layer, fraction from rows")


def open_run(path: str | Path) -> Run:
    """Read back a run that `Run.save` wrote.

    Raises:
        RunNotFound: no run there, or one that this version cannot read.
        RunDamaged: a shard is not what was written.
    """
    return Run(*store.read(Path(path)))
