"""The project's files agree about the project, and its workflows do what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mcti_core import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "pattern"), [("pyproject.toml", r'^version = "(.*)"$'), ("CITATION.cff", r"^version: (.*)$")]
)
def test_version_is_the_same_in_every_file(file, pattern):
    assert re.findall(pattern, text(file), re.M) == [__version__]


def test_readme_has_at_most_120_lines():
    assert len(text("README.md").splitlines()) <= 120


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_pins_every_action_and_grants_nothing_by_default(path):
    workflow = path.read_text(encoding="utf-8")
    assert re.search(r"^permissions: {}$", workflow, re.M)
    actions = re.findall(r"uses: (.*)$", workflow, re.M)
    assert actions
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action) for action in actions)


def test_oldest_versions_are_those_of_pyproject():
    done = subprocess.run([sys.executable, ROOT / ".ci" / "oldest.py", "torch==2.13.0"], capture_output=True, text=True, check=True)  # fmt: skip
    oldest = dict(line.split("==") for line in done.stdout.splitlines())
    assert oldest["torch"] == "2.13.0"
    assert f'"diffusers>={oldest["diffusers"]}"' in text("pyproject.toml")


def test_documentation_navigation_names_files_that_are_there():
    pages = re.findall(r": ((?:[\w-]+/)*[\w-]+\.md)$", text("mkdocs.yml"), re.M)
    made = {
        "index.md",
        "nodes.md",
        "cli.md",
        "api.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    }  # by docs/site_pages.py
    assert pages
    assert [page for page in pages if page not in made and not (ROOT / "docs" / page).is_file()] == []
