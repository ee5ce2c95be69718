"""Shapes and types of the whole package are checked while testing, and only then."""

import pytest
from jaxtyping import install_import_hook

# Before the first import of the package: what is imported earlier stays unchecked.
install_import_hook("lesion", "shape_checking.check")

COUNTED = {
    "cells": "sweep = protocol's loop",
    "packed_cells": "packed engine = reference engine",
}
"""What the summary counts, by the name under which the tests record it."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cells were compared: lesion with the loop, and one engine with the other."""
    for report in terminalreporter.getreports("passed"):
        for name, counts in getattr(report, "user_properties", []):
            if name in COUNTED:
                terminalreporter.write_line(f"{COUNTED[name]}, cells: {counts}")
