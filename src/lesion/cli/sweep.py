"""`lesion sweep`."""

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lesion.axes import RankOn, Scope, Site
from lesion.cli.application import NONFINITE, app
from lesion.errors import InvalidChoice

if TYPE_CHECKING:
    from rich.console import Console

    from lesion.experiments.study import Study
    from lesion.runs.run import Run

TargetMode = Literal["one", "first", "sum"]
Truncate = Literal["no", "left"]
Engine = Literal["auto", "packed", "reference"]
RankKey = Literal["value", "abs", "write"]


@app.command
def sweep(
    model: str | None = None,
    /,
    *,
    prompt: str | None = None,
    target: str | None = None,
    target_id: int | None = None,
    foil: str | None = None,
    foil_id: int | None = None,
    prompts: str | None = None,
    limit: int | None = None,
    strict: Annotated[bool, Parameter(negative="")] = False,
    target_mode: TargetMode = "one",
    truncate: Truncate = "no",
    fractions: Annotated[list[str] | None, Parameter(negative="")] = None,
    site: Site = "pre",
    select: Annotated[list[str] | None, Parameter(negative="")] = None,
    rank: RankKey | None = None,
    replace: str = "median",
    scope: Scope = "each",
    rank_on: RankOn = "lesioned",
    layers: Annotated[list[str] | None, Parameter(negative="")] = None,
    position: Annotated[str, Parameter(allow_leading_hyphen=True)] = "last",
    hidden_norm: Annotated[bool, Parameter(negative="")] = False,
    direct: bool = True,
    engine: Engine = "auto",
    self_check: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    seed: int = 0,
    out: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    workers: int | None = None,
    cluster: str | None = None,
    plan: Annotated[bool, Parameter(negative="")] = False,
    max_nonfinite: float = 0.05,
) -> None:
    """Lesion growing shares of neurons, block by block, and show what the target token loses.

    Parameters
    ----------
    model
        A name on the Hugging Face Hub or a local folder; omitted, the shipped model.
    prompt
        The text before the predicted token.
    target
        The token that is measured, with its leading space (" night"); omitted, the model's own top
        token.
    target_id
        The target by its token id.
    foil
        A token to compare the target with: adds logit_diff.
    foil_id
        The foil by its token id.
    prompts
        Instead of one prompt many: a .jsonl, .csv, .parquet or .txt file with prompt, target, foil,
        group; the packaged set idioms; or hf:OWNER/NAME[:SPLIT].
    limit
        The first so many rows of the prompts.
    strict
        Stop if any row of the prompts cannot be asked; else up to 20 % are left out and counted.
    target_mode
        one: a target of several tokens is refused. first: its first token is measured. sum: the sum
        of its tokens' log-probabilities.
    truncate
        left: prompts longer than the model's context are cut at their beginning.
    fractions
        Shares in [0, 1], start:stop:step, or coarse (10-90 %), fine (0.2-4.5 %), book (21 steps
        from 1 to 99 %), separated by commas; omitted, coarse,fine.
    site
        pre: input of the nonlinearity. post: input of the down projection. out: MLP output.
    select
        top, bottom, random[:DRAWS], band:LOW-HIGH or set:FILE (layer,neuron rows); several,
        separated by commas: the first is the question, the others its controls. Omitted, top.
    rank
        What neurons are ranked by; omitted, value, and abs at site out.
    replace
        median, median_mid, mean, zero, min or constant:NUMBER.
    scope
        Each block alone, all blocks at once, or cumulative: blocks 0 up to the row's.
    rank_on
        Rank on what the lesioned row carries in a block, or on the clean run.
    layers
        Blocks to lesion, for example 0,3,5-8; omitted, every block.
    position
        last: the last token of the prompt. every: each token of a text, measured on the next one.
        mask: the mask of a masked model's prompt. Or the index of a token.
    hidden_norm
        Also measure how far the hidden state moves after every block.
    direct
        Also measure what a block's own output does, later blocks left as they were.
    engine
        auto: packed (all lesions in one pass) where it is proved, else reference (one a pass).
    self_check
        Compare the packed engine with the reference engine now and then.
    device
        cpu, cuda, cuda:1, …; omitted, the GPU if there is one.
    dtype
        float32, bfloat16, float16 or float64; omitted, float32.
    revision
        Branch, tag or commit on the Hub.
    seed
        Of random selections.
    out
        Directory of the run, or s3://BUCKET/RUN; omitted, a name in runs/ that tells the model and
        the plan. The same command again does only what is missing there.
    overwrite
        Begin anew where a run stands.
    workers
        So many processes, each with the model; on GPUs one a GPU. Omitted, this one, or as many as
        the cluster has room for.
    cluster
        Measure on a Ray cluster: its address, HOST:PORT, or local.
    plan
        Print what it would take, and do nothing.
    max_nonfinite
        Exit with 3 if more than this share of the rows has a NaN or infinite logit.
    """
    from rich.console import Console

    from lesion.experiments.plan import parse_position, plan_sweep

    choices: dict[str, Any] = {
        "fractions": _joined(fractions), "site": site, "select": _joined(select) or "top",
        "rank": rank, "replace": replace, "scope": scope, "rank_on": rank_on,
        "layers": _joined(layers), "position": parse_position(position), "seed": seed,
    }  # fmt: skip
    asked: dict[str, Any] = {
        "prompt": prompt, "target": target, "target_id": target_id, "foil": foil,
        "foil_id": foil_id, "prompts": prompts, "limit": limit, "strict": strict,
        "target_mode": target_mode, "truncate": truncate, "engine": engine,
        "self_check": self_check, "hidden_norm": hidden_norm, "direct": direct,
    }  # fmt: skip
    plan_sweep(**choices)
    check_asked(prompt, prompts, limit, workers)
    loading = {"name": model, "revision": revision, "device": device, "dtype": dtype}
    console = Console()
    if plan:
        _print_plan(loading, asked | choices, console)
        return
    place = out or default_place(model, asked | choices)
    _run(place, overwrite, loading, asked | choices, (workers, cluster), max_nonfinite, console)


