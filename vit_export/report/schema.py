"""The published description of report.json."""

import json
from importlib import resources
from typing import Any

SCHEMA_FILE = "report.schema.json"


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every report.json of this version's `schema_version` fulfils."""
    content = (resources.files("vit_export") / "data" / SCHEMA_FILE).read_text(encoding="utf-8")
    return dict(json.loads(content))
