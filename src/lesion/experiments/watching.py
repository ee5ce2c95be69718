"""Progress bars of the library, by tqdm: drawn only on a terminal, or in a notebook."""

from typing import Any

from tqdm.auto import tqdm

from lesion.runs.runner import Watch


class LesionBar:
    """The lesions of one unit after the other."""

    def __enter__(self) -> "LesionBar":
        # disable=None: nothing is drawn where the output is not a terminal.
        self._bar: Any = tqdm(unit="lesion", leave=False, disable=None)
        self._before = 0
        return self

    def __call__(self, done: int, total: int) -> None:
        """So many lesions of the present unit are done."""
        if self._bar.n == self._bar.total:
            self._before = self._bar.n
        self._bar.total = self._before + total
        self._bar.update(self._before + done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class UnitBar(Watch):
    """The units of a run in a directory."""

    def __enter__(self) -> "UnitBar":
        self._bar: Any = tqdm(unit="unit", leave=False, disable=None)
        return self

    def changed(self) -> None:
        """The bar goes on, and says how many rows a second were measured."""
        self._bar.total = self.units
        self._bar.set_postfix_str(f"{self.rows / max(self.seconds, 1e-3):.0f} rows/s")
        self._bar.update(self.finished - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
