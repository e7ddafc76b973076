"""The hosted workflow runs what `.ci/run` does, on every Python that the package takes."""

import os
import re
import tomllib
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

from tests.support.methods import CONFIGS

ROOT = CONFIGS.parent
WORKFLOW: dict[str, Any] = yaml.load(
    (ROOT / ".github" / "workflows" / "tests.yaml").read_text(), Loader=yaml.BaseLoader
)
"""As text: YAML would read `on` as true, and 3.10 as 3.1."""

[JOB] = WORKFLOW["jobs"].values()
COMMANDS = [step["run"] for step in JOB["steps"] if "run" in step]


def test_it_runs_on_every_python_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    takes = SpecifierSet(project["requires-python"])
    assert JOB["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(30) if f"3.{minor}.9" in takes]
    [setup] = [step["with"] for step in JOB["steps"] if step.get("uses", "").startswith("actions/setup-python")]
    assert setup["python-version"] == "${{ matrix.python }}"


def test_it_does_what_a_clean_clone_must_pass_on_every_push_and_pull_request() -> None:
    assert WORKFLOW["on"].keys() == {"push", "pull_request"}
    assert COMMANDS[-1] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_it_installs_the_systems_libraries_that_the_readme_names() -> None:
    [named] = re.findall(r"`apt-get install ([\w. -]+)`", (ROOT / "README.md").read_text())
    assert COMMANDS[0].endswith(f"apt-get install --yes {named}")
