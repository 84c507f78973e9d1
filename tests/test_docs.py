"""What the documentation names is there: pages, anchors, files, tests, commands, calls, log lines.

The checkers take texts, so that a planted fault can show that they find one.
"""

import ast
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping

import pytest

import app as entry
from chalicelib.api.page import FILES
from local.settings import ROOT
from tests.support.pages import Pages, anchors, code, curls, pages, prose

README_LINES_MAX = 200
MADE = frozenset({"out/sam.json", "out/deployment.zip"})
"""Named, and made by a command that is shown."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FILE = r"(?:[\w.-]+/)*[\w-][\w.-]*\.(?:gz|json|md|py|sh|svg|toml|txt|yaml)"
FOLDER = r"(?:[\w.-]+/)+"
NAMED = re.compile(rf"(?<![\w./:$-])({FILE}|{FOLDER})(?![\w/<{{*])")
ACTION = re.compile(r'(?:"action": |action=|_about\(\w+, )"(\w+)"')


def broken_links(pages: Pages, paths: Collection[str]) -> list[str]:
    """Links within the project that lead nowhere. paths: all files."""
    found = []
    for page, text in pages.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
            if link.startswith(("http://", "https://")):
                continue
            path, _, anchor = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            target = target if path else page
            is_there = target in paths and (not anchor or anchor in anchors(pages[target]))
            found += [] if is_there else [f"{page}: {link}"]
    return found


def missing_files(pages: Pages, paths: Collection[str]) -> list[str]:
    """Files and folders that stand in code: from the project's folder, or from chalicelib/."""
    known = {*paths, *MADE, *(f"{folder}/" for path in paths for folder in folders_of(path))}
    return [
        f"{page}: {name}"
        for page, text in pages.items()
        for part in code(text)
        for name in NAMED.findall(part)
        if not {name, f"chalicelib/{name}"} & known
    ]


def folders_of(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def missing_tests(pages: Pages, tests: Collection[str]) -> list[str]:
    """Test functions; a name may end in an ellipsis."""
    return [
        f"{page}: {name}"
        for page, text in pages.items()
        for name in re.findall(r"`(test_\w+…?)`", text)
        if not any(re.fullmatch(name.replace("…", r"\w*"), test) for test in tests)
    ]


def missing_commands(pages: Pages, targets: Collection[str], paths: Collection[str]) -> list[str]:
    """`make` targets, and modules that `python -m` runs."""
    found = []
    for page, text in pages.items():
        for part in code(text):
            names = re.findall(r"(?<!install )\bmake ([a-z][a-z-]*)", part)
            found += [f"{page}: make {name}" for name in names if name not in targets]
            modules = set(re.findall(r"\bpython -m (\w+)", part)) - {"pytest"}
            missing = [one for one in modules if f"{one}/__main__.py" not in paths]
            found += [f"{page}: python -m {name}" for name in missing]
    return found


def calls(text: str) -> set[tuple[str, str]]:
    """Method and path of each curl command, with {id} for an id."""
    found = set()
    for words in curls(text):
        url = next(word for word in words if word.startswith(("http://", "$URL")))
        path = re.sub(r"^(http://[^/]+|\$URL)|\?.*$", "", url)
        method = "POST" if "-d" in words else "GET"
        method = words[words.index("-X") + 1] if "-X" in words else method
        found.add((method, UUID.sub("{id}", path)))
    return found


def unknown_calls(pages: Pages, routes: Collection[tuple[str, str]]) -> list[str]:
    return [
        f"{page}: {method} {path}"
        for page, text in pages.items()
        for method, path in sorted(calls(text) - set(routes))
    ]


def untold_actions(sources: Mapping[str, str], page: str) -> list[str]:
    """Log lines that the page does not explain."""
    return [
        f"{source}: {action}"
        for source, text in sources.items()
        for action in ACTION.findall(text)
        if f"`{action}`" not in page
    ]


def long_lines(text: str) -> list[str]:
    """Lines of prose; of tables and code the lines may be long."""
    lines = re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    return [line for line in lines if len(line) > 112 and not line.startswith("|")]


# The project as it stands

PAGES = pages()


def project_files() -> set[str]:
    found = set()
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [
            one
            for one in inner
            if one not in ("node_modules", "__pycache__")
            and (not one.startswith(".") or one == ".chalice")
        ]
        found |= {os.path.relpath(os.path.join(folder, name), ROOT) for name in names}
    return found


PATHS = project_files()
ROUTES = {(method, path) for path, views in entry.app.routes.items() for method in views}


def project_tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name for tree in trees for n in ast.walk(tree) if isinstance(n, functions)}


