"""A run of a few rows, built by hand from a manifest and a table; nothing here needs torch."""

import datetime
import hashlib

import pyarrow as pa

from lesion.columns import SWEEP_SCHEMA
from lesion.runs.manifest import (
    EngineRecord,
    FingerprintRecord,
    Manifest,
    MeasuringRecord,
    ModelRecord,
    PromptRecord,
    PromptsRecord,
    TokenRecord,
)
from lesion.runs.run import Run, held_run
from lesion.runs.shard import Shard

PROMPT, TARGET = "It was a dark and stormy", " night"
FRACTIONS = (0.01, 0.1, 0.5)
BLOCKS, NEURONS = 3, 100
CLEAN_LOGIT, CLEAN_LOG_PROB = 5.0, -0.5


def manifest(**changed: object) -> Manifest:
    """A manifest, with some of its fields changed."""
    fields = {
        "experiment": "sweep",
        "created": datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC),
        "plan": {
            "select": ["top", "random"],
            "fractions": ["0.01", "0.10", "0.5"],
            "site": "pre",
            "replace": "median",
            "scope": "each",
            "layers": None,
            "seed": 0,
        },
        "model": ModelRecord(
            name="tiny",
            source="memory",
            revision=None,
            model_type="gpt2",
            family="gpt2",
            blocks=BLOCKS,
            neurons=(NEURONS,) * BLOCKS,
            width=16,
            parameters=1234,
            dtype="float32",
            device="cpu",
            attention=None,
            fingerprint=FingerprintRecord(weights="a" * 64, config="b" * 64, tokenizer="c" * 64),
        ),
        "engine": EngineRecord(asked="reference", threads=2, memory_bytes=None, self_check=True),
        "prompts": PromptsRecord(
            name="prompts",
            sha256="d" * 64,
            rows=1,
            limit=None,
            unit_size=32,
            target_mode="one",
            truncate="refuse",
            bad_rows=0,
            bad=(),
        ),
        "versions": {"lesion": "0.1.0", "python": "3.11"},
    }
    return Manifest(**(fields | changed))


def prompt(**changed: object) -> PromptRecord:
    """What was asked of the one prompt, with some of its fields changed."""
    fields = {
        "prompt_id": 0,
        "text": PROMPT,
        "token_ids": (1, 2, 3),
        "target": TARGET,
        "target_ids": (7,),
        "target_source": "given",
        "foil": None,
        "foil_id": None,
        "group": "0",
        "carried": None,
        "truncated": 0,
        "predictions": 1,
        "clean_log_prob": CLEAN_LOG_PROB,
        "clean_target_rank": 1,
        "clean_top": (TokenRecord(token_id=7, token=TARGET, prob=0.6),),
    }
    return PromptRecord(**(fields | changed))


def measuring(**changed: object) -> MeasuringRecord:
    """How a unit was measured, with some of its fields changed."""
    fields = {
        "engine": "reference",
        "reason": "asked for",
        "seconds": 1.25,
        "rows_in_pass": None,
        "halvings": 0,
        "self_check": None,
        "near_ties": 0,
        "noise_floor": None,
    }
    return MeasuringRecord(**(fields | changed))


def row(layer: int | None, fraction: float, effect: float | None, **changed: object) -> dict:
    """One row of the table; an effect of None is a row that was not measured."""
    values = {
        "prompt_id": 0,
        "prompt": PROMPT,
        "target": TARGET,
        "target_id": 7,
        "layer": layer,
        "fraction": fraction,
        "neurons": int(fraction * NEURONS),
        "changed": 0,
        "clean_logit": CLEAN_LOGIT,
        "clean_log_prob": CLEAN_LOG_PROB,
        "site": "pre",
        "selection": "top",
        "rank": "value",
        "rank_on": "lesioned",
        "replacement": "median",
        "scope": "each",
        "engine": "reference",
        "status": "empty",
        "target_source": "given",
        "group": "0",
        "carried": None,
        "row_key": hashlib.sha256(f"{layer} {fraction}".encode()).hexdigest()[:32],
    }
    if effect is not None:
        values |= {
            "changed": values["neurons"],
            "logit": CLEAN_LOGIT + effect,
            "log_prob": CLEAN_LOG_PROB + effect,
            "prob": 0.3,
            "target_rank": 2,
            "kl": abs(effect),
            "entropy": 1.0,
            "top_token": " the",
            "top_token_id": 4,
            "effect_logit": effect,
            "effect_log_prob": effect,
            "removed_post": 2.0,
            "out_delta_norm": 0.5,
            "largest_change": 0.25,
            "hidden_norm": [0.0, 0.1, 0.2, 0.3],
            "status": "ok",
        }
    return values | changed


def table(*rows: dict) -> pa.Table:
    """A table of these rows, or of top in every block at every fraction."""
    found = rows or [
        row(layer, fraction, -fraction * (layer + 1))
        for layer in range(BLOCKS)
        for fraction in FRACTIONS
    ]
    return pa.Table.from_pylist(list(found), schema=SWEEP_SCHEMA)


def shard(unit: int = 0, **changed: object) -> Shard:
    """One finished unit, with some of its parts changed."""
    fields = {"table": table(), "prompts": (prompt(),), "measuring": measuring()}
    return Shard(unit, **(fields | changed))


def small_run(*rows: dict, asked: Manifest | None = None, **changed: object) -> Run:
    """A run of one prompt, three blocks and three fractions, or of these rows."""
    parts = ({"table": table(*rows)} if rows else {}) | changed
    return held_run(asked or manifest(), [shard(0, **parts)])
