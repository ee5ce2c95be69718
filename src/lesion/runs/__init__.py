"""Runs: what was asked, what was measured, and how both are kept. Nothing here needs torch."""
