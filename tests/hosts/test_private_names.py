"""One file lists ComfyUI's private names, and a missing one gives a one-sentence error."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "mcti_core" / "hosts" / "comfy", ROOT / "nodes")
TABLE = FOLDERS[0] / "private_names.py"
PROMISED = ("comfy_api",)
"""The documented node API."""


def table():
    found = {}
    for statement in ast.parse(TABLE.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                continue
    return found


def used(path):
    """(module, name) of everything that a file takes from ComfyUI's modules."""
    tree, modules = ast.parse(path.read_text(encoding="utf-8")), table()["MODULES"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in modules:
            yield from ((node.module, name.name) for name in node.names)
        dotted = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        module, _, name = dotted.rpartition(".")
        of_another = module.startswith("comfy.") and not any(other.startswith(module) for other in modules)
        if module in modules or (of_another and name[:1].isupper()):
            yield module, name


@pytest.mark.parametrize(
    "path", [p for f in FOLDERS for p in sorted(f.glob("*.py"))], ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_private_names_table_holds_every_name_that_is_used(path):
    modules = table()["MODULES"]
    missing = {f"{m}.{n}" for m, n in used(path) if n not in modules.get(m, ())}
    assert not missing, f"add {', '.join(sorted(missing))} to {TABLE.name}"


def test_private_names_table_holds_nothing_that_is_not_used():
    everything = {pair for folder in FOLDERS for path in folder.glob("*.py") for pair in used(path)}
    listed = {(module, name) for module, names in table()["MODULES"].items() for name in names}
    assert listed <= everything


@pytest.mark.host
def test_private_names_absent_end_in_a_sentence_with_versions(in_comfyui):
    said = in_comfyui("private_names_in_comfyui.py")
    for name, sentence in said["missing"].items():
        assert name in sentence
        assert said["version"] in sentence
        assert "0.3.64 to 0.33.0" in sentence
    assert said["all there"] == ""
    assert "--disable-dynamic-vram" in said["dynamic"]
