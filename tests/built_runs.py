"""Runs of several prompts and units, built by hand row by row; nothing here needs torch."""

import datetime
from collections.abc import Sequence

import small_run

from lesion.runs.manifest import Manifest
from lesion.runs.run import Run, held_run
from lesion.runs.shard import Shard

CREATED = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def built_manifest(
    units: int = 1,
    *,
    model: str = "tiny",
    prompts: str = "prompts",
    created: datetime.datetime | None = CREATED,
    **plan: object,
) -> Manifest:
    """A manifest of units of one prompt each, with some words of its plan changed."""
    small = small_run.manifest()
    asked = {"name": prompts, "rows": units, "unit_size": 1}
    return small_run.manifest(
        created=created,
        plan=small.plan | plan,
        model=small.model.model_copy(update={"name": model}),
        prompts=small.prompts.model_copy(update=asked),
    )


def built_row(prompt: str, effect: float | None, **changed: object) -> dict[str, object]:
    """A row of a prompt that is its own group; without an effect nothing was measured."""
    own = {
        "prompt": prompt,
        "group": prompt,
        "position": 3,
        "hidden_norm": [0.0, 0.5],
        "effect_logit": None if effect is None else 2 * effect,
    }
    return small_run.row(0, 0.1, effect) | own | changed


def built_shard(unit: int, rows: Sequence[dict[str, object]]) -> Shard:
    """A unit with these rows."""
    texts = dict.fromkeys(str(row["prompt"]) for row in rows)
    return small_run.shard(
        unit,
        table=small_run.table(*rows),
        prompts=tuple(small_run.prompt(prompt_id=unit, text=text, group=text) for text in texts),
    )


def built_run(*units: Sequence[dict[str, object]], of: int | None = None, **changed: object) -> Run:
    """A run of these units, each a list of rows; of so many, the rest are not finished."""
    shards = [built_shard(unit, rows) for unit, rows in enumerate(units)]
    return held_run(built_manifest(of or len(units), **changed), shards)
