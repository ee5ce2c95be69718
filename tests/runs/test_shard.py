"""A shard proves itself: its pages, its footer, its seal, and what it belongs to."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import manifest, measuring, prompt, row, shard, table

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import BadShard, RunDamaged
from lesion.runs.equality import check_same
from lesion.runs.shard import from_bytes, shard_name, to_bytes


def parquet(content: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(content))


class TestRoundTrip:
    def test_everything_comes_back_but_how_it_was_measured(self):
        asked = manifest()
        found, whose = from_bytes(to_bytes(shard(7), asked))
        assert (found.unit, found.prompts, found.measuring) == (7, (prompt(),), None)
        assert found.table.equals(table())
        assert found.table.schema.equals(SWEEP_SCHEMA, check_metadata=True)
        assert whose == asked.model_copy(update={"created": None})
        assert whose.key == asked.key

    def test_equal_shards_have_equal_bytes_however_long_they_took(self):
        pieces = pa.concat_tables([table().slice(0, 4), table().slice(4)])
        slow = shard(0, table=pieces, measuring=measuring(seconds=99.0))
        assert to_bytes(slow, manifest(created=None)) == to_bytes(shard(), manifest())

    def test_a_shard_that_was_read_is_written_alike(self):
        content = to_bytes(shard(3), manifest())
        assert to_bytes(from_bytes(content)[0], manifest()) == content

    @pytest.mark.parametrize("rows", [0, 1, 5000])
    def test_any_number_of_rows(self, rows):
        numbers = table(*[row(n % 3, 0.5, n / 7) for n in range(rows)]) if rows else table()[:0]
        assert from_bytes(to_bytes(shard(0, table=numbers), manifest()))[0].table.equals(numbers)

    def test_hostile_texts_are_texts(self):
        text = 'a "b" \\ \u2028 é 😀 </script> \x00\n' + "lesion.seal" * 3
        asked = prompt(text=text, carried=json.dumps({"x": text}))
        named = manifest(plan={"site": text, "deep": [1, [2.5, None, {"a": True}]]})
        found, whose = from_bytes(to_bytes(shard(0, prompts=(asked,)), named))
        assert found.prompts == (asked,)
        assert whose.plan == named.plan

    def test_a_probability_of_zero_keeps_its_logarithm(self):
        asked = prompt(clean_log_prob=-float("inf"))
        assert from_bytes(to_bytes(shard(0, prompts=(asked,)), manifest()))[0].prompts == (asked,)

    def test_it_is_a_parquet_file_for_any_reader(self):
        content = to_bytes(shard(), manifest())
        assert pq.read_table(pa.BufferReader(content)).cast(SWEEP_SCHEMA).equals(table())
        words = parquet(content).metadata.metadata
        assert json.loads(words[b"lesion.manifest"])["experiment"] == "sweep"
        assert json.loads(words[b"lesion.prompts"])[0]["text"] == prompt().text

    def test_its_record(self):
        rows = [row(0, 0.5, -1.0, status="nonfinite"), row(1, 0.5, -1.0), row(2, 0.01, None)]
        found = shard(4, table=table(*rows)).record(b"content")
        assert (found.unit, found.bytes, found.rows, found.nonfinite) == (4, 7, 3, 1)
        assert found.sha256.startswith("ed7002b439e9ac84")
        assert found.measuring == measuring()

    def test_its_name(self):
        assert shard_name(7) == "shards/000007.parquet"
        assert shard_name(1_234_567) == "shards/1234567.parquet"


class TestDamage:
    CONTENT = to_bytes(shard(), manifest())

    def test_any_flipped_byte_is_noticed(self):
        """Pages, footer, seal, and what stands between them: every byte of the file."""
        content = self.CONTENT
        for place in range(len(content)):
            changed = content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
            with pytest.raises(BadShard):
                from_bytes(changed)

    def test_every_page_carries_a_checksum(self):
        without = pa.BufferOutputStream()
        pq.write_table(table(), without, store_schema=False)
        with_them = pa.BufferOutputStream()
        pq.write_table(table(), with_them, store_schema=False, write_page_checksum=True)
        assert with_them.tell() > without.tell()
        found = parquet(self.CONTENT).metadata.row_group(0)
        plain = parquet(without.getvalue().to_pybytes()).metadata.row_group(0)
        assert all(
            found.column(column).total_compressed_size > plain.column(column).total_compressed_size
            for column in range(found.num_columns)
        )

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", "Parquet file size is 0 bytes"),
            (b"layer\n1\n", "Parquet magic bytes not found in footer"),
            (CONTENT[: len(CONTENT) // 2], "Parquet magic bytes not found in footer"),
        ],
    )
    def test_what_is_no_parquet_file(self, content, found):
        with pytest.raises(BadShard, match=found):
            from_bytes(content)

    def test_a_parquet_file_of_somebody_else(self):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": [1]}), sink)
        with pytest.raises(BadShard):
            from_bytes(sink.getvalue().to_pybytes())

    def test_a_broken_seal_says_so(self):
        place = self.CONTENT.index(b"lesion.manifest") - 3
        for near in range(place, place + 400):
            changed = bytearray(self.CONTENT)
            changed[near] ^= 1
            with pytest.raises(BadShard) as caught:
                from_bytes(bytes(changed))
            if "seal" in caught.value.found:
                assert caught.value.found == "its seal is broken: a bit is not as it was written"
                return
        pytest.fail("no seal was broken")


class TestTwoResultsOfOneUnit:
    def check(self, first: pa.Table, second: pa.Table) -> None:
        check_same("runs/a", shard(5, table=first), shard(5, table=second))

    @pytest.mark.parametrize(
        ("column", "one", "other"),
        [
            ("effect_logit", -1.0, -1.0 + 1e-7),
            ("effect_logit", float("nan"), float("nan")),
            ("effect_logit", float("inf"), float("inf")),
            ("effect_logit", None, None),
            ("hidden_norm", [0.0, 0.1], [0.0, 0.1 + 1e-7]),
            ("hidden_norm", [0.0, float("nan")], [0.0, float("nan")]),
        ],
    )
    def test_rounding_is_no_difference(self, column, one, other):
        first, second = (row(0, 0.5, -1.0, **{column: value}) for value in (one, other))
        self.check(table(first), table(second))

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("effect_logit", -1.01),
            ("effect_logit", None),
            ("effect_logit", float("nan")),
            ("hidden_norm", [0.0, 0.1, 0.2, 0.4]),
            ("hidden_norm", [0.0, 0.1, 0.2]),
            ("hidden_norm", None),
            ("target_rank", 3),
            ("status", "nonfinite"),
            ("row_key", "0" * 32),
        ],
    )
    def test_anything_else_is_refused_by_its_column(self, column, value):
        with pytest.raises(RunDamaged) as caught:
            self.check(table(row(0, 0.5, -1.0)), table(row(0, 0.5, -1.0, **{column: value})))
        assert str(caught.value) == (
            f"commit unit 5 to runs/a: it was measured twice, and column {column} differs. The "
            "first result of a unit stays, and a second one is equal up to rounding. Check the "
            "machines that measured it; lesion verify tells whether the first is sound."
        )

    def test_a_row_more_is_a_difference(self):
        with pytest.raises(RunDamaged, match="column prompt_id differs"):
            self.check(table(row(0, 0.5, -1.0)), table(row(0, 0.5, -1.0), row(1, 0.5, -1.0)))
