"""A real ComfyUI server with this pack, for tests.

    with Server(comfyui_folder, empty_folder) as server:
        run = server.run(graph("1_pocket_quick_start"))
        assert run.succeeded, run.error
        server.images(run)   # {node id: [PIL images]}

The server is a process of its own in a base directory of its own: ``base/models``, ``base/input``, ``base/output``. Put
models there before ``start``, which the host lists once. The folder of ComfyUI is not written to.

Set ``COMFYUI_FRONTEND`` to a folder with the web page's files where the installed frontend package is not of the version
that ComfyUI asks for; only tests in a browser need that.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

__all__ = [
    "GRAPHS",
    "Event",
    "Graph",
    "Listener",
    "RefusedError",
    "Run",
    "Server",
    "changed",
    "graph",
    "needed",
    "node",
    "nodes_of",
]

GRAPHS = Path(__file__).with_name("api")
"""Graphs in the format of the API, which the workflows are of, too."""
_PACK = Path(__file__).resolve().parents[2]
_START_SECONDS, _STOP_SECONDS = 180, 20

Graph = dict[str, dict[str, Any]]
"""Node id -> ``{"class_type": ..., "inputs": {...}}``."""


def graph(name: str) -> Graph:
    """One of the files in ``api/``, by its name or the number it begins with."""
    (file,) = [path for path in GRAPHS.glob("*.json") if path.stem == name or path.stem.split("_")[0] == name]
    return json.loads(file.read_text(encoding="utf-8"))


def nodes_of(graph: Graph, kind: str) -> list[str]:
    """Ids of the nodes of a class."""
    return [node for node, what in graph.items() if what["class_type"] == kind]


def changed(graph: Graph, changes: Mapping[str, Any]) -> Graph:
    """A copy with other inputs: ``{"MCTI_TrainTokens.steps": 10}`` for every node of a class, ``{"3.steps": 10}`` for one."""
    copy = deepcopy(graph)
    for place, value in changes.items():
        which, name = place.rsplit(".", 1)
        chosen = [which] if which in copy else nodes_of(copy, which)
        assert chosen, f"the graph has no node {which}"
        for node in chosen:
            copy[node]["inputs"][name] = value
    return copy


def needed(graph: Graph, *nodes: str) -> Graph:
    """These nodes, and all that they are connected to, directly or not."""
    found: Graph = {}
    waiting = list(nodes)
    while waiting:
        name = waiting.pop()
        found[name] = graph[name]
        links = [value[0] for value in graph[name]["inputs"].values() if isinstance(value, list)]
        waiting += [link for link in links if link not in found]
    return deepcopy(found)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node for a graph; a link is a list of node id and output."""
    return {"class_type": kind, "inputs": inputs}


class Event(NamedTuple):
    """What the server told over its websocket."""

    at: float
    """``time.monotonic()``."""
    kind: str
    """As the host names it: "progress", "executing", ...; "preview" for a picture."""
    data: dict[str, Any]


class RefusedError(Exception):
    """The server did not queue a graph, because it is not valid."""

    def __init__(self, answer: Mapping[str, Any]):
        self.answer = dict(answer)
        errors = [error for node in answer.get("node_errors", {}).values() for error in node["errors"]]
        self.messages = [f"{error['message']}: {error['details']}" for error in errors]
        super().__init__("; ".join(self.messages) or str(answer.get("error")))


