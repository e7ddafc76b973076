"""Loading needs torch, safetensors, numpy, einops and jaxtyping, and nothing else of this package's dependencies."""

import ast
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from lightning_rl.policies.config import RECURRENT, NetworkConfig
from tests.support.exported import new_policy, written
from tests.test_imports import PACKAGE

NEEDED = ("torch", "safetensors", "numpy", "einops", "jaxtyping")
SCRIPT = """
import json, sys, time
import torch

began = time.process_time()
from lightning_rl import load_policy

policies = [load_policy(folder) for folder in sys.argv[1:]]
seconds = time.process_time() - began
import numpy as np

obs = np.zeros((1, 16, 16, 3), np.uint8)
actions = [policy.act(obs, greedy=True).tolist() for policy in policies]
with torch.autocast("cpu", torch.bfloat16):
    actions += [policy.act(obs, greedy=True).tolist() for policy in policies]
print(json.dumps([seconds, actions]))
"""


def distributions(names: tuple[str, ...]) -> set[str]:
    """The names, and those of everything that they require."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system or Python
            continue
        found.add(name)
        waiting += [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has only what loading needs."""
    home = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(home, symlinks=True)
    packages = next(home.glob("lib/python*/site-packages"))
    for name in distributions(NEEDED):
        files = metadata.files(name) or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (packages / top).exists():  # torch's CUDA libraries share a folder
                (packages / top).symlink_to(str(metadata.distribution(name).locate_file(top)))
    (packages / "lightning_rl").symlink_to(PACKAGE)
    return home / "bin" / "python"


def test_a_bare_environment_decides_on_a_frame(bare_python: Path, tmp_path: Path) -> None:
    networks = [NetworkConfig(name="three_stack"), NetworkConfig(name=RECURRENT, latent_size=5)]
    folders = [written(tmp_path / network.name, new_policy(network)) for network in networks]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        [bare_python, "-I", "-W", "error", "-c", SCRIPT, *map(str, folders)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    seconds, actions = json.loads(done.stdout)
    assert all(0 <= action < 7 for [action] in actions)
    assert seconds < 1.0  # of this process, so that others do not count


def test_the_bare_environment_lacks_lightning(bare_python: Path) -> None:
    command = [str(bare_python), "-I", "-c", "import pytorch_lightning"]

    found = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "No module named 'pytorch_lightning'" in found.stderr


def imported_at_the_top(source: str) -> Iterator[str]:
    """What a module imports when it is imported."""
    for node in ast.parse(source).body:
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str() as module):
                yield module


def test_loading_imports_these_packages_and_no_others() -> None:
    seen, waiting, others = set[str](), ["lightning_rl.policies.folder"], set[str]()
    while waiting:
        module = waiting.pop()
        if not module.startswith("lightning_rl."):
            others.add(module.partition(".")[0])
        elif module not in seen:
            seen.add(module)
            path = PACKAGE / "/".join(module.split(".")[1:])
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            waiting += imported_at_the_top(file.read_text())

    assert others - sys.stdlib_module_names == set(NEEDED)
    assert "lightning_rl.networks.impala_cnn" in seen
