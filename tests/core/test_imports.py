"""What import-linter cannot state: foreign packages in their places, light to load, and no drawers. The layers are in pyproject.toml."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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

HOMES = {
    "comfy": ("hosts/comfy/",),
    "comfy_api": ("hosts/comfy/",),
    "comfy_extras": ("hosts/comfy/",),
    "folder_paths": ("hosts/comfy/",),
    "diffusers": ("hosts/diffusers/", "pocket/"),
    "transformers": ("hosts/diffusers/", "pocket/"),
    "tokenizers": ("pocket/",),
    "accelerate": ("distributed.py",),
    "nodes": (),
}
"""Package -> the only places in mcti_core that may import it."""


def _place(path):
    return path.relative_to(ROOT / "mcti_core").as_posix()


def _module(path):
    """``mcti_core/hosts/base.py`` -> ("hosts", "base"); a package's ``__init__`` stands for the package."""
    parts = path.relative_to(ROOT / "mcti_core").with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def _imports(path):
    """(names, at start) of every import but those for type checkers: ("mcti_core", "hosts", "base"), or ("torch", ...)."""
    found = []

    def visit(node, at_start):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((tuple(alias.name.split(".")), at_start) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = ("mcti_core", *path.relative_to(ROOT / "mcti_core").parts[:-1]) if node.level else ()
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            names = tuple(node.module.split(".")) if node.module else ()
            # ``from . import x`` may name a module; ``from .x import y`` names x
            found.extend(((*base, *(names or (alias.name,))), at_start) for alias in node.names)
        inside = at_start and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def test_imports_are_found_with_their_place():
    loading = _imports(ROOT / "mcti_core" / "hosts" / "diffusers" / "loading.py")
    assert (("mcti_core", "errors"), True) in loading
    assert (("diffusers",), False) in loading
    assert (("accelerate",), False) in _imports(ROOT / "mcti_core" / "distributed.py")


@pytest.mark.parametrize("path", FILES, ids=_place)
def test_foreign_packages_stay_in_their_places(path):
    for names, at_start in _imports(path):
        homes = HOMES.get(names[0])
        assert homes is None or _place(path).startswith(homes or ("nowhere",)), (
            f"{_place(path)} must not import {names[0]}"
        )
        late = _place(path).startswith(("pocket/recipe/", "hosts/comfy/"))
        assert late or not (at_start and names[0] in HEAVY), f"{_place(path)} must import {names[0]} where it is used"


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
    assert not [path for path in FILES if any("nodes" in names for names, _ in _imports(path))]


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
