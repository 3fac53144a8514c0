"""Run the host tests on several versions of ComfyUI, and write a table of the results.

    python -m tests.hosts.versions ~/ComfyUI --output docs/hosts.md

``~/ComfyUI`` is a git clone that has the versions' commits; it is only read. Run it by a Python that has ComfyUI's requirements, and
pytest, hypothesis, diffusers and playwright beside them. Each version gets its own files and the packages that it asks for by exact
number (its web page among them) in a folder of its own; the rest it shares with this Python.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
import venv
import xml.etree.ElementTree as Xml
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["VERSIONS", "main"]

VERSIONS = {
    "0.3.64": "63722199", "0.8.0": "fc0cb10b", "0.16.0": "e04d0dbe", "0.20.1": "64b8457f", "0.28.0": "700821e1",
    "0.33.0": "2f35f4a0",
}  # fmt: skip
"""The commit of each version."""
THOROUGH = ("0.3.64", "0.8.0", "0.28.0", "0.33.0")
"""Versions whose slow tests run too: every family of models, templates in the page, trainings on the server."""
REPO = Path(__file__).resolve().parents[2]
_OWN = re.compile(r"^(comfyui[-_]|comfy[-_](kitchen|aimdo))")
"""Requirements that differ from version to version."""


@dataclass(frozen=True)
class Outcome:
    """What the tests of one version came to."""

    version: str
    thorough: bool
    passed: int
    failed: tuple[str, ...]
    skipped: tuple[str, ...]
    """Reasons, one for each test."""
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    folder = options.work.expanduser().resolve()
    wanted = options.versions or list(VERSIONS)
    prepared = {name: prepare(options.clone.expanduser(), name, folder) for name in wanted}

    def run(name: str) -> Outcome:
        outcome = run_tests(name, *prepared[name], folder, thorough=name in THOROUGH and not options.fast)
        print(_row(outcome), flush=True)
        return outcome

    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(run, wanted))
    text = page(outcomes)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def prepare(clone: Path, name: str, folder: Path) -> tuple[Path, Path]:
    """A version's files and its Python, made where they are not there.

    Files that a partial clone lacks are left out: large tokenizers of models that no test uses.
    """
    files, environment = folder / f"ComfyUI-{name}", folder / f"python-{name}"
    if not (files / "main.py").is_file():
        files.mkdir(parents=True, exist_ok=True)
        lacking = [f":(exclude){path}" for path in _lacking(clone, VERSIONS[name])]
        archive = subprocess.run(
            ["git", "-C", clone, "archive", VERSIONS[name], "--", ".", *lacking], capture_output=True, check=True
        )
        subprocess.run(["tar", "x", "-C", files], input=archive.stdout, check=True)
    python = environment / "bin" / "python"
    if not python.is_file():
        venv.create(environment, with_pip=False)
        packages = Path(
            subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
        )
        requirements = (files / "requirements.txt").read_text(encoding="utf-8").splitlines()
        own = [line for line in requirements if _OWN.match(line)]
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages]
        subprocess.run([*install, *own], check=True)
        (packages / "shared.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return files, python


def _lacking(clone: Path, commit: str) -> Iterator[str]:
    listed = subprocess.check_output(["git", "-C", clone, "ls-tree", "-r", "--format=%(objectname) %(path)", commit])
    checked = subprocess.run(
        ["git", "-C", clone, "cat-file", "--batch-check=%(objectname)"], input=b"\n".join(line.split()[0] for line in listed.splitlines()),
        capture_output=True, check=True,
    )  # fmt: skip
    missing = {line.split()[0] for line in checked.stdout.splitlines() if line.endswith(b" missing")}
    for line in listed.decode().splitlines():
        name, path = line.split(" ", 1)
        if name.encode() in missing:
            yield path


def run_tests(name: str, files: Path, python: Path, folder: Path, thorough: bool) -> Outcome:
    """The host tests of one version, in a process of their own."""
    report, started = folder / f"report-{name}.xml", time.monotonic()
    report.unlink(missing_ok=True)
    chosen = "host" if thorough else "host and not slow"
    with open(folder / f"log-{name}.txt", "w", encoding="utf-8") as log:
        subprocess.run(
            [python, "-m", "pytest", "-m", chosen, "tests/hosts", f"--junitxml={report}", "-p", "no:cacheprovider"],
            cwd=REPO, env={**os.environ, "COMFYUI_PATH": str(files)}, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    if not report.is_file():
        return Outcome(name, thorough, 0, ("pytest did not finish; see its log",), (), time.monotonic() - started)
    passed, failed, skipped = 0, [], []
    for case in Xml.parse(report).iter("testcase"):
        title = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(title)
        elif skip is not None:
            skipped.append(skip.get("message", ""))
        else:
            passed += 1
    return Outcome(name, thorough, passed, tuple(failed), tuple(skipped), time.monotonic() - started)


def page(outcomes: Sequence[Outcome]) -> str:
    """docs/hosts.md."""
    rows = "\n".join(_row(outcome) for outcome in outcomes)
    reasons = sorted({f"- {o.version}: {reason} ({o.skipped.count(reason)})" for o in outcomes for reason in o.skipped})
    failures = [f"- {o.version}: {name}" for o in outcomes for name in o.failed]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "diffusers", "safetensors"))
    text = _TEXT.read_text(encoding="utf-8")
    made = f"Python {platform.python_version()}, {packages}, {platform.system()}, on a CPU.\n\n{_HEAD}\n{rows}\n"
    made += "\n### Skipped\n\n" + "\n".join(reasons or ["Nothing."]) + "\n"
    if failures:
        made += "\n### Failed\n\n" + "\n".join(failures) + "\n"
    return f"{text.split(_MARK)[0]}{_MARK}\n\n{made}"


_TEXT = REPO / "docs" / "hosts.md"
_MARK = "<!-- below: written by python -m tests.hosts.versions -->"
_HEAD = "| ComfyUI | tests | passed | failed | skipped | minutes |\n|---|---|---|---|---|---|"


def _row(outcome: Outcome) -> str:
    kind = "fast and slow" if outcome.thorough else "fast"
    counts = f"{outcome.passed} | {len(outcome.failed)} | {len(outcome.skipped)}"
    return f"| {outcome.version} | {kind} | {counts} | {outcome.seconds / 60:.0f} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run the host tests on several versions of ComfyUI.")
    parser.add_argument("clone", type=Path, help="a git clone of ComfyUI; it is only read")
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, help="which versions; all by default")
    parser.add_argument("--fast", action="store_true", help="leave the slow tests out everywhere")
    parser.add_argument("--jobs", type=int, default=1, help="versions at once")
    parser.add_argument("--work", type=Path, default=Path("~/.cache/mcti-hosts"), help="folder for files and packages")
    parser.add_argument("--output", "-o", type=Path, help="the page to write the table into; printed by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
