"""Positions: every token of a text, the token of an index, the mask; and the direct effect.

The oracle of a lesion before the last token is a loop of its own below: a hook that edits one token
of one full pass of the model. The direct effect's oracle adds a difference behind the last block
and lets the model run its own norm and head.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import MASKED_TYPES, PACKED_TYPES, REFERENCE_TYPES, tiny_model
from protocol_loop import PLACES, protocol_loop
from rich.console import Console
from torch import Tensor

import lesion
from lesion.errors import EngineRefused, InvalidChoice, PromptError, TargetError
from lesion.models.language_model import LanguageModel
from lesion.runs.run import Run
from lesion.terminal import print_files, print_run

Tiny = Callable[..., LanguageModel]
IDS = (3, 17, 42, 8, 25, 60)
TEXT = " ".join(f"w{i}" for i in IDS)
TARGET_ID = 5
FRACTIONS = ("0.1", "0.5")
EFFECTS = ("effect_logit", "effect_log_prob", "kl", "entropy", "removed_post", "out_delta_norm",
           "direct_logit", "direct_log_prob", "largest_change")  # fmt: skip


def rows_of(run: Run) -> list[dict[str, Any]]:
    """The table's rows."""
    return run.table.to_pylist()


def same(mine: dict[str, Any], other: dict[str, Any], *, but: tuple[str, ...] = ()) -> None:
    """Two rows agree to rounding."""
    for name, value in mine.items():
        if name in but:
            continue
        if isinstance(value, float | list):
            assert value == pytest.approx(other[name], abs=1e-9), name
        else:
            assert value == other[name], name


def printed(run: Run) -> str:
    """What the terminal shows of a run, on one line."""
    console = Console(file=io.StringIO(), width=300)
    print_run(run, console)
    return console.file.getvalue()


# Every token of a text


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("gpt2", {}),
        ("gpt2", {"scope": "all", "select": "random:2", "site": "post", "replace": "zero"}),
        ("gemma2", {"scope": "cumulative", "rank": "write", "rank_on": "clean"}),
        ("opt", {"site": "out", "select": "bottom"}),
        ("bloom", {"site": "post"}),
    ],
)
def test_every_token_is_the_last_of_the_text_up_to_it(
    tiny: Tiny, model_type: str, words: dict[str, Any]
) -> None:
    model = tiny(model_type)
    words = {"fractions": FRACTIONS, "hidden_norm": True, **words}
    run = lesion.sweep(model, TEXT, position="every", **words)
    rows, size = rows_of(run), len(run.table) // 5
    assert run.measuring.engine == ("reference" if model_type == "bloom" else "packed")
    for at in range(5):
        own = lesion.sweep(
            model, " ".join(f"w{i}" for i in IDS[: at + 1]), target_id=IDS[at + 1],
            **words,
        )  # fmt: skip
        part = rows[at * size : (at + 1) * size]
        for mine, its in zip(part, rows_of(own), strict=True):
            assert mine["position"] == at
            assert mine["target_id"] == IDS[at + 1]
            assert mine["target"] == f"w{IDS[at + 1]}"
            assert mine["prompt"] == TEXT
            same(mine, its, but=("prompt", "target_source", "row_key"))


def test_the_run_of_a_text_names_its_predictions(tiny: Tiny) -> None:
    run = lesion.sweep(tiny("llama"), TEXT, position="every", fractions=FRACTIONS)
    (prompt,) = run.prompts
    assert run.manifest.plan["position"] == "every"
    assert (prompt.predictions, prompt.target_source, prompt.token_ids) == (5, "next", IDS)
    assert prompt.target is prompt.foil is prompt.clean_target_rank is None
    assert prompt.target_ids == ()
    assert prompt.clean_top == ()
    clean = {row["position"]: row["clean_log_prob"] for row in rows_of(run)}
    assert prompt.clean_log_prob == pytest.approx(sum(clean.values()) / 5, abs=1e-12)
    with torch.inference_mode():
        logits = tiny("llama").hf_model(torch.tensor([IDS])).logits[0].log_softmax(dim=-1)
    for at, log_prob in clean.items():
        assert log_prob == pytest.approx(float(logits[at, IDS[at + 1]]), abs=1e-9)