def _run(
    place: str,
    overwrite: bool,
    loading: dict[str, Any],
    words: dict[str, Any],
    spread: tuple[int | None, str | None],
    max_nonfinite: float,
    console: "Console",
) -> None:
    from lesion.cli.watching import UnitProgress
    from lesion.runs.run import DRAWN_ROWS, open_run
    from lesion.runs.store import claim
    from lesion.terminal import print_files, print_run

    # The place is claimed before the model is loaded, which may take minutes.
    with claim(place, overwrite=overwrite) as writer:
        study = _study(loading, words)
        watch = UnitProgress(place)
        study.run(writer, *spread, overwrite=overwrite, watch=watch)
        run = open_run(place)
        print_run(run, console)
        drawn = run.shards.rows <= DRAWN_ROWS
        if drawn and (watch.measured or not run.has_figures):
            with console_of_errors().status("drawing"):
                run.draw(writer)
    print_files(run, place, console, drawn)
    watch.say_what_was_done()
    check_finite(run, max_nonfinite)


def _print_plan(loading: dict[str, Any], words: dict[str, Any], console: "Console") -> None:
    from lesion.terminal import print_estimate

    print_estimate(_study(loading, words).estimate(), console)


def _study(loading: dict[str, Any], words: dict[str, Any]) -> "Study":
    """The words with the model, which is loaded now."""
    from transformers.utils.logging import disable_progress_bar

    from lesion.experiments.sweep import study_of
    from lesion.models.loading import load

    disable_progress_bar()  # transformers' own; the status line below says the same
    with console_of_errors().status("loading the model"):
        loaded = load(**loading)
    return study_of(loaded, **words)


def check_asked(
    prompt: str | None, prompts: str | None, limit: int | None, workers: int | None
) -> None:
    """Refuse what needs no model to be refused.

    Raises:
        InvalidChoice: not one of prompt and prompts, or a number that is none.
        PromptSetError: there is no such prompt set.
    """
    from lesion.prompt_sets.prompt_set import open_prompt_set

    if (prompt is None) == (prompts is None):
        found = "both were given" if prompt is not None else "neither was given"
        rule = "A sweep asks one prompt, or a set of them"
        raise InvalidChoice("--prompt and --prompts", found, rule, "Pass one of them")
    for word, number in (("limit", limit), ("workers", workers)):
        if number is not None and number < 1:
            rule = f"{word} is a whole number from 1"
            raise InvalidChoice(f"{word} {number}", "it is less", rule, "Pass one that is")
    if prompts is not None and not prompts.startswith("hf:"):
        open_prompt_set(prompts)


def default_place(model: str | None, words: dict[str, Any]) -> str:
    """A directory that the same words always mean: the model's name, and a hash of all words."""
    from lesion.runs.manifest import digest

    name = re.sub(r"[^A-Za-z0-9.-]+", "-", (model or "default").rstrip("/").split("/")[-1])
    own = digest({"model": model} | {word: str(value) for word, value in words.items()})[:8]
    return f"runs/sweep-{name.strip('-.') or 'model'}-{own}"


def check_finite(run: "Run", most: float) -> None:
    """Exit with its own code where more rows than allowed are not finite."""
    nonfinite, rows = run.nonfinite, run.shards.rows
    if rows and nonfinite / rows > most:
        console_of_errors().print(
            f"{nonfinite} of {rows} rows are not finite, more than --max-nonfinite {most:g} allows",
            style="bold red",
        )
        sys.exit(NONFINITE)


def console_of_errors() -> "Console":
    """The terminal's standard error."""
    from rich.console import Console

    return Console(stderr=True)


def _joined(words: list[str] | None) -> str | None:
    return None if words is None else ",".join(words)
