"""Peak memory above the model's, in a fresh process: resident set, as the kernel counts it."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_OWN = Path("/proc/self")


def peak_above(run: Callable[[], object]) -> int:
    """Most bytes resident while `run` lasts, above those resident before it; Linux only.

    Memory that is free, but was not given back, is returned to the system first: what it could take
    again would not be counted.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _bytes("VmRSS")
    # 5 sets the peak back to what is resident now.
    (_OWN / "clear_refs").write_text("5")
    run()
    return _bytes("VmHWM") - before


def _bytes(field: str) -> int:
    for line in (_OWN / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
