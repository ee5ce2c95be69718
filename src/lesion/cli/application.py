"""The application: what all commands share, and how it ends.

A flag wins over the configuration file (`-c FILE.yaml` or `.toml`), the file over the environment
(`LESION_DEVICE=cuda` stands for `--device cuda`).

    0    done
    2    refused: a `LesionError`, or a wrong flag
    3    done, but more rows than allowed have a NaN or infinite logit
    4    the device that the model was on is lost
    130  interrupted: Ctrl-C or SIGTERM; a second one ends at once
"""

import os
import signal
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict, Env

from lesion.errors import DeviceLost, InvalidChoice, LesionError

REFUSED, NONFINITE, DEVICE_LOST, INTERRUPTED = 2, 3, 4, 130

app = App(
    name="lesion",
    help="Causal lesion experiments on the MLP neurons of language models.",
    help_format="plaintext",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says so and exits with 130
)
app.meta.group_parameters = Group("Every command")
app.meta.suppress_keyboard_interrupt = False


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
    """Run the command; see the module for how it exits."""
    from rich.console import Console
    from rich.text import Text

    errors = Console(stderr=True, soft_wrap=True)
    if tokens is None:
        _hear_signals()
    try:
        app.meta(
            sys.argv[1:] if tokens is None else tokens,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except (LesionError, CycloptsError) as error:
        errors.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(DEVICE_LOST if isinstance(error, DeviceLost) else REFUSED)
    except KeyboardInterrupt:
        errors.print("interrupted; what is finished stays, the same command goes on")
        sys.exit(INTERRUPTED)


def _hear_signals() -> None:
    """The first Ctrl-C or SIGTERM drops what is not finished, the second ends at once."""
    heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hear)
    signal.signal(signal.SIGTERM, hear)


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
