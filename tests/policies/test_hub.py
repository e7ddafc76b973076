"""Policies on the hub, against a stand-in that serves on this machine."""

from pathlib import Path

import pytest

from lightning_rl import load_policy
from lightning_rl.cli.policy_folders import asked_policy
from lightning_rl.policies import hub
from lightning_rl.policies.config import NetworkConfig
from lightning_rl.policies.folder import CONFIG, WEIGHTS
from tests.support.exported import new_policy, written
from tests.support.hub import Repositories, serving
from tests.support.runs import differences

NAME = "someone/ppo-maze"


@pytest.fixture
def repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repositories:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return {}


def reach(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + files)


def test_a_pushed_policy_is_loaded_again(
    repositories: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = new_policy(NetworkConfig(name="two_conv"))
    folder = written(tmp_path / "policy", policy)
    (folder / "README.md").write_text("---\ntags: [a]\n---\n# card\n")
    with serving(repositories) as address:
        reach(address, monkeypatch)

        told = hub.push(folder, NAME)
        loaded = load_policy(f"hf://{NAME}")

    assert told == f"{address}/{NAME}"
    assert repositories == {NAME: {path.name: path.read_bytes() for path in folder.iterdir()}}
    assert differences(policy.state_dict(), loaded.state_dict()) == []


def test_only_what_loading_needs_is_fetched_and_damage_is_told(
    repositories: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "policy", new_policy(NetworkConfig(name="two_conv")))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    repositories[NAME] = files | {WEIGHTS: files[WEIGHTS][:-1] + b"x", "evil.py": b"import os", "big.bin": bytes(99)}
    with serving(repositories) as address:
        reach(address, monkeypatch)

        fetched = hub.local_folder(f"hf://{NAME}")

    assert sorted(path.name for path in fetched.iterdir()) == [CONFIG, WEIGHTS]
    with pytest.raises(ValueError, match=r"is damaged: policy.safetensors is not the file"):
        load_policy(fetched)


def test_what_is_shown_beside_the_policy_is_fetched_too(
    repositories: Repositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = Path(__file__).parents[2] / "checkpoints"
    files = [path for path in agents.rglob("*.safetensors") if path.name != WEIGHTS]
    repositories[NAME] = {path.name: b"any" for path in files}
    with serving(repositories) as address:
        reach(address, monkeypatch)

        fetched = hub.local_folder(f"hf://{NAME}")

    assert files
    assert {path.name for path in fetched.iterdir()} == {path.name for path in files}


def test_a_missing_repository_is_told_in_one_line(repositories: Repositories, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(repositories) as address:
        reach(address, monkeypatch)

        with pytest.raises(ValueError, match=r"^hf://someone/nothing could not be fetched: [^\n]+$"):
            load_policy("hf://someone/nothing")


def test_the_command_judges_a_policy_on_the_hub(
    repositories: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "policy", new_policy(NetworkConfig(name="two_conv")))
    repositories[NAME] = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serving(repositories) as address:
        reach(address, monkeypatch)

        asked = asked_policy(["test", "--ckpt_path", f"hf://{NAME}"])

    assert asked is not None
    assert (asked.name, asked.config) == ("ppo-maze", load_policy(folder).config)


@pytest.mark.parametrize("source", ["hf://", "hf://name", "hf://a/b/c", "hf://../b", "hf://a/b?x=1", "hf://a b/c"])
def test_what_is_no_repository_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="must be hf://user/name, found hf://"):
        load_policy(source)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(hub, "import_module", missing)

    with pytest.raises(ValueError, match=r"needs the package huggingface_hub: pip install 'lightning_rl\[hub\]'"):
        load_policy(f"hf://{NAME}")
