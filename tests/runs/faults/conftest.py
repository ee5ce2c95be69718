"""What the tests of faults share: a server of children, a directory in memory, an unhurt run."""

import shutil
import tempfile
from pathlib import Path

import pytest
from fake_study import UNITS, conduct, files_in
from fork_server import ForkServer

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def children():
    """Forks children that never import torch."""
    server = ForkServer()
    yield server
    server.stop()


@pytest.fixture
def place():
    """A new directory, in memory where there is one: what dies here is never the machine."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None)).resolve()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The files of a study of `UNITS` units that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    conduct(folder / "run", UNITS, folder / "counts")
    return files_in(folder / "run")