def test_progress_counts_the_lesions_of_all_tokens(tiny: Tiny) -> None:
    told: list[tuple[int, int]] = []
    lesion.sweep(
        tiny("gpt2"), TEXT, position="every", fractions=FRACTIONS,
        progress=lambda *at: told.append(at),
    )  # fmt: skip
    assert told[-1] == (30, 30)
    assert all(done <= 30 for done, _ in told)


def test_the_shortest_text_has_two_tokens(tiny: Tiny) -> None:
    run = lesion.sweep(tiny("gpt2"), "w3 w17", position="every", fractions=FRACTIONS)
    assert {row["target_id"] for row in rows_of(run)} == {17}
    assert run.prompts[0].predictions == 1
    with pytest.raises(PromptError) as error:
        lesion.sweep(tiny("gpt2"), "w3", position="every")
    assert str(error.value) == (
        "prompt 'w3': it has one token. At position every each token but the last is measured on "
        "the one that follows. Pass a longer text."
    )


def test_a_text_as_long_as_the_context(tiny: Tiny) -> None:
    text = " ".join(f"w{i}" for i in range(32))
    run = lesion.sweep(tiny("gpt2"), text, position="every", fractions="0.3", layers=0)
    assert len(run.table) == 31
    with pytest.raises(PromptError, match="it has 33 tokens"):
        lesion.sweep(tiny("gpt2"), text + " w1", position="every", fractions="0.3")


@pytest.mark.parametrize(
    ("words", "spelled"),
    [
        ({"target": "w5"}, "target 'w5'"),
        ({"target_id": 5}, "target_id 5"),
        ({"foil": "w9"}, "foil 'w9'"),
        ({"foil_id": 0}, "foil_id 0"),
    ],
)
def test_a_target_beside_every_token_is_refused(
    tiny: Tiny, words: dict[str, Any], spelled: str
) -> None:
    with pytest.raises(InvalidChoice) as error:
        lesion.sweep(tiny("gpt2"), TEXT, position="every", **words)
    assert str(error.value) == (
        f"{spelled} with position 'every': every token of the text has its own target: the token "
        "that follows. A target and a foil belong to one prediction. "
        f"Leave {spelled.split(maxsplit=1)[0]} out, or pass position='last'."
    )


@pytest.mark.parametrize("scope", ["each", "all"])
def test_pictures_and_terminal_say_that_they_show_means_over_tokens(tiny: Tiny, scope: str) -> None:
    run = lesion.sweep(tiny("gpt2"), TEXT, position="every", fractions=FRACTIONS, scope=scope)
    shown = printed(run)
    assert "the token that follows, 5 times; mean clean log-probability" in shown
    assert "clean  " not in shown
    if scope == "each":
        assert "block × fraction, mean over 5 tokens" in shown
        mean = np.mean([
            row["effect_log_prob"] for row in rows_of(run)
            if row["layer"] == 1 and row["fraction"] == 0.5
        ])  # fmt: skip
        (line,) = [line for line in shown.splitlines() if line.strip().startswith("1  ")]
        assert f"{mean:+.2f}" in line
    assert run.chart_kinds() == (("dose",) if scope == "all" else ("curves", "dots", "heatmap"))
    for kind in run.chart_kinds():
        assert "mean over 5 tokens" in run.chart(kind).to_json()
    one = lesion.sweep(tiny("gpt2"), "w3 w17", position="every", fractions=FRACTIONS, scope=scope)
    assert "over 1 token" not in printed(one)
    assert "the token that follows, 1 times" not in printed(one)


