"""The `lesion` command. Flags are the words of the Python call; each command imports what it needs.

A flag wins over the configuration file (`-c FILE.yaml` or `.toml`), the file over the environment
(`LESION_DEVICE=cuda` stands for `--device cuda`). A `LesionError` or a wrong flag exits with 2.
"""

import datetime
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict, Env

from lesion.axes import RankOn, Scope, Site
from lesion.errors import InvalidChoice, LesionError

Engine = Literal["auto", "packed", "reference"]
RankKey = Literal["value", "abs", "write"]

app = App(
    name="lesion",
    help="Causal lesion experiments on the MLP neurons of language models.",
    help_format="plaintext",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says so and exits with 130
)
app.meta.group_parameters = Group("Every command")
app.meta.suppress_keyboard_interrupt = False


@app.command
def sweep(
    model: str | None = None,
    /,
    *,
    prompt: str,
    target: str | None = None,
    target_id: int | None = None,
    foil: str | None = None,
    foil_id: int | None = None,
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
    out: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
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
        Directory of the run; omitted, runs/DATE-TIME.
    overwrite
        Replace a run that stands there.
    """
    from rich.console import Console

    from lesion.experiments.plan import parse_position, plan_sweep
    from lesion.runs.store import check_free

    folder = out or Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    choices: dict[str, Any] = {
        "fractions": _joined(fractions), "site": site, "select": _joined(select) or "top",
        "rank": rank, "replace": replace, "scope": scope, "rank_on": rank_on,
        "layers": _joined(layers), "position": parse_position(position), "seed": seed,
    }  # fmt: skip
    plan_sweep(**choices)
    check_free(folder, overwrite)

    from transformers.utils.logging import disable_progress_bar

    from lesion.experiments.sweep import sweep as run_sweep
    from lesion.models.loading import load
    from lesion.terminal import print_files, print_run

    disable_progress_bar()  # transformers' own; the status line below says the same
    console = Console()
    with Console(stderr=True).status("loading the model"):
        loaded = load(model, revision=revision, device=device, dtype=dtype)
    with _LesionBar() as bar:
        run = run_sweep(
            loaded, prompt, target, target_id=target_id, foil=foil, foil_id=foil_id, engine=engine,
            self_check=self_check, hidden_norm=hidden_norm, direct=direct, progress=bar, **choices,
        )  # fmt: skip
    print_run(run, console)
    with Console(stderr=True).status("drawing"):
        run.save(folder, overwrite=overwrite)
    print_files(run, folder, console)


@app.command
def show(run: Path, /) -> None:
    """Print a saved run again.

    Parameters
    ----------
    run
        The directory that a command wrote with --out.
    """
    from rich.console import Console

    from lesion.runs.run import open_run
    from lesion.terminal import print_run

    print_run(open_run(run), Console())


@app.command
def models() -> None:
    """List the families of models that can be lesioned, and where their sites are."""
    from rich.console import Console
    from rich.table import Table

    from lesion.models.families import FAMILIES

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("family", style="bold", no_wrap=True)
    table.add_column("model_type", min_width=13)
    table.add_column("pre: output of", no_wrap=True)
    table.add_column("post, out: into, of")
    table.add_column("engine", no_wrap=True)
    for family in FAMILIES:
        packed = family.attention_interface and not family.masked
        engine = "packed" if packed else "reference"
        types = "\n".join(family.model_types) + ("\n(masked)" if family.masked else "")
        table.add_row(family.name, types, family.pre, family.down, engine)
    console = Console()
    console.print(table)
    console.print("Any model of these types works: a name on the Hugging Face Hub, a local folder,")
    console.print("or, in Python, one already loaded. Without a name the shipped model is used.")


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None,
) -> object:
    """Causal lesion experiments on the MLP neurons of language models.

    Parameters
    ----------
    config
        A YAML or TOML file with flags as keys (prompt: …, fractions: [0.01, 0.1]).
    """
    # The application outlives the call, its sources of flags must not.
    app.config = (*([_config_file(config)] if config else []), Env("LESION_", command=False))
    try:
        return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    finally:
        app.config = ()


def main(tokens: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 on a wrong flag or a `LesionError`, with 130 on Ctrl-C."""
    from rich.console import Console
    from rich.text import Text

    errors = Console(stderr=True, soft_wrap=True)
    try:
        app.meta(
            sys.argv[1:] if tokens is None else tokens,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except (LesionError, CycloptsError) as error:
        errors.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)


class _LesionBar:
    """A progress bar on the standard error, drawn only on a terminal."""

    def __enter__(self) -> "_LesionBar":
        from rich.console import Console
        from rich.progress import Progress, TimeElapsedColumn

        console = Console(stderr=True)
        self._progress = Progress(
            *Progress.get_default_columns(), TimeElapsedColumn(), console=console,
            transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task("lesions", total=None)
        return self

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _joined(words: list[str] | None) -> str | None:
    return None if words is None else ",".join(words)


def _config_file(path: Path) -> Dict:
    """The configuration file as a source of flags.

    Raises:
        InvalidChoice: no such file, not readable as what its name says, or no mapping of flags.
    """
    import yaml

    rule = "A configuration file is YAML (.yaml, .yml) or TOML (.toml) with flags as keys"
    asked = f"config {path}"
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise InvalidChoice(asked, f"its suffix is {path.suffix!r}", rule, "Rename it")
    try:
        text = path.read_text(encoding="utf-8")
        flags = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        found = f"it cannot be read ({error.strerror})"
        raise InvalidChoice(asked, found, rule, "Check the path") from None
    except (UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        found = " ".join(str(error).split())
        raise InvalidChoice(asked, found, rule, "Correct it there") from None
    if not isinstance(flags, dict):
        raise InvalidChoice(asked, "it holds no flags", rule, "Write for example: prompt: Hello")
    return Dict(flags, use_commands_as_keys=False, source=str(path))
