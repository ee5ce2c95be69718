"""Experiments: they plan lesions and turn what an engine measured into rows."""
