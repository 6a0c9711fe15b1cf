"""The repository itself: what the README says, and what is installed, is what is there."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from chatlab.engines.models import AUTO_MODELS
from chatlab.settings import Settings, variable

ROOT = Path(__file__).parents[1]
ZERO_GPU_PYTHONS = {"3.12.12", "3.10.13"}  # as its documentation lists them
README = (ROOT / "README.md").read_text()


def requirements(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


def test_requirements_are_pinned_and_in_step_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r for r in map(Requirement, project["dependencies"])}
    pinned = requirements("requirements.txt")
    assert wanted.keys() == pinned.keys()
    for name, requirement in pinned.items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", name
        assert wanted[name].specifier.contains(pin.version), name
        assert str(wanted[name].marker) == str(requirement.marker), name
    assert str(pinned["torch"].specifier) == "==2.13.0"
    for name in ("requirements-bundled.txt", "requirements-dev.txt"):
        assert all(len(r.specifier) == 1 and str(r.specifier).startswith("==") for r in requirements(name).values())


def test_the_head_of_the_readme_makes_a_space() -> None:
    _, head, _ = README.split("---\n", 2)
    space = dict(line.split(": ", 1) for line in head.splitlines())
    assert README.startswith("---\n")
    assert (space["sdk"], space["app_file"], space["license"]) == ("gradio", "app.py", "apache-2.0")
    assert (ROOT / space["app_file"]).is_file()
    assert str(requirements("requirements.txt")["gradio"].specifier) == f"=={space['sdk_version']}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(space["python_version"])
    assert space["python_version"] in ZERO_GPU_PYTHONS
    assert len(space["short_description"]) <= 60
    assert "spaces" not in requirements("requirements.txt"), "the platform installs its own version"


def test_the_readme_lists_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHATLAB_CACHE_SCOPE", "CHATLAB_CACHE_AUDIT_SHARE"):  # set for tests
        monkeypatch.delenv(name)
    rows = dict(re.findall(r"^\| `(CHATLAB_\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert list(rows) == [variable(name) for name in Settings.model_fields]
    for name, default in Settings():
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert rows[variable(name)] == (f"`{shown}`" if shown else "–"), name


def test_the_readme_has_a_line_for_every_file() -> None:
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.sql", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tree = README[README.index("```text") :]
    ignored = {"__init__.py", "__main__.py"}
    for file in map(Path, files.stdout.split()):
        if file.name not in ignored and not file.parts[0].startswith("."):
            assert re.search(rf"\b{re.escape(file.name)}\b", tree), f"the README's tree lacks {file}"


def test_the_readme_has_the_table_of_models() -> None:
    for row in AUTO_MODELS:
        assert row.hub_id in README


def test_ci_runs_the_tests_of_the_readme() -> None:
    assert "make test" in README
    assert re.search(r"^exec make test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile[makefile.index("\ntest:") :].split("\n\n")[0]
    assert "check" in recipe
    assert "|| true" not in makefile


@pytest.mark.parametrize("name", ["CHANGELOG.md", "LICENSE", "docs/log.md", "docs/mapping.md", "docs/performance.md"])
def test_what_a_project_has(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500
