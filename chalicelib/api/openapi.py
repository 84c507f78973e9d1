"""The OpenAPI document: `openapi.json`, with the task types of this version."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chalicelib.task_types import HANDLERS, Handler
from chalicelib.task_types.payload import schema


def openapi_document() -> dict[str, Any]:
    """The whole document."""
    text = (Path(__file__).parent / "openapi.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    schemas = document["components"]["schemas"]
    schemas["TaskType"]["enum"] = sorted(HANDLERS)
    schemas["NewTask"] = new_task_schema(schemas["NewTask"], HANDLERS)
    return document


def new_task_schema(
    base: Mapping[str, Any], handlers: Mapping[str, Handler]
) -> Mapping[str, object]:
    """NewTask with the payloads of these handlers: one branch for each distinct payload.

    base: the schema of NewTask without them.
    """
    types_by_payload: dict[str, list[str]] = {}
    for type in sorted(handlers):
        text = json.dumps(schema(handlers[type]))
        types_by_payload.setdefault(text, []).append(type)
    branches = []
    for text, types in types_by_payload.items():
        payload = json.loads(text)
        properties = dict(base["properties"])
        properties["type"] = {"type": "string", "enum": types}
        properties["payload"] = properties["payload"] | payload
        required = [*base["required"], *(["payload"] if "required" in payload else [])]
        branches.append({**base, "required": required, "properties": properties})
    return branches[0] if len(branches) == 1 else {"anyOf": branches}
