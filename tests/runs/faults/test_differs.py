"""A run is resumed with what it was begun with: each field that differs is refused by its name."""

import pytest
from fake_study import UNITS, conduct, files_in, measured, study_manifest

from lesion.errors import RunDiffers
from lesion.runs.manifest import Manifest


def changed(field: str) -> Manifest:
    """The study's manifest with another value in one field of its identity."""
    asked = study_manifest(UNITS)
    part, _, word = field.partition(".")
    if part == "plan":
        return asked.model_copy(update={"plan": asked.plan | {word: "another"}})
    if part == "versions":
        return asked.model_copy(update={"versions": asked.versions | {word: "9.9.9"}})
    if not word:
        return asked.model_copy(update={field: "another"})
    record = getattr(asked, part)
    if word in ("weights", "config", "tokenizer"):
        print_ = record.fingerprint.model_copy(update={word: "e" * 64})
        return asked.model_copy(update={part: record.model_copy(update={"fingerprint": print_})})
    now = {"self_check": False, "limit": 7, "unit_size": 2}.get(word, "another")
    return asked.model_copy(update={part: record.model_copy(update={word: now})})


FIELDS = sorted(study_manifest(UNITS).identity)


def test_the_fields_are_those_that_a_result_depends_on():
    plan = [f"plan.{word}" for word in study_manifest(UNITS).plan]
    assert sorted(FIELDS) == sorted(
        [
            *plan,
            "engine.asked",
            "engine.self_check",
            "experiment",
            "model.attention",
            "model.config",
            "model.device",
            "model.dtype",
            "model.tokenizer",
            "model.weights",
            "prompts.limit",
            "prompts.sha256",
            "prompts.target_mode",
            "prompts.truncate",
            "prompts.unit_size",
            "schema_version",
            "versions.lesion",
        ]
    )


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_refused_by_its_name(place, field):
    run, counts = place / "run", place / "counts"
    conduct(run, UNITS, place / "first")
    before = files_in(run)
    now = changed(field)
    was, is_ = study_manifest(UNITS).identity[field], now.identity[field]
    assert was != is_
    with pytest.raises(RunDiffers) as caught:
        conduct(run, UNITS, counts, asked=now)
    assert str(caught.value).startswith(f"resume {run}: {field} was ")
    assert caught.value.found.count(" was ") == 1, "and no other"
    assert measured(counts) == []
    assert files_in(run) == before


def test_the_whole_message(place):
    conduct(place / "run", UNITS, place / "first")
    asked = study_manifest(UNITS)
    other = asked.model_copy(
        update={
            "plan": asked.plan | {"site": "post", "hidden_norm": True},
            "versions": asked.versions | {"torch": "2.0"},
        }
    )
    with pytest.raises(RunDiffers) as caught:
        conduct(place / "run", UNITS, place / "counts", asked=other)
    assert str(caught.value) == (
        f'resume {place / "run"}: plan.site was "pre", is "post", plan.hidden_norm was null, is '
        'true, versions.torch was null, is "2.0". A run is resumed with the plan, model, prompts '
        "and versions that it was begun with. Repeat the command that began it, pass overwrite "
        "(--overwrite) to start anew, or another directory."
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"created": None},
        {"versions": {"lesion": "0.1.7", "python": "3.13"}},
        {"model": study_manifest(UNITS).model.model_copy(update={"device": "cpu:1", "name": "x"})},
    ],
    ids=["moment", "versions of one class", "place of the device"],
)
def test_what_results_do_not_depend_on_may_differ(place, changes):
    conduct(place / "run", UNITS, place / "first")
    asked = study_manifest(UNITS).model_copy(update=changes)
    assert conduct(place / "run", UNITS, place / "counts", asked=asked)
    assert measured(place / "counts") == []
