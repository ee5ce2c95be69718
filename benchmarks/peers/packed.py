"""The engine under test, without self-check."""

from collections.abc import Sequence

from benchmarks.cells import Cell
from benchmarks.peers import Peer
from benchmarks.subjects import Subject
from lesion.engines.packed import PackedEngine


class Packed(Peer):
    """All lesions of a call in one pass."""

    label = "**lesion, packed engine**"
    package = "lesion"

    def __init__(self, subject: Subject) -> None:
        self.engine = PackedEngine(subject.model)
        self.prompt = subject.prompt

    def log_probs(self, cells: Sequence[Cell]) -> list[float]:
        """One call for all cells."""
        outcome = self.engine.run(self.prompt, [cell.lesion() for cell in cells])
        return outcome.lesioned.log_prob.tolist()
