"""Print the oldest versions that pyproject.toml declares, one requirement per line. An argument such as torch==2.13.0 replaces one."""

import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"))["project"]
declared = [line for extra in ("standalone", "test") for line in project["optional-dependencies"][extra]]
versions = dict(line.split(">=") for line in declared) | dict(line.split("==") for line in sys.argv[1:])
print(*[f"{name}=={version}" for name, version in versions.items()], sep="\n")
