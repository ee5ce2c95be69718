"""Shapes and types of the whole package are checked while testing, and only then."""

import pytest
from jaxtyping import install_import_hook

# Before the first import of the package: what is imported earlier stays unchecked.
install_import_hook("lesion", "shape_checking.check")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cells of the sweep were compared with the protocol's own loop."""
    for report in terminalreporter.getreports("passed"):
        for name, counts in getattr(report, "user_properties", []):
            if name == "cells":
                terminalreporter.write_line(f"sweep = protocol's loop, cells: {counts}")
