"""From a path to the place that it means: a directory here, or an object store."""

from pathlib import Path

from lesion.runs.folder import Folder
from lesion.runs.local_folder import LocalFolder


def is_remote(path: str | Path) -> bool:
    """Whether a path names an object store (`s3://bucket/run`)."""
    return "://" in str(path) and not str(path).startswith("file://")


def open_folder(path: str | Path) -> Folder:
    """The place that a path means.

    Raises:
        InvalidChoice: no place can have that name.
        RunNotWritable: an object store whose library is not installed.
    """
    if is_remote(path):
        from lesion.runs.object_folder import ObjectFolder  # noqa: PLC0415 (a run here needs none)

        return ObjectFolder(str(path))
    return LocalFolder(Path(str(path).removeprefix("file://")))