def make_targets() -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    return [word for line in re.findall(r"^([a-z- ]+):", makefile, re.M) for word in line.split()]


def test_every_link_leads_somewhere() -> None:
    assert broken_links(PAGES, PATHS) == []


def test_every_file_that_is_named_is_there() -> None:
    assert missing_files(PAGES, PATHS) == []


def test_every_test_that_is_named_is_there() -> None:
    assert missing_tests(PAGES, project_tests()) == []


def test_every_command_that_is_named_is_there() -> None:
    assert missing_commands(PAGES, make_targets(), PATHS) == []


def test_every_call_that_is_shown_is_one_of_the_api() -> None:
    assert unknown_calls(PAGES, ROUTES) == []


def test_the_readme_shows_every_call() -> None:
    assert calls(PAGES["README.md"]) == {
        (method, path) for method, path in ROUTES if path not in FILES
    }


def test_every_log_line_is_explained() -> None:
    paths = [path for path in PATHS if re.match(r"(chalicelib|worker)/.*\.py$", path)]
    sources = {path: (ROOT / path).read_text() for path in paths}
    assert sum(len(ACTION.findall(text)) for text in sources.values()) > 20
    assert untold_actions(sources, PAGES["docs/operations.md"]) == []


def test_the_readme_is_short_and_all_prose_is_narrow() -> None:
    assert PAGES["README.md"].count("\n") < README_LINES_MAX
    assert {page: long_lines(text) for page, text in PAGES.items() if long_lines(text)} == {}


# Planted faults

PLANTED: Pages = {
    "README.md": "# A `b` c!\n[x](docs/a.md#d-e) [y](#a-b-c)\n`app.py` `task.py` `docs/`\n",
    "docs/a.md": "# D: e\n[x](../README.md) [y](https://example.org/z.py)\n```\nmake run\n```\n",
}
THERE = {"README.md", "docs/a.md", "app.py", "chalicelib/task.py", "local/__main__.py"}


def planted(text: str) -> Pages:
    return {**PLANTED, "docs/b.md": text}


def test_what_is_there_is_left_alone() -> None:
    assert broken_links(PLANTED, THERE) == []
    assert missing_files(PLANTED, THERE) == []
    assert missing_commands(PLANTED, ["run"], THERE) == []


@pytest.mark.parametrize("link", ["c.md", "#d-e", "a.md#d", "../docs/a.md#a-b-c", "/docs/a.md"])
def test_a_broken_link_is_found(link: str) -> None:
    assert broken_links(planted(f"[z]({link})"), THERE) == [f"docs/b.md: {link}"]


@pytest.mark.parametrize("name", ["worker/", "local/main.py", "api/task.py", "service.py", "a.md"])
def test_a_file_that_is_not_there_is_found(name: str) -> None:
    assert missing_files(planted(f"see `{name}`"), THERE) == [f"docs/b.md: {name}"]
    assert missing_files(planted(f"```\n$ cat {name}\n```\n"), THERE) == [f"docs/b.md: {name}"]


def test_a_test_that_is_not_there_is_found() -> None:
    text = "`test_one` `test_t…` `test_two` `test_f…`"
    found = missing_tests(planted(text), ["test_one", "test_two_and_three"])
    assert found == ["docs/b.md: test_two", "docs/b.md: test_f…"]


def test_a_command_that_is_not_there_is_found() -> None:
    text = "make sense: `make runs`, `A=1 make run`, `python -m local x`, `python -m locals`"
    found = missing_commands(planted(text), ["run"], THERE)
    assert found == ["docs/b.md: make runs", "docs/b.md: python -m locals"]


def test_a_call_that_is_not_there_is_found() -> None:
    text = """```
$ curl -i $URL/task -H 'A: b' \\
    -d '{"a":
 1}'
{"b": 2}
$ curl -X PUT http://h:1/task/0acb19f8-cfda-4317-8e21-88fb011d98f6/x
$ curl 'http://h:1/tusk?a=b'
```"""
    found = unknown_calls(planted(text), [("POST", "/task")])
    assert found == ["docs/b.md: GET /tusk", "docs/b.md: PUT /task/{id}/x"]


def test_a_log_line_that_is_not_explained_is_found() -> None:
    sources = {"a.py": 'extra={"action": "one"}', "b.py": '_about(task, "two")'}
    assert untold_actions(sources, "`one`, two") == ["b.py: two"]


def test_a_long_line_is_found() -> None:
    wide = "x " * 57
    assert long_lines(f"{wide}\n| {wide} |\n```\n{wide}\n```\nx\n") == [wide]
