"""Adds to the documentation site what is written elsewhere, and turns links that leave docs/ into links of the site.

``index.md`` is the README, ``nodes.md`` the nodes' help pages, ``cli.md`` what ``--help`` prints, ``api.md`` the names of ``mcti_core``.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
HELP = ROOT / "web" / "docs"
PAGES = {"index.md": "README.md", **{name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")}}
"""Pages of the site that are files of the project's root."""


def on_files(files, config):
    """Add the pages that are not in docs/, and the pictures of the help pages."""
    sys.path.insert(0, str(ROOT))  # mkdocs takes back what a hook inserts while it is imported
    pages = {page: (ROOT / source).read_text("utf-8") for page, source in PAGES.items()}
    pages |= {"nodes.md": nodes_page(), "cli.md": cli_page(), "api.md": api_page()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    for picture in (HELP / "images").iterdir():
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at the site's pages; of links to files that the site has not, keep the words."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if page.file.src_uri == "examples/README.md":
        scripts = sorted((ROOT / "docs" / "examples").glob("*.py"))
        markdown += "".join(f"\n## {path.name}\n\n```python\n{path.read_text('utf-8')}```\n" for path in scripts)

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.groups()
        if "://" in target or not target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = {there: here for here, there in PAGES.items()}.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(uri) is None:
            return words.removeprefix("!")
        return f"{words}({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}{anchor or ''})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)#\s]*)(#[^)\s]*)?\)", link, markdown)


def nodes_page() -> str:
    """Every node's help page, below its name."""
    from json import loads

    names = loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    parts = []
    for path in sorted(HELP.glob("*.md")):
        text = re.sub(r"^#", "##", path.read_text("utf-8"), flags=re.M)
        parts.append(f"## {names[path.stem]['display_name']}\n\n{text}")
    return "# Nodes\n\n" + "\n".join(parts)


def cli_page() -> str:
    """What each command prints with ``--help``."""
    from mcti_core.cli.parser import _parser

    os.environ["COLUMNS"] = "110"
    commands = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    blocks = [f"## mcti {name}\n\n```text\n{parser.format_help()}```\n" for name, parser in commands.items()]
    return "# Command-line reference\n\n" + "\n".join(blocks)


def api_page() -> str:
    """The docstrings of every name that ``mcti_core`` exports."""
    from mcti_core import _MODULES

    entries = [f"::: mcti_core.{module}.{name}\n" for name, module in _MODULES.items()]
    return "# API reference\n\nEvery name is imported from `mcti_core`.\n\n" + "\n".join(entries)
