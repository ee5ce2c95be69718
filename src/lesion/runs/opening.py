"""From a path to the place that it means."""

from pathlib import Path

from lesion.errors import RunNotWritable
from lesion.runs.folder import Folder
from lesion.runs.local_folder import LocalFolder


def open_folder(path: str | Path) -> Folder:
    """The place that a path means: a directory here.

    Raises:
        RunNotWritable: an object store.
    """
    text = str(path)
    if "://" in text and not text.startswith("file://"):
        raise RunNotWritable(
            f"run in {text}",
            "it is no directory of this machine",
            "This version keeps runs in directories",
            "Pass a path, and copy the finished directory where it is wanted",
        )
    return LocalFolder(Path(text.removeprefix("file://")))
