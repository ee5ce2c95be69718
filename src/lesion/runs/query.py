"""SQL over the rows of a run: one statement that reads, in a database that can touch nothing else.

1. The shards are compared with their SHA-256, then read piece by piece (DuckDB over Arrow).
2. The text is one statement, and a `select`: everything else is refused before it is run.
3. What runs has no file system, no network, no extensions, no names of this program, and no
   settings to change: the second guard does not rely on the first.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import InvalidChoice
from lesion.runs.shards import Shards, StoredShards

_SEALED: dict[str, Any] = {
    "enable_external_access": False,  # also: a name means a table, never a variable of ours
    "temp_directory": "",  # what does not fit into memory is an error, not a file
    "lock_configuration": True,
}


def frame_of(shards: Shards, sql: str) -> pd.DataFrame:
    """The answer of a query over the table `rows`, as pandas has it.

    Raises:
        InvalidChoice: the query means nothing, or does more than read.
        RunDamaged: a shard is not what was written.
    """
    with _answer(shards, sql) as answer:
        frame: pd.DataFrame = answer.df()
    return frame


def table_of(shards: Shards, sql: str) -> pa.Table:
    """The same answer with exact types: whole numbers stay whole beside nulls.

    Raises:
        InvalidChoice: the query means nothing, or does more than read.
        RunDamaged: a shard is not what was written.
    """
    with _answer(shards, sql) as answer:
        return answer.to_arrow_table()


@contextlib.contextmanager
def _answer(shards: Shards, sql: str) -> Iterator[duckdb.DuckDBPyRelation]:
    with duckdb.connect(config=_SEALED) as connection:
        try:
            _check_reads(sql, connection.extract_statements(sql.encode().decode()))
            connection.register("rows", _rows(shards))
            yield connection.sql(sql)
        except (duckdb.Error, UnicodeError) as error:
            raise _bad_query(sql, str(error).splitlines()[0].rstrip(".")) from error


def _rows(shards: Shards) -> Any:
    if isinstance(shards, StoredShards) and shards.units:
        return shards.dataset
    tables = [shard.table for shard in shards]
    return pa.concat_tables(tables) if tables else SWEEP_SCHEMA.empty_table()


def _check_reads(sql: str, statements: list[duckdb.Statement]) -> None:
    """Refuse all but one statement that only reads.

    Raises:
        InvalidChoice: none, several, or one of another kind.
    """
    if not statements:
        raise _bad_query(sql, "it asks nothing")
    if len(statements) > 1:
        raise _bad_query(sql, f"these are {len(statements)} statements")
    try:
        kind = statements[0].type.name
    except ValueError:  # a kind that the Python package has no word for
        kind = "no select"
    if kind != "SELECT":
        raise _bad_query(sql, f"it does something else than to read ({kind.lower()})")


def _bad_query(sql: str, found: str) -> InvalidChoice:
    rule = "A query is one SQL statement over the table rows, whose columns are those of the frame"
    return InvalidChoice(f"query {sql!r}", found, rule, "Try: select layer, fraction from rows")
