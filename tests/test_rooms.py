"""The rooms of the house: what each may import, and how large its files are.

The checkers take sources, so that a planted breach can show that they find one.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from local.settings import ROOT

FOLDERS = ("bench", "chalicelib", "client", "deploy", "local", "worker")
OURS = frozenset({*FOLDERS, "app", "tests"})

LINES_MAX = {"file": 350, "class": 200, "function": 30}

KINDS: Mapping[type, str] = {
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
}

GROUND = "chalicelib"
STORE = "chalicelib.store"
ALTERNATOR = "chalicelib.store.alternator"
WIRE = "chalicelib.store.alternator.wire"
TASK_TYPES = "chalicelib.task_types"
PROCESSING = "chalicelib.processing"
TICK = "chalicelib.processing.tick"
API = "chalicelib.api"
WAKEUPS = "chalicelib.wakeups"
STORE_SEEN = {
    "chalicelib.store.contract", "chalicelib.store.ownership", "chalicelib.store.clock",
    "chalicelib.store.cost",
}  # fmt: skip
"""What the rooms above see of the store."""

MAY_IMPORT: Mapping[str, frozenset[str]] = {
    GROUND: frozenset({GROUND}),
    STORE: frozenset({GROUND, STORE}),
    ALTERNATOR: frozenset({GROUND, STORE, ALTERNATOR, WIRE}),
    WIRE: frozenset({
        GROUND, WIRE, "chalicelib.store.contract", "chalicelib.store.clock",
        "chalicelib.store.cost",
        "chalicelib.store.alternator.requests", "chalicelib.store.alternator.outcome",
    }),
    TASK_TYPES: frozenset({GROUND, TASK_TYPES}),
    WAKEUPS: frozenset({GROUND, WAKEUPS, *STORE_SEEN}),
    PROCESSING: frozenset({GROUND, PROCESSING, TICK, TASK_TYPES, WAKEUPS, *STORE_SEEN}),
    TICK: frozenset({GROUND, PROCESSING, TASK_TYPES, *STORE_SEEN, ALTERNATOR}),
    API: frozenset({GROUND, API, TASK_TYPES, WAKEUPS, *STORE_SEEN}),
}  # fmt: skip
"""Rooms, and single files of rooms. A file belongs to the narrowest room that holds it."""

Sources = Mapping[str, str]
"""Text by the name of the module; of a package, its `__init__`."""


def forbidden_imports(sources: Sources) -> list[str]:
    """Each import that the table does not allow, also one inside a function."""
    return [
        f"{module} imports {target}"
        for module, text in sources.items()
        for target in imports(module, ast.walk(ast.parse(text)), sources)
        if not {target, room_of(target)} & MAY_IMPORT[room_of(module)]
    ]


def circle(sources: Sources) -> list[str]:
    """Modules that import each other in a ring when they are loaded; empty if there is none."""
    graph = {
        module: set(imports(module, loaded(ast.parse(text)), sources)) - {module}
        for module, text in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def too_large(sources: Sources) -> list[str]:
    """Files, classes and functions above their limit."""
    found = []
    for module, text in sources.items():
        sizes = [("file", module, text.count("\n"))]
        sizes += [
            (KINDS[type(node)], f"{module}.{node.name}", (node.end_lineno or 0) - node.lineno + 1)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        found += [
            f"{kind} {name}: {lines} lines, at most {LINES_MAX[kind]}"
            for kind, name, lines in sizes
            if lines > LINES_MAX[kind]
        ]
    return found


def without_docstring(sources: Sources) -> list[str]:
    return [module for module, text in sources.items() if not ast.get_docstring(ast.parse(text))]


def room_of(module: str) -> str:
    """The narrowest room; a module that is none of chalicelib's is in none: its own name."""
    while module and module not in MAY_IMPORT:
        module = module.rpartition(".")[0]
    return module


def imports(module: str, nodes: Iterator[ast.AST], known: Sources) -> Iterator[str]:
    """The modules of this project that some statements import, by full name."""
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in full]
        yield from (name for name in names if name.partition(".")[0] in OURS)


