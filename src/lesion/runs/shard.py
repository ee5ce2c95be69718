"""A shard: the table of one unit of work as a Parquet file that proves itself.

Its schema carries, as JSON, the unit, the run's manifest and what was asked of each prompt; and the
seal: SHA-256 of the file as it would be with a placeholder in the seal's place. Parquet's own
checksums cover its pages, the seal the footer as well: one changed bit anywhere is noticed, without
any other file.
"""

import dataclasses
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import BadShard
from lesion.runs.manifest import Manifest, MeasuringRecord, PromptRecord, UnitRecord

_UNIT, _MANIFEST, _PROMPTS, _SEAL = (
    b"lesion.unit",
    b"lesion.manifest",
    b"lesion.prompts",
    b"lesion.seal",
)
_PROMPT_RECORDS = TypeAdapter(tuple[PromptRecord, ...])


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """What was measured of one unit: its rows, what was asked of its prompts, and how it went."""

    unit: int
    table: pa.Table
    prompts: tuple[PromptRecord, ...]
    measuring: MeasuringRecord | None

    @property
    def nonfinite(self) -> int:
        """How many of its rows had a NaN or infinite logit."""
        found: int = self.table["status"].to_pylist().count("nonfinite")
        return found

    def record(self, content: bytes) -> UnitRecord:
        """The unit's record, given the bytes of its file."""
        return UnitRecord(
            unit=self.unit,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            rows=len(self.table),
            nonfinite=self.nonfinite,
            measuring=self.measuring,
        )


def shard_name(unit: int) -> str:
    """The file of a unit, in the run."""
    return f"shards/{unit:06d}.parquet"


def to_bytes(shard: Shard, manifest: Manifest) -> bytes:
    """The file of a shard. Equal shards of equal runs have equal bytes, however long they took."""
    placeholder = _placeholder(manifest.key, shard.unit)
    unit = {"unit": shard.unit, "key": manifest.key}
    words = {
        _UNIT: json.dumps(unit),
        _MANIFEST: manifest.model_copy(update={"created": None}).model_dump_json(),
        _PROMPTS: _PROMPT_RECORDS.dump_json(shard.prompts),
        _SEAL: placeholder,
    }
    table = shard.table.combine_chunks().replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, write_page_checksum=True, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(words)
    content: bytes = sink.getvalue().to_pybytes()
    assert content.count(placeholder) == 1, "a hash stands there once"
    return content.replace(placeholder, hashlib.sha256(content).hexdigest().encode())


def from_bytes(content: bytes) -> tuple[Shard, Manifest]:
    """A shard out of its file, and the manifest of the run that it was measured for.

    Raises:
        BadShard: a bit is not as it was written, or it never was a shard.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        words = file.metadata.metadata or {}
        unit = json.loads(words[_UNIT])
        seal = words[_SEAL]
        blank = content.replace(seal, _placeholder(unit["key"], unit["unit"]))
        if hashlib.sha256(blank).hexdigest().encode() != seal:
            raise bad_shard("its seal is broken: a bit is not as it was written")
        # Some kilobytes: handing them to other threads costs more than reading them.
        table = file.read(use_threads=False)
        manifest = Manifest.model_validate_json(words[_MANIFEST])
        prompts = _PROMPT_RECORDS.validate_json(words[_PROMPTS])
        return Shard(unit["unit"], table.cast(SWEEP_SCHEMA), prompts, None), manifest
    except ValidationError as error:
        raise bad_shard(f"it is no shard of this version ({error.title})") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        if isinstance(error, BadShard):
            raise
        raise bad_shard(_one_line(error)) from error


def _placeholder(key: str, unit: int) -> bytes:
    return hashlib.sha256(f"{key}|{unit}".encode()).hexdigest().encode()


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def bad_shard(found: str) -> BadShard:
    """The error of bytes that do not prove themselves to be a shard."""
    return BadShard(
        "read a shard",
        found,
        "A shard is a Parquet file whose pages and seal prove that it is as it was written",
        "Set it aside with lesion verify RUN --repair, and repeat the command that wrote the run",
    )