def test_a_run_of_a_text_is_saved_and_shown_again(tiny: Tiny, tmp_path: Any) -> None:
    run = lesion.sweep(tiny("gpt2"), TEXT, position="every", fractions=FRACTIONS)
    run.save(tmp_path / "run", figures=False)
    again = lesion.open(tmp_path / "run")
    assert again.manifest == run.manifest
    assert again.table.equals(run.table)
    assert printed(again) == printed(run)
    console = Console(file=io.StringIO(), width=300)
    print_files(again, str(tmp_path / "run"), console, drawn=True)
    for kind in ("curves", "dots", "heatmap"):
        assert f"figures/{kind}.png, .html" in console.file.getvalue()


# The token of an index


def loop(
    model: LanguageModel, model_type: str, ids: tuple[int, ...], at: int, read: int, site: str,
    fraction: str, layer: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Logits at `read`, clean and with the top share of one block at token `at` at its median."""
    blocks = model.hf_model.get_submodule(PLACES[model_type].blocks)
    pre, down = PLACES[model_type].pre, PLACES[model_type].down
    places = {"pre": (pre, False), "post": (down, True), "out": (down, False)}
    path, is_input = places[site]
    module = blocks[layer].get_submodule(path)

    def edit(values: Tensor) -> Tensor:
        changed = values.clone()
        row = changed.view(-1, values.shape[-1])[at]
        keys = row.abs() if site == "out" else row.clone()
        taken = sorted(range(len(row)), key=lambda i: (-keys[i].item(), i))
        taken = taken[: int(float(fraction) * len(row) + 1e-9)]
        middle = sorted(row.tolist())[(len(row) - 1) // 2]
        row[taken] = middle
        return changed

    with torch.no_grad():
        clean = model.hf_model(torch.tensor([ids])).logits[0, read]
        if is_input:
            handle = module.register_forward_pre_hook(lambda _, x: (edit(x[0]), *x[1:]))
        else:
            handle = module.register_forward_hook(lambda *a: edit(a[2]))
        try:
            lesioned = model.hf_model(torch.tensor([ids])).logits[0, read]
        finally:
            handle.remove()
    return clean, lesioned


def check_row(row: dict[str, Any], clean: Tensor, lesioned: Tensor, target: int) -> None:
    """A row has the effects of these logits."""
    assert row["effect_logit"] == pytest.approx(float((lesioned - clean)[target]), abs=1e-6)
    difference = lesioned.log_softmax(-1) - clean.log_softmax(-1)
    assert row["effect_log_prob"] == pytest.approx(float(difference[target]), abs=1e-6)
    assert row["kl"] == pytest.approx(float(-(clean.softmax(-1) * difference).sum()), abs=1e-6)
    assert row["top_token_id"] == int(lesioned.argmax())


SITED = [
    (model_type, ("pre", "post", "out")[at % 3])
    for at, model_type in enumerate([*PACKED_TYPES, *REFERENCE_TYPES])
]
"""Every architecture, its site in turn."""


@pytest.mark.parametrize(("model_type", "site"), [*SITED, ("gpt2", "post"), ("gpt2", "out")])
def test_a_lesion_of_an_index_is_read_after_the_last_token(
    tiny: Tiny, model_type: str, site: str
) -> None:
    model, at = tiny(model_type), 2
    run = lesion.sweep(
        model, TEXT, target_id=TARGET_ID, position=at, site=site, fractions="0.5", layers="0,1"
    )
    assert run.measuring.engine == "reference"
    for row in rows_of(run):
        assert row["position"] == at
        logits = loop(model, model_type, IDS, at, -1, site, "0.5", row["layer"])
        check_row(row, *logits, TARGET_ID)
        assert abs(row["effect_log_prob"]) > 1e-5
        assert row["direct_logit"] is row["direct_log_prob"] is None


@pytest.mark.parametrize("at", range(-6, 6))
def test_an_index_is_counted_from_either_end(tiny: Tiny, at: int) -> None:
    model = tiny("gpt2")
    words = {"target_id": TARGET_ID, "fractions": "0.5", "layers": 0}
    (row,) = rows_of(lesion.sweep(model, TEXT, position=at, **words))
    assert row["position"] == at % 6
    check_row(row, *loop(model, "gpt2", IDS, at % 6, -1, "pre", "0.5", 0), TARGET_ID)
    if at in (-1, 5):
        (loop_row,) = protocol_loop(
            model.hf_model, "gpt2", IDS, TARGET_ID, fractions=["0.5"], layers=[0]
        )
        assert row["effect_log_prob"] == pytest.approx(loop_row.effect_log_prob, abs=1e-9)
        assert row["engine"] == "packed"


def test_a_lesion_of_the_last_block_before_the_last_token_reaches_nobody(tiny: Tiny) -> None:
    run = lesion.sweep(
        tiny("llama"), TEXT, target_id=TARGET_ID, position=1, fractions=FRACTIONS, hidden_norm=True
    )
    for row in rows_of(run):
        assert (row["effect_log_prob"] == 0.0) == (row["layer"] == 2)
        assert row["changed"] > 0
        # The hidden state is that of the last token.
        assert row["hidden_norm"][: row["layer"] + 2] == [0.0] * (row["layer"] + 2)


@pytest.mark.parametrize("engine", ["auto", "reference", "packed"])
@pytest.mark.parametrize("position", [6, -7, 100])
def test_an_index_outside_the_prompt_is_refused_before_a_lesion_runs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, position: int, engine: str
) -> None:
    for kind in ("PackedEngine", "ReferenceEngine"):
        monkeypatch.setattr(f"lesion.engines.choosing.{kind}", None)
    with pytest.raises(PromptError) as error:
        lesion.sweep(
            tiny("gpt2"), TEXT, target_id=TARGET_ID, position=position, engine=engine,
        )  # fmt: skip
    assert str(error.value) == (
        f"position {position}: the prompt '{TEXT}' has 6 tokens. "
        "Positions are counted from 0 to 5, or from the end: -1 is the last. "
        "Pass one in that range."
    )


# The mask


MASKED = {
    "w3 [MASK] w42 w8": ((3, 62, 42, 8), 1),
    "[MASK] w3": ((62, 3), 0),
    "w9 w8 [MASK]": ((9, 8, 62), 2),
}


@pytest.mark.parametrize("site", ["pre", "post", "out"])
@pytest.mark.parametrize("text", MASKED)
@pytest.mark.parametrize("model_type", MASKED_TYPES)
def test_the_mask_is_lesioned_and_measured(
    tiny: Tiny, model_type: str, text: str, site: str
) -> None:
    model, (ids, mask) = tiny(model_type), MASKED[text]
    run = lesion.sweep(
        model, text, target_id=TARGET_ID, position="mask", site=site, fractions="0.5"
    )
    assert run.measuring.engine == "reference"
    assert run.manifest.plan["position"] == "mask"
    for row in rows_of(run):
        assert row["position"] == mask
        logits = loop(model, model_type, ids, mask, mask, site, "0.5", row["layer"])
        check_row(row, *logits, TARGET_ID)
        assert row["direct_logit"] is row["direct_log_prob"] is None


@pytest.mark.parametrize("model_type", MASKED_TYPES)
def test_an_index_beside_the_mask_is_measured_at_the_mask(tiny: Tiny, model_type: str) -> None:
    model, text = tiny(model_type), "w3 [MASK] w42 w8"
    for at in (0, 2, -1, 1):
        rows = rows_of(
            lesion.sweep(model, text, target_id=TARGET_ID, position=at, fractions="0.5", layers=0)
        )
        logits = loop(model, model_type, MASKED[text][0], at % 4, 1, "pre", "0.5", 0)
        check_row(rows[0], *logits, TARGET_ID)
    at_mask = lesion.sweep(
        model, text, target_id=TARGET_ID, position="mask", fractions="0.5", layers=0
    )
    same(rows[0], rows_of(at_mask)[0], but=("row_key",))


RULE = (
    "A lesion takes the last token of a causal model's prompt, the mask of a masked model's, or "
    "the token of an index"
)


def test_a_position_that_the_model_does_not_have_is_refused(tiny: Tiny) -> None:
    with pytest.raises(EngineRefused) as error:
        lesion.sweep(tiny("gpt2"), TEXT, target_id=TARGET_ID, position="mask")
    assert str(error.value) == (
        f"position 'mask': random gpt2 predicts the next token, not a masked one. {RULE}. "
        'Pass position="last", or the index of a token.'
    )
    with pytest.raises(EngineRefused) as error:
        lesion.sweep(tiny("bert"), "w3 [MASK]", target_id=TARGET_ID)
    assert str(error.value) == (
        f"position 'last': random bert is a masked model. {RULE}. "
        'Pass position="mask", or the index of a token.'
    )


def test_every_token_of_a_masked_model_is_refused_by_that_name(tiny: Tiny) -> None:
    for text in ("w3 [MASK] w4", "w3 w4"):
        with pytest.raises(EngineRefused) as error:
            lesion.sweep(tiny("bert"), text, position="every")
        assert str(error.value).startswith("position 'every': random bert is a masked model. ")


@pytest.mark.parametrize(("text", "found"), [("w3 w4", "no mask"), ("[MASK] [MASK]", "2 masks")])
def test_a_masked_prompt_has_one_mask(tiny: Tiny, text: str, found: str) -> None:
    with pytest.raises(PromptError) as error:
        lesion.sweep(tiny("bert"), text, target_id=TARGET_ID, position="mask")
    assert str(error.value) == (
        f"prompt '{text}': it has {found}. random bert is a masked model: it predicts the one "
        "token behind [MASK]. Write [MASK] once, where the target stands."
    )


def test_the_mask_is_no_target_of_its_own_accord(tiny: Tiny) -> None:
    run = lesion.sweep(tiny("bert"), "w3 [MASK]", position="mask", fractions="0.5")
    assert run.prompts[0].target_source == "top"
    assert len(run.prompts[0].clean_top) == 5
    with pytest.raises(TargetError):
        lesion.sweep(tiny("bert"), "w3 [MASK]", target_id=64, position="mask")


# The direct effect


@pytest.fixture
def direct_by_hand() -> Callable[..., tuple[Tensor, Tensor]]:
    """Logits of the clean run and of one to whose last block's output a difference was added."""

    def measured(model: LanguageModel, ids: tuple[int, ...], layer: int, fraction: str, site: str,
                 model_type: str) -> tuple[Tensor, Tensor]:  # fmt: skip
        blocks = model.hf_model.get_submodule(PLACES[model_type].blocks)
        outputs: list[Tensor] = []

        def hidden(output: Any) -> Tensor:
            return output[0] if isinstance(output, tuple) else output

        note = blocks[layer].register_forward_hook(lambda *a: outputs.append(hidden(a[2]).clone()))
        loop(model, model_type, ids, len(ids) - 1, -1, site, fraction, layer)
        note.remove()
        delta = outputs[1] - outputs[0]
        assert (delta[:, :-1] == 0).all()

        def add(*args: Any) -> Any:
            output = args[2]
            moved = hidden(output) + delta
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        with torch.no_grad():
            clean = model.hf_model(torch.tensor([ids])).logits[0, -1]
            handle = blocks[-1].register_forward_hook(add)
            lesioned = model.hf_model(torch.tensor([ids])).logits[0, -1]
            handle.remove()
        return clean, lesioned

    return measured


@pytest.mark.parametrize("model_type", [*PACKED_TYPES, *REFERENCE_TYPES])
def test_the_direct_effect_is_what_the_blocks_own_output_does(
    tiny: Tiny, direct_by_hand: Callable[..., tuple[Tensor, Tensor]], model_type: str
) -> None:
    model = tiny(model_type)
    engines = ("reference",) if model_type in REFERENCE_TYPES else ("packed", "reference")
    site = {"gpt2": "post", "gemma2": "out"}.get(model_type, "pre")
    for engine in engines:
        run = lesion.sweep(
            model, TEXT, target_id=TARGET_ID, fractions="0.5", site=site, engine=engine,
            self_check=False,
        )  # fmt: skip
        for row in rows_of(run):
            clean, moved = direct_by_hand(model, IDS, row["layer"], "0.5", site, model_type)
            difference = float((moved - clean)[TARGET_ID])
            assert row["direct_logit"] == pytest.approx(difference, abs=1e-6)
            difference = float((moved.log_softmax(-1) - clean.log_softmax(-1))[TARGET_ID])
            assert row["direct_log_prob"] == pytest.approx(difference, abs=1e-6)
            if row["layer"] == 2:
                # Behind the last block there is nobody to repair anything.
                assert row["direct_logit"] == pytest.approx(row["effect_logit"], abs=1e-6)
                assert row["direct_log_prob"] == pytest.approx(row["effect_log_prob"], abs=1e-6)
            else:
                repaired = row["effect_log_prob"] - row["direct_log_prob"]
                assert abs(repaired) > 1e-5, "later blocks answer to the lesion"


@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_several_blocks_have_no_direct_effect(tiny: Tiny, engine: str) -> None:
    words = {"target_id": TARGET_ID, "fractions": "0.5", "engine": engine}
    for row in rows_of(lesion.sweep(tiny("gpt2"), TEXT, scope="all", **words)):
        assert row["direct_logit"] is row["direct_log_prob"] is None
    first, *others = rows_of(lesion.sweep(tiny("gpt2"), TEXT, scope="cumulative", **words))
    each = rows_of(lesion.sweep(tiny("gpt2"), TEXT, **words))
    # Cumulative up to block 0 is block 0 alone.
    assert first["direct_log_prob"] == pytest.approx(each[0]["direct_log_prob"], abs=1e-12)
    assert first["direct_logit"] == pytest.approx(each[0]["direct_logit"], abs=1e-12)
    for row in others:
        assert row["direct_logit"] is row["direct_log_prob"] is None
    (alone,) = rows_of(lesion.sweep(tiny("gpt2"), TEXT, scope="all", layers=1, **words))
    assert alone["direct_log_prob"] == pytest.approx(each[1]["direct_log_prob"], abs=1e-12)


@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_a_residual_stream_that_is_normalised_has_no_direct_effect(engine: str) -> None:
    model = tiny_model("opt", do_layer_norm_before=False)
    run = lesion.sweep(model, TEXT, target_id=TARGET_ID, fractions="0.5", engine=engine)
    assert run.measuring.engine == engine
    for row in rows_of(run):
        assert row["effect_log_prob"] != 0.0
        assert row["direct_logit"] is row["direct_log_prob"] is None


@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_the_direct_effect_is_left_out_if_it_is_not_asked_for(tiny: Tiny, engine: str) -> None:
    words = {"target_id": TARGET_ID, "fractions": FRACTIONS, "engine": engine}
    with_it = lesion.sweep(tiny("llama"), TEXT, **words)
    without = lesion.sweep(tiny("llama"), TEXT, direct=False, **words)
    assert (with_it.manifest.plan["direct"], without.manifest.plan["direct"]) == (True, False)
    for column in ("direct_logit", "direct_log_prob"):
        assert without.table[column].null_count == len(without.table)
        assert with_it.table[column].null_count == 0
    names = [name for name in with_it.table.column_names if not name.startswith("direct")]
    for mine, its in zip(rows_of(with_it), rows_of(without), strict=True):
        same({name: mine[name] for name in names}, its)
