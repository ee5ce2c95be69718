"""`results.json` to `docs/benchmarks.md`: every number with the command that repeats it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.jobs import JOBS
from benchmarks.picture import draw
from benchmarks.results import Contestant, Entry, Target, read

DOCS = Path(__file__).parents[1] / "docs"

_HEAD = """# Benchmarks

What the packed engine costs, beside the loop that the protocol is usually written as and three
libraries of the field. Random weights and random tokens in the shapes of published models: speed
does not depend on training, and nothing is downloaded. This page is written by
`python -m benchmarks report` from `benchmarks/results.json`; no number on it is typed by hand.

![Time of one sweep by contestant, and its growth](benchmarks.png)
"""

_HOW = """## How it was measured

* `make bench` runs everything, `make bench JOB=sweep` one job; `python -m benchmarks check` shows
  on a tiny model that all contestants measure the same. Each job has a fresh process.
* Contestants run in turn (A B C, A B C, …) with the same weights, prompt and threads; times are
  medians. Where a contestant is timed on a sample of the lesions, the sample is spread over the
  blocks, its size is in the table, and the whole is scaled from it per lesion.
* A time counts only if the contestant's log-probs are within 1e-3 nats of the loop's.
* The loop is plain PyTorch hooks and one forward a lesion, without a cache, with the logits of
  all tokens as the model gives them. Libraries are set up once, which is not timed; pyvene's
  intervenable models, one a block, too.
* The loops and libraries compute the target's log-prob; the packed engine all metrics and the
  evidence of every lesion. They are compared on the lesions that both measured.
* The packed engine runs without its self-check, which `lesion` makes at the first use of a model.
* The floor of operations (`benchmarks/floor.py`) is the arithmetic of prefix, rows, attention and
  head; what was done is counted by PyTorch's `FlopCounterMode`, itself checked by hand in `check`.
* Memory is the resident peak of a fresh process above what is resident once the model is loaded
  and one short plain forward is done.
"""


def report() -> None:
    """Write the page and its picture."""
    entries = read()
    ordered = [entries[job] for job in JOBS if job in entries]
    parts = [_HEAD, _promises(ordered), *map(_job, ordered), _HOW, _conditions(ordered)]
    (DOCS / "benchmarks.md").write_text("\n".join(parts))
    draw(entries, DOCS / "benchmarks")


def _promises(entries: Sequence[Entry]) -> str:
    rows = [
        (target.what, _bound(target), _measured(target),
         "met" if target.met else "**missed**", f"`{entry.command}`")
        for entry in entries
        for target in entry.found.targets
    ]  # fmt: skip
    missed = sum(not target.met for entry in entries for target in entry.found.targets)
    summary = f"{len(rows) - missed} of {len(rows)} targets are met."
    header = ("job", "target", "measured", "", "command")
    return f"## Targets\n\n{summary}\n\n{_table(header, rows, right=(1, 2))}"


def _job(entry: Entry) -> str:
    found = entry.found
    parts = [f"## {found.title}\n", f"`{entry.command}`\n"]
    if found.contestants:
        packed = next(row.whole for row in found.contestants if row.name == "packed")
        rows = [_contestant(row, packed) for row in found.contestants]
        header = ("", "version", "timed lesions", "per lesion", "whole job", "÷ packed",
                  "largest \\|Δ log-prob\\|")  # fmt: skip
        parts.append(_table(header, rows, right=(2, 3, 4, 5, 6)))
    errors = [f"* {row.label} {row.version}: {row.error}" for row in found.contestants if row.error]
    details = [f"* {target.what}: {target.detail}." for target in found.targets if target.detail]
    facts = [f"* {fact.what}: {fact.value}." for fact in found.facts]
    if errors or details or facts:
        parts.append("\n".join([*errors, *details, *facts]) + "\n")
    if found.points:
        rows = [
            (point.curve, f"{point.x:,}", _seconds(point.seconds), f"{point.floor / 1e9:,.0f}",
             f"{point.floor / point.seconds / 1e9:,.0f}")
            for point in found.points
        ]  # fmt: skip
        header = ("grows with", "number", "time", "floor, GFLOP", "floor ÷ time, GFLOP/s")
        parts.append(_table(header, rows, right=(1, 2, 3, 4)))
    return "\n".join(parts)


def _contestant(row: Contestant, packed: float | None) -> tuple[str, ...]:
    of = f"{row.timed:,}" if row.timed == row.lesions else f"{row.timed:,} of {row.lesions:,}"
    rounds = f"{of}, {len(row.seconds)} ×"
    differs = "" if row.difference is None else f"{row.difference:.0e}"
    if row.whole is None or row.per_lesion is None or packed is None:
        return (row.label, row.version, rounds, "–", "–", "–", differs)
    scaled = "" if row.timed == row.lesions else "≈ "
    whole = f"{scaled}{_seconds(row.whole)}"
    ratio = "1" if row.name == "packed" else _number(row.whole / packed)
    return (row.label, row.version, rounds, _seconds(row.per_lesion), whole, ratio, differs)


def _conditions(entries: Sequence[Entry]) -> str:
    rows = [
        (f"`{entry.command}`", entry.date, f"`{entry.commit}`", entry.machine,
         _seconds(entry.took_seconds))
        for entry in entries
    ]  # fmt: skip
    header = ("command", "date", "commit", "machine", "took")
    versions = {", ".join(f"{name} {version}" for name, version in entry.versions.items()): None
                for entry in entries}  # fmt: skip
    together = "\n".join(f"* {line}" for line in versions)
    return f"## Conditions\n\n{_table(header, rows, right=(4,))}\n{together}\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    rule = ["--:" if column in right else "---" for column in range(len(header))]
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    lines.insert(1, "|" + "|".join(rule) + "|")
    return "\n".join(lines) + "\n"


def _bound(target: Target) -> str:
    return f"{'≥' if target.at_least else '≤'} {target.bound:g} {target.unit}"


def _measured(target: Target) -> str:
    if target.value is None:
        return "not measured"
    return f"{_number(target.value)} {target.unit}"


def _number(value: float) -> str:
    if 0 < value < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{_number(value)} s"
    return f"{_number(value * 1e3)} ms"
