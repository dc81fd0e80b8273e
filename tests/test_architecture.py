"""Levels and purity of the rooms, read off the source: who imports whom, and what pure modules must not touch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "ingestd"

#: Rooms from the ground up; a module imports its own level and those below.
LEVELS = (
    ("ingestd", "errors", "disk", "faults"),
    ("formats",),
    ("config", "logs", "curve"),
    ("spool",),
    ("storage",),
    ("catalog",),
    ("client",),
    ("node",),
    ("roles", "tasks"),
    ("testing",),
    ("cli", "__main__"),
)
LEVEL_OF = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}

#: What a pure module must not import: time and randomness are arguments, and I/O is somebody else's.
IMPURE = {
    "os", "time", "socket", "zmq", "minio", "sqlite3", "pathlib", "random", "secrets", "structlog", "threading",
    "subprocess", "urllib3", "select", "signal", "tempfile", "shutil", "datetime",
}  # fmt: skip
PURE = sorted([*(ROOT / "formats").glob("*.py"), ROOT / "roles" / "lifecycle.py", ROOT / "errors.py"])

#: The one module that knows every role.
COMPOSITION_ROOT = "roles/daemon.py"

#: Libraries whose exceptions and types stay inside the named rooms.
HOMES = {
    "sqlite3": {"catalog"},
    "minio": {"storage", "testing"},  # a rival of the benchmark is the SDK's own `put_object`
    "urllib3": {"storage"},
    "zmq": {"roles", "client", "node", "testing", "curve"},
    "prometheus_client": {"roles"},
    "typer": {"cli"},
    "yaml": {"config", "testing"},
}


def modules():
    return sorted(ROOT.rglob("*.py"))


def room_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "ingestd" if parts[0] == "__init__" else parts[0]


def only_for_types(tree):
    """Nodes that no run ever reaches."""
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))
    return {id(inner) for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(path, *, at_runtime_only=True):
    """Top-level names of foreign imports and dotted names of our own, with the line."""
    tree = ast.parse(path.read_text())
    skipped = only_for_types(tree) if at_runtime_only else set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno
            if node.module == "ingestd":
                for alias in node.names:
                    yield f"ingestd.{alias.name}", node.lineno


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_its_own_level_and_those_below(path):
    level = LEVEL_OF[room_of(path)]
    for name, line in imports(path):
        if name.startswith("ingestd."):
            target = name.split(".")[1]
            if target in LEVEL_OF:
                assert LEVEL_OF[target] <= level, f"{path}:{line}: {name} is above"


@pytest.mark.parametrize("path", PURE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_pure_module_touches_no_clock_no_disk_and_no_network(path):
    for name, line in imports(path):
        assert name.split(".")[0] not in IMPURE, f"{path}:{line}: {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path):
    for name, line in imports(path, at_runtime_only=False):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or room_of(path) in homes, f"{path}:{line}: {name} belongs to {sorted(homes)}"


def test_there_are_no_import_cycles():
    graph = {}
    for path in modules():
        dotted = ".".join(("ingestd", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        graph[dotted] = {name for name, _ in top_level_imports(path) if name.startswith("ingestd")}
    done, path_now = set(), []

    def visit(name):
        assert name not in path_now, f"cycle: {' -> '.join([*path_now[path_now.index(name) :], name])}"
        if name in done or name not in graph:
            return
        path_now.append(name)
        for other in sorted(graph[name]):
            if other != name and not (name.startswith(f"{other}.") or other == "ingestd"):
                visit(other)
        path_now.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def top_level_imports(path):
    """Imports that run when the module is loaded."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_only_the_composition_root_knows_the_supervisor_and_the_children():
    knows_both = [
        str(path.relative_to(ROOT))
        for path in modules()
        if {"ingestd.roles.supervisor", "ingestd.roles.child"}
        <= {name for name, _ in imports(path)} | {f"{module}.{alias}" for module, alias in from_names(path)}
    ]
    assert knows_both == [COMPOSITION_ROOT]


def from_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is_and_what_it_offers(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = [element.value for element in node.value.elts]
            assert names == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)), (
                f"{path}: __all__"
            )
            return
    assert path.name in {"__init__.py", "__main__.py"}, f"{path} has no __all__"


def test_no_module_is_one_a_newcomer_gets_lost_in():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert max(lengths.values()) <= 550, max(lengths, key=lengths.get)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_swallowed(path):
    """No bare except, and no `except Exception: pass`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"
            broad = getattr(node.type, "id", "") in {"Exception", "BaseException"}
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not (broad and silent), f"{path}:{node.lineno}: swallows everything"
