"""Rules that import-linter cannot state: a light import, and no catch-all modules. Layers, and the places where other packages are imported, are in pyproject.toml."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import mcti_core

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "mcti_core").rglob("*.py"))
NODES = sorted((ROOT / "nodes").rglob("*.py"))

HEAVY = {
    "diffusers",
    "transformers",
    "accelerate",
    "tokenizers",
    "scipy",
    "sklearn",
    "tqdm",
    "comfy",
    "comfy_api",
    "nodes",
}
"""Imported where they are used, so that nobody else pays for them."""


def _place(path):
    return path.relative_to(ROOT / "mcti_core").as_posix()


def _module(path):
    """``mcti_core/hosts/base.py`` -> ("hosts", "base"); a package's ``__init__`` stands for the package."""
    parts = path.relative_to(ROOT / "mcti_core").with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def test_no_drawers():
    drawers = {"utils", "util", "common", "helpers", "misc", "shared"}
    assert not [path for path in (*FILES, *NODES) if path.stem in drawers or path.parent.name in drawers]


def test_nodes_need_nothing_but_the_library_and_what_comfyui_brings():
    brought = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "torch", "numpy", "PIL"}
    assert NODES
    for path in NODES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong = {name.split(".")[0] for name in names} - brought - sys.stdlib_module_names
            assert not wrong, f"nodes/{path.name} must leave {wrong} to mcti_core"


def test_nothing_imports_the_nodes_but_the_pack_itself():
    inside = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.ImportFrom) and node.module == "nodes" and node.level for node in ast.walk(inside))


def test_importing_the_library_loads_nothing_heavy():
    names = [
        ".".join(("mcti_core", *_module(path)))
        for path in FILES
        if not _place(path).startswith(("pocket/recipe/", "hosts/comfy/")) and path.stem not in ("__init__", "__main__")
    ]
    code = (
        "import sys, importlib, torch\n"
        "before = set(sys.modules)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(*((set(sys.modules) - before) & {HEAVY!r}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert shown.stdout.split() == []


def test_type_checkers_and_python_find_the_same_public_names():
    source = Path(mcti_core.__file__).read_text(encoding="utf-8")
    listed = re.findall(r"from \.(\S+) import (\w+) as \2\n", source)
    assert {name: module for module, name in listed} == mcti_core._MODULES
