"""`lesion models`: what can be lesioned."""

from lesion.cli.application import app


@app.command
def models() -> None:
    """List the families of models that can be lesioned, and where their sites are."""
    from rich.console import Console
    from rich.table import Table

    from lesion.models.families import FAMILIES

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("family", style="bold", no_wrap=True)
    table.add_column("model_type", min_width=13)
    table.add_column("pre: output of", no_wrap=True)
    table.add_column("post, out: into, of")
    table.add_column("engine", no_wrap=True)
    for family in FAMILIES:
        packed = family.attention_interface and not family.masked
        engine = "packed" if packed else "reference"
        types = "\n".join(family.model_types) + ("\n(masked)" if family.masked else "")
        table.add_row(family.name, types, family.pre, family.down, engine)
    console = Console()
    console.print(table)
    console.print("Any model of these types works: a name on the Hugging Face Hub, a local folder,")
    console.print("or, in Python, one already loaded. Without a name the shipped model is used.")
