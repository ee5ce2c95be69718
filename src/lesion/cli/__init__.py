"""The `lesion` command. Its flags are the words of the Python call."""

from lesion.cli import models, runs, sweep
from lesion.cli.application import app, main

__all__ = ["app", "main", "models", "runs", "sweep"]
