"""What `chalice package` makes: what Lambda gets, and the error object of API Gateway's answers."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

import app as entry
from chalicelib.api.access import needed_scope
from chalicelib.api.headers import REQUEST_ID_HEADER, SECURITY_HEADERS
from chalicelib.api.responses import TYPE_BY_STATUS
from local.settings import ROOT

MERGED = ROOT / "deploy" / "gateway_responses.json"
RESPONSES: dict[str, Any] = json.loads(MERGED.read_text(encoding="utf-8"))["Resources"]["RestAPI"][
    "Properties"
]["GatewayResponses"]
OF_GATEWAY = {
    "ACCESS_DENIED", "API_CONFIGURATION_ERROR", "AUTHORIZER_CONFIGURATION_ERROR",
    "AUTHORIZER_FAILURE", "BAD_REQUEST_BODY", "BAD_REQUEST_PARAMETERS", "DEFAULT_4XX",
    "DEFAULT_5XX", "EXPIRED_TOKEN", "INTEGRATION_FAILURE", "INTEGRATION_TIMEOUT",
    "INVALID_API_KEY", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN", "QUOTA_EXCEEDED",
    "REQUEST_TOO_LARGE", "RESOURCE_NOT_FOUND", "THROTTLED", "UNAUTHORIZED",
    "UNSUPPORTED_MEDIA_TYPE", "WAF_FILTERED",
}  # fmt: skip
"""All that API Gateway answers by itself."""


def test_every_answer_of_the_gateway_is_described() -> None:
    assert set(RESPONSES) == OF_GATEWAY


@pytest.mark.parametrize("name", sorted(RESPONSES))
def test_an_answer_of_the_gateway_is_our_error_object(name: str) -> None:
    response = RESPONSES[name]
    assert list(response["ResponseTemplates"]) == ["application/json"]
    text = response["ResponseTemplates"]["application/json"]
    assert "$" not in text, "what a client sent is not put into JSON unescaped"
    error = json.loads(text)
    assert list(error) == ["Code", "Message", "Type", "Details"]
    assert error["Code"] == int(response["StatusCode"])
    status = HTTPStatus(error["Code"])
    assert error["Type"] == TYPE_BY_STATUS.get(status, "InternalError")
    asks_to_wait = error["Code"] in (429, 504)
    headers = response["ResponseParameters"]["Headers"]
    of_all = {name: f"'{value}'" for name, value in SECURITY_HEADERS.items() if "'" not in value}
    of_all[REQUEST_ID_HEADER] = "context.requestId"
    assert headers == of_all | ({"Retry-After": "'1'"} if asks_to_wait else {})


def documented_command() -> str:
    """What README.md tells to call, for a shell."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if "bin/chalice package" in line)
    chalice = Path(sys.executable).with_name("chalice")
    return line.strip().replace(".venv/bin/chalice", shlex.quote(str(chalice)))


def package(tmp_path: Path, environment: dict[str, str]) -> Path:
    """Where the documented command puts what it makes. environment: of the stage.

    Requirements are left out: to fetch them needs a package index.
    """
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(ROOT / "app.py", project)
    for folder in ("chalicelib", "local"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, project / folder, ignore=skipped)
    (project / ".chalice").mkdir()
    config = json.loads((ROOT / ".chalice" / "config.json").read_text())
    config["stages"]["prod"] = {"environment_variables": environment} if environment else {}
    (project / ".chalice" / "config.json").write_text(json.dumps(config))
    (project / "deploy").mkdir()
    shutil.copy(MERGED, project / "deploy")
    (project / "requirements.txt").write_text("")
    answer = subprocess.run(
        ["sh", "-c", documented_command()],
        cwd=project,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return project / "out"


def rest_api(out: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((out / "sam.json").read_text())["Resources"]["RestAPI"]
    return made


@pytest.mark.wall_clock
def test_a_package_holds_them_and_no_more_than_the_service(tmp_path: Path) -> None:
    out = package(tmp_path, {})
    with zipfile.ZipFile(out / "deployment.zip") as zipped:
        ours = {name.split("/")[0] for name in zipped.namelist()}
        assert ours == {"app.py", "chalicelib", "chalice"}
        data = {"api/openapi.json", "page/page.css", "page/page.html", "page/page.js"}
        assert {f"chalicelib/{name}" for name in data} <= set(zipped.namelist())
    api = rest_api(out)
    assert api["Type"] == "AWS::Serverless::Api"
    assert api["Properties"]["GatewayResponses"] == RESPONSES
    packaged = api["Properties"]["DefinitionBody"]["paths"]
    assert {path: {method.upper() for method in item} for path, item in packaged.items()} == {
        path: set(methods) for path, methods in entry.app.routes.items()
    }
    assert "security" not in json.dumps(packaged)


@pytest.mark.wall_clock
def test_api_gateway_asks_by_iam_and_passes_preflights_on_where_that_is_set(tmp_path: Path) -> None:
    environment = {"API_AUTH": "iam", "CORS_ORIGINS": "https://app.example.org"}
    definition = rest_api(package(tmp_path, environment))["Properties"]["DefinitionBody"]
    assert definition["securityDefinitions"]["sigv4"]["x-amazon-apigateway-authtype"] == "awsSigv4"
    for path, item in definition["paths"].items():
        assert set(item) == {"options", *(method.lower() for method in entry.app.routes[path])}
        for method, operation in item.items():
            integration = operation["x-amazon-apigateway-integration"]
            assert integration["type"] == "aws_proxy"
            asks = needed_scope(method.upper(), path) is not None
            assert operation.get("security") == ([{"sigv4": []}] if asks else None)
