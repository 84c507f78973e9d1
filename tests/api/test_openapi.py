"""The document that describes the API, against the app."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
import schemathesis
from chalice.test import Client
from msgspec import Meta, Struct

import app as entry
from chalicelib import errors
from chalicelib.api.access import needed_scope
from chalicelib.api.failures import STATUS_BY_ERROR
from chalicelib.api.openapi import openapi_document
from chalicelib.api.page import FILES
from chalicelib.api.responses import TYPE_BY_STATUS
from chalicelib.api.settings import ApiSettings
from chalicelib.task_types import HANDLERS, Run
from chalicelib.version import VERSION
from local.settings import ROOT
from tests.support.keys import WRITE, keyed
from tests.support.local_server import served


@pytest.fixture
def document() -> Any:
    response = Client(entry.app, project_dir=str(ROOT)).http.get("/openapi.json")
    assert response.status_code == 200
    return response.json_body


def validator(document: Any, schema: Any) -> jsonschema_rs.Validator:
    whole = {"components": document["components"], "allOf": [schema]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def test_it_is_valid(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()


def test_its_paths_and_methods_are_those_of_the_app(document: Any) -> None:
    described = {
        path: {method.upper() for method in item if method != "parameters"}
        for path, item in document["paths"].items()
    }
    routed = {path: set(methods) for path, methods in entry.app.routes.items()}
    assert described == {path: routed[path] for path in routed if path not in FILES}


def test_it_tells_the_version(document: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["info"]["version"] == project["project"]["version"] == VERSION


def test_it_names_the_task_types_of_this_version(document: Any) -> None:
    assert document["components"]["schemas"]["TaskType"]["enum"] == sorted(HANDLERS)


def test_it_names_every_type_of_error(document: Any) -> None:
    named = set(document["components"]["schemas"]["Error"]["properties"]["Type"]["enum"])
    internal = {errors.SchedulerError, errors.InvalidSetting, errors.TaskExists}
    domain = {error.__name__ for error in set(STATUS_BY_ERROR) - internal}
    of_views = {"InternalError", "TaskDeleted", "IdempotencyKeyReused", "ServerBusy"}
    assert named == domain | set(TYPE_BY_STATUS.values()) | of_views


def contents(node: Any) -> Iterator[Any]:
    """Every schema that stands beside examples."""
    if isinstance(node, dict):
        if "schema" in node:
            yield node
        for child in node.values():
            yield from contents(child)


def test_its_examples_are_as_it_says(document: Any) -> None:
    found = 0
    for content in contents(document):
        for example in content.get("examples", {}).values():
            found += 1
            validator(document, content["schema"]).validate(example["value"])
    assert found > 10


class Shape(Struct, tag=True):
    """Something to paint."""

    sides: Annotated[int, Meta(ge=3)]
    since: Annotated[datetime, Meta(tz=True)] | None = None


class Spot(Struct, tag=True):
    discriminator: Literal["round", "oval"]


async def draw(
    run: Run, *, shapes: list[Shape | Spot], by_name: dict[str, Shape] | None = None
) -> str:
    return ""


@pytest.mark.parametrize(
    ("shape", "is_fine"),
    [
        ({"type": "Shape", "sides": 3, "since": "2030-01-31T12:00:00Z"}, True),
        ({"type": "Spot", "discriminator": "oval"}, True),
        ({"type": "Shape", "sides": 2}, False),
        ({"type": "Shape", "sides": 3, "since": "noon"}, False),
        ({"type": "Spot", "discriminator": "square"}, False),
    ],
)
def test_it_tells_payloads_of_any_kind(
    shape: Any, is_fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HANDLERS, "Draw", draw)
    document = openapi_document()
    schemathesis.openapi.from_dict(document).validate()
    task = {"type": "Draw", "send_ts": "2030-01-31T12:00:00Z", "payload": {"shapes": [shape]}}
    new_task = validator(document, {"$ref": "#/components/schemas/NewTask"})
    assert new_task.is_valid(task) is is_fine
    assert "$defs" not in json.dumps(document)


def test_each_operation_declares_what_can_happen(document: Any) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters" or path in ("/health", "/openapi.json"):
                continue
            assert {"500", "503"} <= set(operation["responses"]), (path, method)


def test_it_tells_who_may_make_each_call(document: Any) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            scope = needed_scope(method.upper(), path)
            assert operation["security"] == ([] if scope is None else [{"key": [scope]}, {}])
            assert ({"401", "403"} <= set(operation["responses"])) is (scope is not None)
            creates = operation["operationId"] in ("createTask", "createTasks")
            assert ("429" in operation["responses"]) is creates


@pytest.mark.wall_clock
@pytest.mark.parametrize("settings", [ApiSettings(), keyed()], ids=["open", "with keys"])
def test_schemathesis_finds_nothing(
    tmp_path: Path, settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All phases; tests/schemathesis.toml has what a schema cannot say, with the reasons."""
    monkeypatch.setattr(entry, "api_settings", lambda: settings)
    with served() as port:
        answer = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "--config-file",
                str(ROOT / "tests" / "schemathesis.toml"),
                "run",
                f"http://127.0.0.1:{port}/openapi.json",
                "--max-examples=50",
                "--workers=1",
                "--no-color",
                *(["-H", f"Authorization: Bearer {WRITE}"] if settings.keys else []),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in answer.stdout
    assert "Selected: 11/11" in answer.stdout  # It leaves out the document itself.


def test_the_text_is_kept_as_data() -> None:
    kept = json.loads((ROOT / "chalicelib" / "api" / "openapi.json").read_text(encoding="utf-8"))
    assert list(kept) == ["openapi", "info", "servers", "tags", "paths", "components"]


def test_the_page_for_people_names_all_that_it_names(document: Any) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    schemas = document["components"]["schemas"]
    words = [*document["paths"], *schemas["Error"]["properties"]["Type"]["enum"]]
    words += schemas["Explanation"]["properties"]["reason"]["enum"]
    words += schemas["Attempt"]["properties"]["outcome"]["enum"]
    assert [word for word in words if word not in page] == []
