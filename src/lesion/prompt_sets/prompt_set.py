"""A prompt set: its rows, its name, and the hash of its content."""

import abc
import errno
import hashlib
import json
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from lesion.errors import PromptSetError
from lesion.prompt_sets.csv_file import read_csv
from lesion.prompt_sets.hub import PREFIX, read_stream, stream
from lesion.prompt_sets.jsonl import read_jsonl
from lesion.prompt_sets.parquet import read_parquet
from lesion.prompt_sets.rows import BadRow, PromptRow, word_for
from lesion.prompt_sets.text import read_text
from lesion.prompt_sets.values import row_of_value

PACKAGED = Path(__file__).parent / "packaged"

_Reader = Callable[[BufferedIOBase, str, int], Iterator[PromptRow | BadRow]]
_READERS: dict[str, _Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".txt": read_text,
}
_ROWS = "A prompt set has at least one row"
_FILE = "A prompt set is a regular file, because it is read more than once"


class PromptSet(abc.ABC):
    """Rows that can be read again and again, each time the same."""

    name: str
    """How a run names it: the path as given, a packaged name, hf:…, or `prompts` for a list."""

    @abc.abstractmethod
    def rows(self, first: int = 0) -> Iterator[PromptRow | BadRow]:
        """Its rows one after the other, from number `first` on, in bounded memory.

        Those before are passed over as quickly as may be: what is resumed begins behind them.

        Raises:
            PromptSetError: it cannot be read, or has no rows.
        """

    @abc.abstractmethod
    def sha256(self) -> str:
        """The hash of its content, by which a run knows it again.

        Raises:
            PromptSetError: it cannot be read.
        """


def open_prompt_set(asked: str | Path | Sequence[str | Mapping[str, Any]]) -> PromptSet:
    """The prompt set that is asked for.

    Args:
        asked: a file (.jsonl, .ndjson, .csv, .parquet, .txt); `hf:owner/name[:split]`; the name of
            a packaged set, which counts where no file of that name exists; or a list of prompts and
            of mappings with a row's fields.

    Raises:
        PromptSetError: there is no such set, it cannot be read, or it has no rows.
    """
    if isinstance(asked, str) and asked.startswith(PREFIX):
        return HubPromptSet(asked)
    if isinstance(asked, str | Path):
        return _open_file(asked)
    if not isinstance(asked, Sequence):
        rule = "Prompts are a list of texts or mappings, or the name of a file or data set"
        found = f"it is {word_for(asked)}"
        raise PromptSetError("prompts", found, rule, "Pass a list, or a path as text")
    return ListPromptSet(asked)


class FilePromptSet(PromptSet):
    """The rows of a file; its hash is that of its bytes."""

    def __init__(self, path: Path, name: str, place: str) -> None:
        self.name = name
        self._path, self._place = path.absolute(), place
        self._check()
        self._read = self._reader()
        # What is wrong with the whole file is found out now, before a model is loaded.
        next(self.rows())

    def rows(self, first: int = 0) -> Iterator[PromptRow | BadRow]:
        self._check()
        row = None
        try:
            with self._path.open("rb") as file:
                for row in self._read(file, self._place, first):
                    yield row
        except OSError as error:
            raise self._unreadable(error) from error
        if row is None and first == 0:
            found = "it has no rows, only blank lines or a header"
            raise PromptSetError(self._asked, found, _ROWS, "Write one row a line")

    def sha256(self) -> str:
        self._check()
        try:
            with self._path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise self._unreadable(error) from error

    @property
    def _asked(self) -> str:
        return f"prompts {self.name!r}"

    def _check(self) -> None:
        """Refuse what is no regular file, before opening it: a pipe would wait for ever."""
        try:
            status = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        if stat.S_ISDIR(status.st_mode):
            found, rule, remedy = "it is a directory", _FILE, "Pass one of its files"
        elif not stat.S_ISREG(status.st_mode):
            found, rule, remedy = "it is a pipe or a device", _FILE, "Save its content to a file"
        elif status.st_size == 0:
            found, rule, remedy = "it is empty", _ROWS, "Write one row a line"
        else:
            return
        raise PromptSetError(self._asked, found, rule, remedy)

    def _reader(self) -> _Reader:
        suffix = self._path.suffix.lower()
        if suffix not in _READERS:
            found = f"its name ends with {suffix!r}" if suffix else "its name has no ending"
            rule = f"The ending says how a file is read: {', '.join(_READERS)}"
            raise PromptSetError(self._asked, found, rule, "Rename or convert the file")
        return _READERS[suffix]

    def _unreadable(self, error: OSError) -> PromptSetError:
        found = f"it cannot be read ({error.strerror or error})"
        return PromptSetError(self._asked, found, _FILE, "Check the path and its rights")


class ListPromptSet(PromptSet):
    """Prompts from Python; a later change of the list does not reach the set."""

    def __init__(self, values: Sequence[object]) -> None:
        self.name = "prompts"
        self._rows = tuple(
            row_of_value(value, number, f"prompts[{number}]") for number, value in enumerate(values)
        )
        if not self._rows:
            raise PromptSetError("prompts", "the list is empty", _ROWS, "Pass some prompts")

    def rows(self, first: int = 0) -> Iterator[PromptRow | BadRow]:
        return iter(self._rows[first:])

    def sha256(self) -> str:
        return _hash_of(self._rows)


class HubPromptSet(PromptSet):
    """A split of a data set, pinned to the revision that it had when the set was opened."""

    def __init__(self, asked: str) -> None:
        self.name = asked
        self._stream = stream(asked)

    def rows(self, first: int = 0) -> Iterator[PromptRow | BadRow]:
        row = None
        for row in read_stream(self._stream, self.name):
            if row.prompt_id >= first:
                yield row
        if row is None:
            asked = f"prompts {self.name!r}"
            raise PromptSetError(asked, "it has no rows", _ROWS, "Choose another split")

    def sha256(self) -> str:
        return _hash_of(self.rows())


def _open_file(asked: str | Path) -> PromptSet:
    path = Path(asked)
    name = _printable(str(asked))
    packaged = {path.stem: path for path in sorted(PACKAGED.glob("*.jsonl"))}
    if _exists(path) and not (path.is_dir() and asked in packaged):
        return FilePromptSet(path, name, name)
    if isinstance(asked, str) and asked in packaged:
        return FilePromptSet(packaged[asked], asked, packaged[asked].name)
    rule = f"Prompts are a file, hf:OWNER/NAME[:SPLIT], or a packaged set ({', '.join(packaged)})"
    remedy = "Check the path; a prompt itself goes into a list"
    raise PromptSetError(f"prompts {name!r}", "there is no such file", rule, remedy)


def _exists(path: Path) -> bool:
    """Whether something stands there, be it readable or not."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        # Too long a name is a prompt that was taken for a path.
        return error.errno != errno.ENAMETOOLONG
    return True


def _printable(name: str) -> str:
    """A file name as a table and a terminal can hold it."""
    return name if name.isprintable() else repr(name)[1:-1]


def _hash_of(rows: Iterator[PromptRow | BadRow] | Sequence[PromptRow | BadRow]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        # Where a row stands is no part of what it says.
        content = [value for name, value in vars(row).items() if name != "place"]
        digest.update(json.dumps(content).encode() + b"\n")
    return digest.hexdigest()