def loaded(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from loaded(node)


def read(*folders: str) -> dict[str, str]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {".".join(parts[path]).removesuffix(".__init__"): path.read_text() for path in paths}


# The house as it stands


def test_no_room_imports_what_it_may_not() -> None:
    assert forbidden_imports(read("chalicelib")) == []


def test_no_files_import_each_other_in_a_ring() -> None:
    assert circle(read("chalicelib")) == []


def test_nothing_is_too_large() -> None:
    found = too_large({**read(*FOLDERS), "app": (ROOT / "app.py").read_text()})
    assert found == []


def test_every_package_says_what_it_is() -> None:
    packages = {p.parent.name: p.read_text() for p in ROOT.glob("*/__init__.py")}
    packages.pop("tests")
    rooms = {str(p.parent): p.read_text() for p in (ROOT / "chalicelib").rglob("__init__.py")}
    assert without_docstring(packages | rooms) == []


def test_every_file_is_seen() -> None:
    sources = read("chalicelib")
    assert {GROUND, STORE, WIRE, "chalicelib.clock", TICK} <= sources.keys()
    assert {room_of(module) for module in sources} == set(MAY_IMPORT)


# Planted breaches


@pytest.mark.parametrize(
    ("module", "text", "target"),
    [
        ("chalicelib.clock", "from chalicelib.store import contract", "chalicelib.store.contract"),
        ("chalicelib.clock", "import worker.child", "worker.child"),
        ("chalicelib.store.memory", "import chalicelib.api", "chalicelib.api"),
        ("chalicelib.store.memory", f"from {ALTERNATOR} import queue", ALTERNATOR),
        ("chalicelib.store.alternator.queue", f"from {TASK_TYPES} import Run", TASK_TYPES),
        ("chalicelib.store.alternator.wire.gate", f"import {ALTERNATOR}.queue", None),
        ("chalicelib.store.alternator.wire.gate", f"import {STORE}.memory", None),
        ("chalicelib.task_types.builtin", f"from {PROCESSING}.fleet import Fleet", None),
        ("chalicelib.processing.processor", f"from {ALTERNATOR}.queue import Q", None),
        ("chalicelib.processing.tick", f"import {STORE}.memory", None),
        ("chalicelib.api.endpoints", f"import {PROCESSING}.fleet", None),
        ("chalicelib.api.endpoints", "def f():\n    import app", "app"),
        ("chalicelib.api", "class A:\n    def f(self):\n        import deploy.cql", "deploy.cql"),
    ],
)
def test_a_forbidden_import_is_found(module: str, text: str, target: str | None) -> None:
    target = target or text.split()[1]
    sources = {module: text, "chalicelib.store.contract": ""}
    assert forbidden_imports(sources) == [f"{module} imports {target}"]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("chalicelib.log", "import json\nfrom chalicelib.clock import Clock"),
        ("chalicelib.store.alternator.wire.gate", "from chalicelib.store import contract"),
        ("chalicelib.processing.tick", f"def f():\n    from {ALTERNATOR}.queue import Q"),
        ("chalicelib.processing.processor", f"from {PROCESSING} import tick"),
        ("chalicelib.api.endpoints", f"from {TASK_TYPES} import HANDLERS"),
    ],
)
def test_an_allowed_import_is_left_alone(module: str, text: str) -> None:
    known = {"chalicelib.store.contract": "", TICK: "", module: text}
    assert forbidden_imports(known) == []


def test_a_ring_is_found() -> None:
    ring = {
        "chalicelib.a": "if True:\n    from chalicelib import b",
        "chalicelib.b": "class B:\n    import chalicelib.c",
        "chalicelib.c": "from chalicelib.a import x",
    }
    assert set(circle(ring)) == ring.keys()
    ring["chalicelib.c"] = "def f():\n    from chalicelib.a import x"
    assert circle(ring) == [], "it is loaded when the others are"


def test_what_is_too_large_is_found() -> None:
    at_most = "class A:\n" + "    x = 1\n" * 199
    assert too_large({"m": at_most + "\n" * 150}) == []
    assert too_large({"m": at_most + "\n" * 151}) == ["file m: 351 lines, at most 350"]
    assert too_large({"m": at_most + "    y = 1\n"}) == ["class m.A: 201 lines, at most 200"]
    long = "async def f():\n" + "    x = 1\n" * 30
    assert too_large({"m": long}) == ["function m.f: 31 lines, at most 30"]


def test_a_package_without_a_word_is_found() -> None:
    assert without_docstring({"a": '"""What it is."""', "b": "", "c": "x = 1"}) == ["b", "c"]
