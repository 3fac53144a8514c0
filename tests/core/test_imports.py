"""Who may import whom, read from the source: one direction, light to load, and no drawers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "mcti_core").rglob("*.py"))
NODES = sorted((ROOT / "nodes").rglob("*.py"))

MAY_IMPORT = {
    "errors": "",
    "templates": "",
    "atomic": "",
    "escaping": "",
    "names": "errors escaping",
    "limits": "errors",
    "own_files": "atomic errors",
    "marks": "errors own_files",
    "run_lock": "errors own_files",
    "outputs": "errors token_files",
    "batches": "",
    "diffusion": "errors",
    "losses": "errors",
    "metrics": "errors",
    "lettering": "",
    "axes": "lettering",
    "plots": "axes errors lettering",
    "sheets": "errors lettering",
    "tokens": "errors limits names normal_form templates",
    "token_sets": "errors normal_form templates tokens",
    "tensor_files": "errors image_kinds limits",
    "embedding_cards": "errors tensor_files",
    "token_formats": "embedding_cards errors limits tensor_files",
    "modelspec": "",
    "clip_words": "",
    "conversion": "embedding_cards errors normal_form token_files token_formats token_sets tokens",
    "token_set_format": "errors limits tokens",
    "token_files": "embedding_cards errors limits modelspec own_files tensor_files token_formats token_set_format token_sets "
    "tokens",
    "config": "errors limits losses templates tokens",
    "prompts": "errors hosts prompt_syntax tokens",
    "image_tensors": "errors",
    "out_of_memory": "errors",
    "readers": "",
    "image_kinds": "",
    "image_memory": "limits",
    "jpeg_scans": "",
    "image_files": "errors image_kinds image_memory image_opening jpeg_scans limits tiff_claims",
    "example_files": "errors image_files image_kinds marks normal_form tensor_files",
    "examples": "image_files image_tensors errors example_files normal_form tokens",
    "near_copies": "examples",
    "features": "errors examples hosts image_files limits near_copies out_of_memory own_files processes readers tensor_files tokens",
    "micro_batches": "hosts",
    "objective": "config diffusion errors features hosts losses micro_batches prompts tokens",
    "probe": "batches diffusion errors features hosts processes prompts tokens",
    "history": "",
    "processes": "errors",
    "adaptive_gamma": "processes",
    "train_state": "adaptive_gamma batches errors history limits probe",
    "saved_tensors": "errors",
    "training_inputs": "config errors features hosts limits normal_form tokens",
    "training": "adaptive_gamma batches config errors features history hosts losses objective probe "
    "processes prompts saved_tensors templates tokens train_state training_inputs vector_norms",
    "memory": "out_of_memory config errors features hosts processes tokens train_state training",
    "one_by_one": "config features hosts memory tokens training",
    "progress_store": "errors limits own_files tensor_files train_state",
    "keeping": "atomic errors own_files progress_store training",
    "resuming": "errors normal_form progress_store tokens train_state",
    "endings": "",
    "logistic": "",
    "classifiers": "out_of_memory image_tensors diffusion errors features hosts logistic prompts tokens",
    "streams": "classifiers errors example_files",
    "answers": "errors escaping own_files resuming",
    "baselines": "classifiers errors tokens",
    "methods": "",
    "calibration": "classifiers errors hosts methods tokens",
    "sampling": "out_of_memory errors hosts prompts tokens",
    "hosts": "atomic errors escaping normal_form references tokens",
}
"""Module or package of mcti_core -> what else of mcti_core it may import. Those not named are the outer layers."""

OUTER = {"__init__", "__main__", "cli", "commands", "console", "options", "demo", "pocket"}
"""What may import a particular host."""

HEAVY = {"diffusers", "transformers", "accelerate", "tokenizers", "sklearn", "tqdm", "comfy", "comfy_api", "nodes"}
"""Imported where they are used, so that nobody else pays for them."""

HOMES = {
    "comfy": ("hosts/comfy/",),
    "comfy_api": ("hosts/comfy/",),
    "comfy_extras": ("hosts/comfy/",),
    "folder_paths": ("hosts/comfy/",),
    "diffusers": ("hosts/loading.py", "hosts/diffusers.py", "pocket/"),
    "transformers": ("hosts/loading.py", "hosts/clip_model.py", "hosts/diffusers.py", "pocket/"),
    "tokenizers": ("pocket/",),
    "accelerate": ("processes.py",),
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


def _inner(path, *, only_at_start=False):
    """Names below mcti_core that a file imports, as tuples."""
    return {
        names[1:] or ("__init__",)
        for names, at_start in _imports(path)
        if names[0] == "mcti_core" and (at_start or not only_at_start)
    }


def test_the_reader_reads():
    assert ("hosts", "base") in _inner(ROOT / "mcti_core" / "training.py")
    assert ("templates",) in _inner(ROOT / "mcti_core" / "pocket" / "recipe" / "vocabulary.py")
    assert (("diffusers",), False) in _imports(ROOT / "mcti_core" / "hosts" / "loading.py")
    assert ("tokens",) not in _inner(ROOT / "mcti_core" / "errors.py")  # for type checkers only


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_directions(name):
    files = [path for path in FILES if _module(path)[0] == name]
    assert files, f"{name} is gone; take it out of this test"
    allowed = {name, *MAY_IMPORT[name].split()}
    for path in files:
        wrong = {inner[0] for inner in _inner(path)} - allowed
        assert not wrong, f"{_place(path)} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", FILES, ids=_place)
def test_only_the_outer_layers_know_a_particular_host(path):
    if _module(path)[0] in OUTER | {"hosts"}:
        return
    wrong = {inner for inner in _inner(path) if inner[0] == "hosts" and inner[1:] not in (("base",), ())}
    assert not wrong, f"{_place(path)} must ask hosts.base, not {wrong}"


@pytest.mark.parametrize("path", FILES, ids=_place)
def test_foreign_packages_stay_in_their_places(path):
    for names, at_start in _imports(path):
        homes = HOMES.get(names[0])
        assert homes is None or _place(path).startswith(homes or ("nowhere",)), (
            f"{_place(path)} must not import {names[0]}"
        )
        late = _place(path).startswith(("pocket/recipe/", "hosts/comfy/"))
        assert late or not (at_start and names[0] in HEAVY), f"{_place(path)} must import {names[0]} where it is used"


def test_nothing_imports_in_a_circle():
    graph = {_module(path): _inner(path, only_at_start=True) for path in FILES}
    done = set()

    def walk(module, above):
        assert module not in above, " -> ".join(".".join(m) for m in (*above, module))
        if module in graph and module not in done:
            for other in graph[module] - {module}:
                walk(other, (*above, module))
            done.add(module)

    for module in graph:
        walk(module, ())


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
