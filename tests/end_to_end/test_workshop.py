from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def commands():
    """The lines of the README's shell blocks."""
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```bash\n")[1:]
    return [line for block in blocks for line in block.split("```")[0].splitlines() if line]


def test_ci_runs_exactly_the_readme_s_test_command(commands):
    (command,) = [line for line in commands if line.endswith("-m pytest")]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_one_command_sets_up_and_runs_the_demo(commands):
    (command,) = [line for line in commands if "mcti_core demo" in line]
    assert command.startswith("python3 -m venv .venv && ")
    assert "requirements-dev.txt" in command


def test_nothing_must_be_installed_beside_a_host():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == []
