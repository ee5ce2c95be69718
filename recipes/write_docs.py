"""Writes what of the documentation is made from the code: `python recipes/write_docs.py`."""

from pathlib import Path

from lesion.runs.published import columns_table, run_schema_text

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- columns: made by recipes/write_docs.py -->\n\n", "\n<!-- end of columns -->\n"


def with_columns(page: str) -> str:
    """The page with its table of columns made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + columns_table() + END + after


if __name__ == "__main__":
    (DOCS / "run.schema.json").write_text(run_schema_text(), encoding="utf-8")
    page = DOCS / "runs.md"
    page.write_text(with_columns(page.read_text(encoding="utf-8")), encoding="utf-8")
