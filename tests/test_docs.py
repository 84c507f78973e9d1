"""What the documentation shows is what works."""

import re
from collections.abc import Iterator

import pytest

from chalicelib.task_types import registry as handlers
from local.settings import ROOT
from tests.support.local_server import served

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The code of this language, each block under the page and line where it stands."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{page.relative_to(ROOT)}:{line}", found[1]


PYTHON = dict(blocks("python"))
HANDLERS = {place: code for place, code in PYTHON.items() if code.startswith("@handles")}
PROGRAMS = {place: code for place, code in PYTHON.items() if place not in HANDLERS}


def test_there_is_something_to_try() -> None:
    assert len(HANDLERS) >= 2
    assert len(PROGRAMS) >= 1


@pytest.mark.parametrize("place", HANDLERS)
def test_a_handler_can_be_put_into_handlers(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "HANDLERS", {})
    exec(compile(HANDLERS[place], place, "exec"), dict(vars(handlers)))
    assert len(handlers.HANDLERS) == 1


@pytest.mark.parametrize("place", PROGRAMS)
def test_a_program_runs_as_it_stands(place: str) -> None:
    with served() as port:
        code = PROGRAMS[place].replace("http://127.0.0.1:8000", f"http://127.0.0.1:{port}")
        exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_every_package_command_names_its_region_and_its_folder() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for found in re.finditer(r"^.*chalice package +--.*$", text, re.MULTILINE):
            assert found[0].strip().startswith("AWS_DEFAULT_REGION="), page
            assert re.search(r" \w+$", found[0]), page
