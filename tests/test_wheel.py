"""What `pip install` of a wheel gives: the whole package, with its configs, from any working folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.methods import CONFIGS
from tests.support.runs import ENV_STEPS, fit_args, rows

ROOT = CONFIGS.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this tree, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [built] = folder.iterdir()
    return built


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_it_holds_the_package_and_every_config(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    package = {f"lightning_rl/{name}" for name in files(ROOT / "lightning_rl")}
    assert held == package | {f"lightning_rl/configs/{name}" for name in files(CONFIGS)}


@pytest.mark.slow
def test_installed_outside_a_checkout_it_trains_what_it_ships(wheel: Path, tmp_path: Path) -> None:
    """The venv sees the packages of this one, so that torch is not installed once more."""
    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [site_packages] = venv.glob("lib/python*/site-packages")
    (site_packages / "present.pth").write_text(sysconfig.get_path("purelib"))
    python = str(venv / "bin" / "python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def done(*command: str) -> str:
        return subprocess.run(
            command, cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    done(python, "-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel))
    run_dir = elsewhere / "run"
    args = fit_args(run_dir, iterations=1)
    config = args.index("--config") + 1
    args[config : config + 1] = ["configs/ppo.yaml", "--config", "hardware/cpu"]
    done(str(venv / "bin" / "lightning-rl"), *args)

    assert [row["env_steps"] for row in rows(run_dir)] == [str(ENV_STEPS)]
    installed = done(python, "-c", "import lightning_rl; print(lightning_rl.__file__)")
    assert Path(installed).parent == site_packages / "lightning_rl"
