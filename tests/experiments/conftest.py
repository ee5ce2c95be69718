"""The tiny random models, each loaded once a session."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from families import tiny_model

from lesion.models.language_model import LanguageModel


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LanguageModel]:
    """`tiny_model`, remembered: for tests that leave the model as it is."""
    return cache(tiny_model)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Several threads gain nothing on tiny matrices, and lose much where the cores are taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
