"""The tiny random models, each loaded once a session."""

from collections.abc import Callable
from functools import cache

import pytest
from families import tiny_model

from lesion.models.language_model import LanguageModel


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LanguageModel]:
    """`tiny_model`, remembered: for tests that leave the model as it is."""
    return cache(tiny_model)