@dataclass(frozen=True)
class Run:
    """A graph that was run, as the history tells of it."""

    id: str
    history: Mapping[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.history["status"]["status_str"] == "success"

    @property
    def interrupted(self) -> bool:
        return "execution_interrupted" in self.messages

    @property
    def messages(self) -> dict[str, dict[str, Any]]:
        """The last message of each kind, such as "execution_start" or "execution_cached"."""
        return dict(self.history["status"]["messages"])

    @property
    def error(self) -> dict[str, Any]:
        """``node_type``, ``exception_type``, ``exception_message``, ``traceback``; empty where there was none."""
        return self.messages.get("execution_error", {})

    @property
    def seconds(self) -> float:
        """What the graph took, as the server says."""
        stamps = [message["timestamp"] for _, message in self.history["status"]["messages"]]
        return (max(stamps) - min(stamps)) / 1000

    @property
    def cached(self) -> set[str]:
        """Ids of nodes that were not run, since nothing before them had changed."""
        return set(self.messages["execution_cached"]["nodes"])

    def texts(self, node: str) -> list[str]:
        """What a "Preview as Text" node shows."""
        return list(self.history["outputs"].get(node, {}).get("text", []))


@dataclass
class Server:
    """A server that runs from ``start`` to ``stop``, or inside ``with``.

    Args:
        comfyui: ComfyUI's folder.
        base: an empty folder, or one prepared with models and inputs.
        options: more of ComfyUI's command line.
        pack: whether the pack is there.
        cpu: whether the server computes on the CPU.
    """

    comfyui: Path
    base: Path
    options: tuple[str, ...] = ()
    pack: bool = True
    cpu: bool = True
    port: int = 0
    client: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What this client calls itself. Only a client that has a name is told what nodes show when they come from the cache."""
    _process: subprocess.Popen[bytes] | None = None

    # -- from start to stop --------------------------------------------------------------------------------------------

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and return when it answers."""
        for name in ("custom_nodes", "input", "output", "models/checkpoints", "models/embeddings", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / "mcti"
        if self.pack and not link.exists():
            link.symlink_to(_PACK, target_is_directory=True)
        self.port = self.port or _free_port()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment.setdefault("OMP_NUM_THREADS", "1")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self.comfyui, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        try:
            self._wait_for_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, first kindly."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def runs(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        return self.base / "server.log"

    def log(self) -> str:
        """All that the server has said so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def _command(self) -> list[str]:
        command = [sys.executable, "main.py", "--disable-api-nodes", "--disable-auto-launch"]
        command += ["--cpu"] if self.cpu else []
        command += ["--base-directory", str(self.base), "--port", str(self.port)]
        command += ["--database-url", "sqlite:///:memory:"]  # or it would lie in ComfyUI's folder
        frontend = os.environ.get("COMFYUI_FRONTEND")
        return command + (["--front-end-root", frontend] if frontend else []) + list(self.options)

    def _wait_for_answer(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"ComfyUI ended at once:\n{self.log()[-4000:]}"
            assert time.monotonic() < end, f"ComfyUI does not answer:\n{self.log()[-4000:]}"
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.2)

    # -- graphs --------------------------------------------------------------------------------------------------------

    def run(self, graph: Graph, timeout: float = 600) -> Run:
        """Queue a graph and wait until it is done, whatever comes of it."""
        return self.wait(self.submit(graph), timeout)

    def submit(self, graph: Graph) -> str:
        """Queue a graph; returns its id.

        Raises:
            RefusedError: it is not valid.
        """
        try:
            answer = self.post("/prompt", {"prompt": graph, "client_id": self.client})
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(json.loads(error.read())) from None
        if answer["node_errors"]:  # of some outputs; the host runs the others
            self._withdraw(answer["prompt_id"])
            raise RefusedError(answer)
        return str(answer["prompt_id"])

    def _withdraw(self, run: str) -> None:
        while any(run in item for part in self.get("/queue").values() for item in part):
            self.post("/queue", {"delete": [run]})
            self.interrupt()
            time.sleep(0.05)

    def wait(self, run: str, timeout: float = 600) -> Run:
        """Wait for a graph that was queued."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            history = self.get(f"/history/{run}")
            if run in history:
                return Run(run, history[run])
            assert self._process is None or self._process.poll() is None, f"ComfyUI ended:\n{self.log()[-4000:]}"
            time.sleep(0.05)
        raise TimeoutError(f"the graph is not done after {timeout} s:\n{self.log()[-4000:]}")

    def interrupt(self) -> None:
        """Cancel what runs now."""
        self.post("/interrupt", {})

    def forget(self) -> None:
        """Empty the cache, which holds what the last graph made: run another."""
        other = {"1": node("EmptyImage", width=8, height=8, batch_size=1, color=0)}
        assert self.run({**other, "2": node("PreviewImage", images=["1", 0])}).succeeded

    def images(self, run: Run) -> dict[str, list[Image.Image]]:
        """What a graph saved and previewed, by node id."""
        return {node: [_open(data) for data in files] for node, files in self.image_files(run).items()}

    def image_files(self, run: Run) -> dict[str, list[bytes]]:
        """The same as bytes. Those of equal pixels differ where they come from different graphs, which PNG files hold."""
        return {
            node: [self.read("/view?" + urllib.parse.urlencode(file)) for file in shown["images"]]
            for node, shown in run.history["outputs"].items()
            if "images" in shown
        }

    def import_seconds(self) -> float:
        """What ComfyUI says that importing the pack took, to a tenth."""
        (seconds,) = re.findall(
            r"([\d.]+) seconds(?! \(IMPORT FAILED\)): .*custom_nodes.mcti$", self.log(), re.MULTILINE
        )
        return float(seconds)

    # -- plain requests --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        return json.loads(self.read(path))

    def post(self, path: str, what: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(what).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None


class Listener:
    """Collects what the server tells over its websocket, inside ``with``."""

    def __init__(self, server: Server):
        self.events: list[Event] = []
        self._url = f"ws://127.0.0.1:{server.port}/ws?clientId={server.client}"
        self._connected, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        assert self._connected.wait(20), "the server's websocket does not answer"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)

    def of(self, kind: str, node: str | None = None, most: int | None = None) -> list[Event]:
        """Events of a kind; of one node or of all; of progress, those of the work that has so many steps."""
        wanted = {"node": node, "max": most}
        return [
            event
            for event in list(self.events)
            if event.kind == kind
            and all(value is None or event.data.get(name) == value for name, value in wanted.items())
        ]

    def wait_for_progress(self, node: str, value: int, most: int, timeout: float = 300) -> Event:
        """The first news that a node has done at least ``value`` steps of a work that has ``most``."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for event in self.of("progress", node, most):
                if event.data["value"] >= value:
                    return event
            if any(event.kind == "execution_error" for event in self.events):
                break
            time.sleep(0.005)
        raise TimeoutError(f"node {node} did not reach {value} of {most} in {timeout} s; last was {self.events[-3:]}")

    def _run(self) -> None:
        self._task = self._loop.create_task(self._listen())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as socket:
            async for message in socket:
                self._connected.set()  # the first is the server's greeting
                if message.type == aiohttp.WSMsgType.TEXT:
                    told = json.loads(message.data)
                    self.events.append(Event(time.monotonic(), told["type"], told["data"]))
                elif message.type == aiohttp.WSMsgType.BINARY:
                    self.events.append(Event(time.monotonic(), "preview", {"bytes": len(message.data)}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
