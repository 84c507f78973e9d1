"""The Python and the commands that the documentation shows are what works."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chalicelib.task_types import registry
from local.settings import ROOT
from tests.support.local_server import served
from tests.support.pages import blocks, pages

PYTHON = dict(blocks("python"))
FILES = {place: code for place, code in PYTHON.items() if "import Run, handles" in code}
HANDLERS = {place: code for place, code in PYTHON.items() if code.startswith("@handles")}
PROGRAMS = {place: code for place, code in PYTHON.items() if place not in FILES | HANDLERS}

RUN_QUX = """
import asyncio
from random import Random
from chalicelib.task import Task
from chalicelib.task_types import HANDLERS, Run
task = Task.new(id="7", type="Qux", send_ts_ms=0, now_ms=0, token="t")
print(*HANDLERS)
print(asyncio.run(HANDLERS["Qux"](Run(task=task, rng=Random(1)), name="Ann")))
"""


def test_there_is_something_to_try() -> None:
    assert [len(FILES), len(HANDLERS), len(PROGRAMS)] == [1, 1, 1]


def test_a_new_file_is_all_that_a_new_task_type_needs(tmp_path: Path) -> None:
    ((place, text),) = FILES.items()
    assert place.startswith("README.md")
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "chalicelib", tmp_path / "chalicelib", ignore=skipped)
    (tmp_path / "chalicelib" / "task_types" / "qux.py").write_text(text)
    command = [sys.executable, "-c", RUN_QUX]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == ["Foo Bar Baz Qux", "Qux 7: hello, Ann"]


@pytest.mark.parametrize("place", HANDLERS)
def test_a_handler_can_be_registered(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HANDLERS", {})
    exec(compile(HANDLERS[place], place, "exec"), dict(vars(registry)))
    assert len(registry.HANDLERS) == 1


@pytest.mark.parametrize("place", PROGRAMS)
def test_a_program_runs_as_it_stands(place: str) -> None:
    with served() as port:
        code = PROGRAMS[place].replace("http://127.0.0.1:8000", f"http://127.0.0.1:{port}")
        exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_every_package_command_names_its_region_and_its_folder() -> None:
    for page, text in pages().items():
        for found in re.finditer(r"^.*chalice package +--.*$", text.replace("\\\n", " "), re.M):
            assert found[0].strip().startswith("AWS_DEFAULT_REGION="), page
            assert re.search(r" \w+$", found[0]), page
