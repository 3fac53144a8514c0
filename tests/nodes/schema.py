"""The nodes' schemas, read from the source, since importing the nodes needs a running ComfyUI."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcti_core.classifiers.calibration import METHODS
from mcti_core.losses import DIRECTIONS
from mcti_core.tokens.token_set import POOLINGS
from mcti_core.training.config import SCHEDULES, TrainConfig

ROOT = Path(__file__).parents[2]
_KNOWN = {"METHODS": METHODS, "SCHEDULES": SCHEDULES, "DIRECTIONS": DIRECTIONS, "POOLINGS": POOLINGS}


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


def node_schemas() -> dict[str, Node]:
    nodes = [node for path in sorted((ROOT / "nodes").glob("*.py")) for node in _Module(path).nodes()]
    return {node.id: node for node in nodes}


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


class _Module:
    """One file of ``nodes/``, with the constants and functions that its schemas use."""

    def __init__(self, path: Path):
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.values: dict[str, Any] = {**_KNOWN, "_DEFAULT": TrainConfig()}
        settings = ast.parse((ROOT / "nodes" / "train_settings.py").read_text(encoding="utf-8"))
        bodies = (*settings.body, *self.tree.body)
        self.functions = {node.name: node for node in bodies if isinstance(node, ast.FunctionDef)}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call):
                self._assign(node)

    def nodes(self) -> list[Node]:
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return [self._node(call) for call in calls if ast.unparse(call.func) == "node_schema"]

    def _assign(self, node: ast.Assign) -> None:
        try:
            value = self._value(node.value)
        except (NameError, AttributeError, TypeError):  # not a constant, and no schema's business
            return
        for target in node.targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            parts = value if isinstance(target, ast.Tuple) else [value]
            self.values.update(zip((ast.unparse(name) for name in names), parts, strict=True))

    def _value(self, node: ast.expr) -> Any:
        code = compile(ast.Expression(ast.fix_missing_locations(node)), "nodes", "eval")
        return eval(code, {"__builtins__": {}}, self.values)

    def _node(self, call: ast.Call) -> Node:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        name = self._value(given["node_id"])
        shown = [each["name"] for each in written("en")[name]["outputs"].values()]
        ids = [self._value(each.args[0]) for each in self._calls(given["outputs"])]
        inputs = tuple(self._input(each) for each in self._calls(given["inputs"]))
        return Node(name, inputs, tuple(Port(*each) for each in zip(ids, shown, strict=True)))

    def _calls(self, node: ast.expr) -> list[ast.Call]:
        """The calls that make a list, with those of the functions that are unpacked into it."""
        assert isinstance(node, ast.List), ast.unparse(node)
        found: list[ast.Call] = []
        for element in node.elts:
            if isinstance(element, ast.Starred):
                found += self._calls(self._returned(element.value))
            else:
                assert isinstance(element, ast.Call), ast.unparse(element)
                found.append(element)
        return found

    def _returned(self, call: ast.expr) -> ast.expr:
        """What a function gives that is one return, here or in the module of the rarely used settings."""
        assert isinstance(call, ast.Call), ast.unparse(call)
        if ast.unparse(call.func) == "advanced":
            return self._returned(call.args[0])
        *_, answer = self.functions[ast.unparse(call.func)].body
        assert isinstance(answer, ast.Return), ast.unparse(answer)
        assert answer.value is not None
        return answer.value

    def _input(self, call: ast.Call) -> Port:
        """``io.Kind.Input(id, ...)`` or ``number(id, least, most)``."""
        name = self._value(call.args[0])
        if ast.unparse(call.func) == "number":
            return Port(name, name, getattr(TrainConfig(), name))
        assert ast.unparse(call.func).endswith(".Input"), ast.unparse(call)
        default = [self._value(keyword.value) for keyword in call.keywords if keyword.arg == "default"]
        return Port(name, name, *default)


def written(locale: str) -> dict[str, Any]:
    """``locales/<locale>/nodeDefs.json``."""
    return json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text(encoding="utf-8"))
