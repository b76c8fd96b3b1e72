"""The rules of the tree that no linter knows: layers, sizes, names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ["core", "net", "fs", "cli"]
IMPURE = {"trio", "socket", "ssl", "os", "time", "random", "lmdb", "subprocess"}
BANNED = {"utils", "helpers", "common", "manager", "misc"}
LASTING = {
    "client/client.py", "gate/fuse.py", "gate/kernel/mount.py", "meta/host.py", "meta/led.py",
    "meta/service.py", "root/job_runner.py", "root/led.py", "root/members.py", "root/office.py",
    "store/scrubber.py", "store/service.py",
}  # fmt: skip
"""Modules with nurseries for what runs until it is cancelled: see `cfs.net.tasks`."""
MODULES = sorted((ROOT / "cfs").rglob("*.py"))


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_point_one_way_only(path):
    parts = path.relative_to(ROOT / "cfs").parts
    if parts[0] not in LAYERS:
        return
    rank = LAYERS.index(parts[0])
    for name in imports_of(path):
        words = name.split(".")
        if words[0] == "cfs" and len(words) > 1 and words[1] in LAYERS:
            assert LAYERS.index(words[1]) <= rank, f"{parts[0]} imports {name}"
        if parts[0] == "core":
            assert words[0] not in IMPURE, f"core imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_are_short_described_and_well_named(path):
    text = path.read_text()
    assert text.count("\n") < 400, "a module has under 400 lines"
    assert path.stem not in BANNED
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it decides"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 75, f"{node.name} is too long"


def test_tasks_of_one_operation_fail_as_one():
    bare = {ids(p) for p in MODULES if "trio.open_nursery(" in p.read_text()}
    assert {p.removeprefix("cfs/fs/") for p in bare if p.startswith("cfs/fs/")} == LASTING


def test_no_machine_path_or_secret_is_committed():
    for path in [*MODULES, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]:
        text = path.read_text()
        assert "/work/" not in text, path
        assert "BEGIN EC PRIVATE KEY" not in text, path
