"""The shards of a run, one at a time: held in memory, or read from where they lie and proven."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import pyarrow.dataset as ds

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import RunDamaged
from lesion.runs.folder import Folder
from lesion.runs.manifest import Manifest, MeasuringRecord, UnitRecord
from lesion.runs.shard import Shard, shard_name
from lesion.runs.store import FIGURES, read_unit


class Shards(ABC):
    """The shards of a run in the order of their units; abstract."""

    @abstractmethod
    def __iter__(self) -> Iterator[Shard]:
        """Each of them.

        Raises:
            RunDamaged: one is not what was written.
        """

    @property
    @abstractmethod
    def units(self) -> tuple[int, ...]:
        """Their units."""

    @property
    @abstractmethod
    def measuring(self) -> tuple[MeasuringRecord, ...]:
        """How they were measured, those that tell."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows they have together."""

    @property
    @abstractmethod
    def nonfinite(self) -> int:
        """How many of them had a NaN or infinite logit."""

    @property
    def has_figures(self) -> bool:
        """Whether pictures lie beside them."""
        return False


class HeldShards(Shards):
    """Shards in memory."""

    def __init__(self, held: Sequence[Shard]) -> None:
        self.held = sorted(held, key=lambda shard: shard.unit)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self.held)

    @property
    def units(self) -> tuple[int, ...]:
        return tuple(shard.unit for shard in self.held)

    @property
    def measuring(self) -> tuple[MeasuringRecord, ...]:
        return tuple(shard.measuring for shard in self.held if shard.measuring is not None)

    @property
    def rows(self) -> int:
        return sum(len(shard.table) for shard in self.held)

    @property
    def nonfinite(self) -> int:
        return sum(shard.nonfinite for shard in self.held)


class StoredShards(Shards):
    """Shards where a run lies. Every byte that is served was compared with its SHA-256."""

    def __init__(self, folder: Folder, manifest: Manifest, records: Sequence[UnitRecord]) -> None:
        self.folder, self.key = folder, manifest.key
        self.records = sorted(records, key=lambda record: record.unit)

    def __iter__(self) -> Iterator[Shard]:
        for record in self.records:
            shard = read_unit(self.folder, record, self.key)
            if isinstance(shard, str):
                raise damaged(self.folder, shard)
            yield shard

    @property
    def units(self) -> tuple[int, ...]:
        return tuple(record.unit for record in self.records)

    @property
    def measuring(self) -> tuple[MeasuringRecord, ...]:
        return tuple(each.measuring for each in self.records if each.measuring is not None)

    @property
    def rows(self) -> int:
        return sum(record.rows for record in self.records)

    @property
    def nonfinite(self) -> int:
        return sum(record.nonfinite for record in self.records)

    @property
    def has_figures(self) -> bool:
        return bool(self.folder.sizes(FIGURES))

    @functools.cached_property
    def dataset(self) -> ds.Dataset:
        """The rows as a data set that is read piece by piece, after a look at every byte.

        Raises:
            RunDamaged: a shard is not what was written.
        """
        for _ in self:
            pass
        filesystem, paths = self.folder.arrow([shard_name(unit) for unit in self.units])
        checked = ds.ParquetFileFormat(
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(
                page_checksum_verification=True
            )
        )
        try:
            return ds.dataset(paths, schema=SWEEP_SCHEMA, filesystem=filesystem, format=checked)
        except UnicodeEncodeError:  # Arrow knows no directory whose name is no text
            return ds.dataset([shard.table for shard in self])


def damaged(folder: Folder, found: str) -> RunDamaged:
    """The error of a shard that is not what was written."""
    return RunDamaged(
        f"open {folder.path}",
        found,
        "Every shard is a Parquet file with the columns of a sweep and matching checksums",
        f"Set it aside with lesion verify {folder.path} --repair, then repeat the command that "
        "wrote the run: only what is missing is measured again",
    )
