"""What is published about a run for those who read it without lesion: its schema, its columns."""

import json
from typing import Any

from lesion.columns import SWEEP_COLUMNS
from lesion.runs.manifest import SCHEMA_VERSION, Manifest


def run_schema() -> dict[str, Any]:
    """The JSON schema of `run.json`: the manifest, and the checksum over it."""
    schema = Manifest.model_json_schema(mode="serialization")
    checksum = {
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "SHA-256 of the rest, as JSON with sorted keys.",
    }
    properties = {**schema["properties"], "checksum": checksum}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": f"run.json, schema version {SCHEMA_VERSION}",
        "properties": properties,
        "required": list(properties),
    }


def run_schema_text() -> str:
    """The content of `docs/run.schema.json`."""
    return json.dumps(run_schema(), indent=2, ensure_ascii=False) + "\n"


def columns_table() -> str:
    """The columns of a sweep as a table in Markdown."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for column in SWEEP_COLUMNS:
        meaning = column.meaning.replace("|", "\\|")
        lines.append(f"| `{column.name}` | {column.type} | {meaning} |")
    return "\n".join(lines) + "\n"
