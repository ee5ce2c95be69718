"""Lines of a file with their numbers and offsets, none of them longer than memory allows."""

from collections.abc import Iterator
from io import BufferedIOBase

LONGEST_LINE = 16 * 2**20
TOO_LONG = "its line is longer than 16 MiB"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SKIPPED_AT_ONCE = 2**16


def numbered_lines(file: BufferedIOBase) -> Iterator[tuple[int, int, bytes | None]]:
    """Each line's number from 1, the offset of its first byte, and its bytes with their ending.

    Lines end with a line feed. Of a line that is too long the bytes are None. A byte order mark
    does not belong to the first line.
    """
    number = offset = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        start, offset = offset, offset + len(line)
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            offset += _skip_line(file)
            yield number, start, None
            continue
        if number == 1 and line.startswith(_BYTE_ORDER_MARK):
            line = line.removeprefix(_BYTE_ORDER_MARK)
            start += len(_BYTE_ORDER_MARK)
        yield number, start, line


def bad_byte(place: str, offset: int, error: UnicodeDecodeError) -> tuple[str, str]:
    """Where the first byte that is not UTF-8 stands, and what it is."""
    place = f"{place}:{offset + error.start}"
    return place, f"byte 0x{error.object[error.start]:02x} is not UTF-8"


def _skip_line(file: BufferedIOBase) -> int:
    """Read on to the end of the line; how many bytes that was."""
    skipped = 0
    while part := file.readline(_SKIPPED_AT_ONCE):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped
