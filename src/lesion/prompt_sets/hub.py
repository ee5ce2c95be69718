"""Data sets of the Hugging Face Hub, or of a folder laid out like one, through `datasets`.

The package is an extra, and is imported when a set is asked for. Rows are streamed, nothing of the
set is stored here, and no code of a set is run: `datasets` has refused to since its version 4.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from lesion.errors import PromptSetError
from lesion.prompt_sets.rows import BadRow, PromptRow, columns_named
from lesion.prompt_sets.values import row_of_value

PREFIX = "hf:"

_RULE = "A data set is named hf:OWNER/NAME[:SPLIT], or hf:FOLDER[:SPLIT], and has a column prompt"
_SAFE_SINCE = 4
_OFFLINE = (
    "Check name and split; without a network, fetch it elsewhere with `hf download --repo-type "
    "dataset NAME` and pass hf:FOLDER"
)


def stream(asked: str) -> Any:
    """The split that `hf:owner/name[:split]` names, as a stream that can be read again.

    Raises:
        PromptSetError: `datasets` is missing or too old, there is no such set or split, it cannot
            be reached, it has code of its own, or no column `prompt`.
    """
    name, _, split = asked.removeprefix(PREFIX).partition(":")
    if not name:
        raise PromptSetError(f"prompts {asked!r}", "no data set is named", _RULE, _OFFLINE)
    datasets = _package(asked)
    try:
        found = datasets.load_dataset(name, split=split or "train", streaming=True)
        # Pictures and sounds are carried as they are stored: decoding them takes more packages.
        found = found if found.features is None else found.decode(False)
        columns = found.column_names
    except _errors(datasets) as error:
        raise _unreadable(asked, error) from error
    if columns is not None and "prompt" not in columns:
        without = f"it has no column prompt (its columns: {columns_named(columns)})"
        raise PromptSetError(f"prompts {asked!r}", without, _RULE, "Choose another data set")
    return found


def read_stream(streamed: Any, asked: str) -> Iterator[PromptRow | BadRow]:
    """The rows of a stream.

    Raises:
        PromptSetError: it breaks off.
    """
    try:
        for prompt_id, values in enumerate(streamed):
            yield row_of_value(values, prompt_id, f"{asked}[{prompt_id}]")
    except _errors(_package(asked)) as error:
        raise _unreadable(asked, error) from error


def _package(asked: str) -> ModuleType:
    remedy = 'pip install "lesion[hub]"'
    rule = (
        f"Data sets of the Hub are read with the package datasets, version {_SAFE_SINCE} or newer"
    )
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise PromptSetError(f"prompts {asked!r}", "it is not installed", rule, remedy) from error
    if int(datasets.__version__.partition(".")[0]) < _SAFE_SINCE:
        found = f"version {datasets.__version__} is installed, which may run a data set's own code"
        raise PromptSetError(f"prompts {asked!r}", found, rule, remedy)
    return datasets


def _errors(datasets: ModuleType) -> tuple[type[Exception], ...]:
    """What `datasets` raises for what its caller, the network or the set has got wrong."""
    own: type[Exception] = datasets.exceptions.DatasetsError
    # PyArrow's errors are ValueErrors, OSErrors and these built-ins as well.
    return (own, OSError, ValueError, RuntimeError, LookupError, TypeError)


def _unreadable(asked: str, error: Exception) -> PromptSetError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return PromptSetError(f"prompts {asked!r}", lines[0].rstrip("."), _RULE, _OFFLINE)
