"""Who takes part: the packed engine, the protocol's plain loop, and three libraries.

Each is one module with one class, loaded by name, so that a library that cannot be imported costs
its own row and not the suite. All get the same weights and prompt and return log-probs of the
target; all but the packed engine run one forward a lesion, or one a block where batched by hand.
"""

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Sequence

from benchmarks.cells import Cell
from benchmarks.subjects import Subject


class Peer(ABC):
    """One way to measure the cells of a sweep; abstract.

    Attributes:
        label: what tables call it.
        package: the installed package whose version is shown.
    """

    label: str
    package: str

    @abstractmethod
    def __init__(self, subject: Subject) -> None: ...

    @abstractmethod
    def log_probs(self, cells: Sequence[Cell]) -> list[float]:
        """Log-prob of the target after each lesion, in nats."""

    @classmethod
    def version(cls) -> str:
        """The installed version of what does the work."""
        return importlib.metadata.version(cls.package)


PEERS = {
    "packed": "benchmarks.peers.packed:Packed",
    "loop": "benchmarks.peers.loop:PlainLoop",
    "loop-last-logits": "benchmarks.peers.loop:LastLogitsLoop",
    "lens": "benchmarks.peers.lens:Lens",
    "lens-batched": "benchmarks.peers.lens:LensBatched",
    "nnsight": "benchmarks.peers.traced:Nnsight",
    "pyvene": "benchmarks.peers.pyvene_model:Pyvene",
}


def peer_class(name: str) -> type[Peer]:
    """The class of a contestant; an ImportError is the caller's to report."""
    module, _, attribute = PEERS[name].partition(":")
    found: type[Peer] = getattr(importlib.import_module(module), attribute)
    return found
