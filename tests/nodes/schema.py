"""What the nodes' source says of their schemas. Read, not imported: the nodes need a running ComfyUI."""

from __future__ import annotations

import ast
import json
import re
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
    tooltip: str
    default: Any = None
    """None where there is none."""


@dataclass(frozen=True)
class Node:
    id: str
    display_name: str
    description: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def locale(self) -> dict[str, Any]:
        """What the node is in a ``nodeDefs.json``."""
        outputs = {str(i): {"name": plain(p.name), **_tooltip(p)} for i, p in enumerate(self.outputs)}
        return {
            "display_name": plain(self.display_name),
            "description": plain(self.description),
            "inputs": {p.id: {"name": plain(p.name), **_tooltip(p)} for p in self.inputs},
            "outputs": outputs,
        }


def plain(text: str) -> str:
    """A text as a message of vue-i18n, for which some characters mean something unless they are quoted."""
    return re.sub(r"[{}@|]+", lambda found: f"{{'{found[0]}'}}", text)


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


def _tooltip(port: Port) -> dict[str, str]:
    return {"tooltip": plain(port.tooltip)} if port.tooltip else {}


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
        texts = {name: self._value(given[name]) for name in ("node_id", "display_name", "description")}
        return Node(
            texts["node_id"],
            texts["display_name"],
            texts["description"],
            tuple(self._input(each) for each in self._calls(given["inputs"])),
            tuple(self._output(each) for each in self._calls(given["outputs"])),
        )

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
        """``io.Kind.Input(id, ...)``, ``optional(kind, id, tooltip)`` or ``number(id, least, most, tooltip)``."""
        what = ast.unparse(call.func)
        given = {keyword.arg: self._value(keyword.value) for keyword in call.keywords if keyword.arg != "options"}
        if what == "optional":
            return Port(self._value(call.args[1]), self._value(call.args[1]), self._value(call.args[2]))
        if what == "number":
            name, _, _, tooltip = (self._value(argument) for argument in call.args)
            return Port(name, name, tooltip, getattr(TrainConfig(), name))
        assert what.endswith(".Input"), what
        name = self._value(call.args[0])
        return Port(name, name, given.get("tooltip", ""), given.get("default"))

    def _output(self, call: ast.Call) -> Port:
        assert ast.unparse(call.func).endswith(".Output"), ast.unparse(call)
        given = {keyword.arg: self._value(keyword.value) for keyword in call.keywords}
        name = self._value(call.args[0])
        return Port(name, given.get("display_name", name), given.get("tooltip", ""))


def written(locale: str) -> dict[str, Any]:
    """``locales/<locale>/nodeDefs.json``."""
    return json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text(encoding="utf-8"))


if __name__ == "__main__":  # python -m tests.nodes.schema writes locales/en anew
    texts = {name: node.locale() for name, node in node_schemas().items()}
    path = ROOT / "locales" / "en" / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
