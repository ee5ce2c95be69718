"""Shapes and types of the whole package are checked while testing, and only then."""

from jaxtyping import install_import_hook

# Before the first import of the package: what is imported earlier stays unchecked.
install_import_hook("lesion", "shape_checking.check")
