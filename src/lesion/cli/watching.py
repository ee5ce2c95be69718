"""A run that moves, as a person sees it: one line on a terminal, nothing elsewhere."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lesion.runs.runner import Watch


class UnitProgress(Watch):
    """The units of a run, rows a second and the time that remains, on the standard error."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.console = Console(stderr=True, soft_wrap=True)
        self.measured = 0
        self.resumed = 0
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("units", total=None, rate="")

    def __enter__(self) -> "UnitProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def changed(self) -> None:
        """A unit more is finished."""
        if self.seconds < 1e-3:
            self.resumed = self.finished
        self.measured = max(self.measured, self.rows)
        # One unit is shown by its lesions.
        if self.units > 1:
            rate = f"{self.rows / max(self.seconds, 1e-3):,.0f} rows/s"
            self._progress.update(self._task, completed=self.finished, total=self.units, rate=rate)

    def lesions(self, done: int, total: int) -> None:
        """Lesions of the present unit."""
        if self.units == 1:
            self._progress.update(self._task, description="lesions", completed=done, total=total)

    def say_what_was_done(self) -> None:
        """One line where something had been finished before."""
        if not self.before:
            return
        now = self.finished - self.before
        found = f"{self.before} of {self.units} units had been finished before"
        found += f", {now} were measured now" if now else ": nothing was measured again"
        self.console.print(Text(found, style="dim"))
