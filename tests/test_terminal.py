"""A run as text: nothing cut off, nothing interpreted, and what is missing is counted."""

import io

import pytest
from rich.console import Console
from small_run import FRACTIONS, PROMPT, prompt, shard, small_run

from lesion.runs.run import Run, held_run
from lesion.terminal import percent, plain, print_run


def shown(run: Run, width: int) -> str:
    """What a terminal of this width shows, without colours."""
    file = io.StringIO()
    print_run(run, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_cell_is_whole_at_every_width(width: int) -> None:
    run = small_run()
    text = shown(run, width)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    main = run.frame().query("selection == 'top'")
    for value in main["effect_log_prob"]:
        assert f"{value:+.2f}" in text
    for fraction in FRACTIONS:
        assert percent(fraction).replace(" ", "") in text


def test_a_row_holds_the_effects_of_its_block() -> None:
    run = small_run()
    frame = run.frame()
    rows = [line.split() for line in shown(run, 200).splitlines()]
    for block in sorted(set(frame["layer"])):
        values = frame.query("selection == 'top' and layer == @block")["effect_log_prob"]
        assert [str(block), *(f"{value:+.2f}" for value in values)] in rows


def test_rows_that_were_not_measured_are_counted() -> None:
    run = small_run()
    frame = run.frame()
    table = run.table.set_column(
        run.table.schema.get_field_index("status"),
        "status",
        [["empty", "nonfinite", *["ok"] * (len(frame) - 2)]],
    )
    text = shown(held_run(run.manifest, [shard(table=table)]), 200)
    assert f"1 of {len(frame)} rows take no neuron (status empty) and are not drawn." in text
    assert f"1 of {len(frame)} rows had a NaN or infinite logit (status nonfinite)." in text


def test_a_run_without_a_measurement_says_so() -> None:
    run = small_run()
    status = [["nonfinite"] * len(run.table)]
    table = run.table.set_column(run.table.schema.get_field_index("status"), "status", status)
    assert "Nothing was measured: no row has status ok." in shown(
        held_run(run.manifest, [shard(table=table)]), 80
    )


def test_an_unusable_clean_run_is_said() -> None:
    run = small_run(prompts=(prompt(clean_log_prob=None),))
    assert "the clean run's logits are not finite" in shown(run, 200)


def test_control_characters_are_shown_as_escapes() -> None:
    assert plain("a\x1b[31m\u202e\n\u200bé–“”") == "a\\x1b[31m\\u202e\\n\\u200bé–“”"
    assert PROMPT in shown(small_run(), 200)


def test_percentages_are_as_people_write_them() -> None:
    assert [percent(share) for share in (0.002, 0.045, 0.1, 1.0, 0.059)] == [
        "0.2 %",
        "4.5 %",
        "10 %",
        "100 %",
        "5.9 %",
    ]
