"""The nodes' schemas, without a running ComfyUI."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Port:
    """An input or an output."""

    id: str
    name: str
    """As the page shows it."""
    default: Any = None
    """None where there is none."""


@dataclass(frozen=True)
class Node:
    id: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class _Port:
    """An input or an output of the node API, with what a schema gives it."""

    def __init__(self, id: str, **fields: Any):
        self.id, self.default, self.extra_dict = id, fields.get("default"), {}


class _NodeApi(ModuleType):
    """``comfy_api.latest.io`` as far as schemas use it."""

    ComfyNode = object
    Schema = staticmethod(lambda search_aliases=(), **fields: SimpleNamespace(**fields))

    def Custom(self, name: str) -> Any:  # noqa: N802 - the node API's name
        return SimpleNamespace(Input=_Port, Output=_Port)

    def __getattr__(self, name: str) -> Any:
        return self.Custom(name)


@cache
def node_schemas() -> dict[str, Node]:
    """The schemas that the nodes define, with stand-ins for ComfyUI's modules, and no files in its folders."""
    pack = ModuleType("mcti_pack")
    pack.__path__ = [str(ROOT)]
    folder_paths = MagicMock()
    folder_paths.get_filename_list.return_value = folder_paths.get_folder_paths.return_value = []
    folder_paths.get_input_directory.return_value = folder_paths.get_user_directory.return_value = str(ROOT / "nowhere")
    api = SimpleNamespace(io=_NodeApi("io"), ComfyExtension=object)
    names = ("comfy", "comfy.model_management", "comfy.utils", "comfy_api")
    stand_ins = {"mcti_pack": pack, "folder_paths": folder_paths, "comfy_api.latest": api}
    with patch.dict(sys.modules, {**dict.fromkeys(names, MagicMock()), **stand_ins}):
        extension = asyncio.run(import_module("mcti_pack.nodes").comfy_entrypoint())
        schemas = [node.define_schema() for node in asyncio.run(extension.get_node_list())]
    return {
        schema.node_id: Node(
            schema.node_id,
            tuple(Port(each.id, each.id, each.default) for each in schema.inputs),
            tuple(Port(each.id, each.display_name) for each in schema.outputs),
        )
        for schema in schemas
    }


def messages() -> list[str]:
    """All texts of the project's code; what is filled in is an ellipsis."""
    files = [*(ROOT / "nodes").glob("*.py"), *(ROOT / "mcti_core").rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    texts = (node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr)))
    return [_text(node) for node in texts if isinstance(node, ast.JoinedStr) or isinstance(node.value, str)]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def written(locale: str) -> dict[str, Any]:
    """``locales/<locale>/nodeDefs.json``."""
    return json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text(encoding="utf-8"))
