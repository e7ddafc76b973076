"""The package's own configs are found by name, from any folder."""

from pathlib import Path

import pytest

from lightning_rl.cli.shipped_configs import names, with_shipped_configs
from lightning_rl.errors import UsageError
from tests.support.methods import CONFIGS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_config_but_the_schedulers_files_has_a_name() -> None:
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert set(names()) == {name for name in files if not name.startswith("cluster/")}
    assert {"ppo", "quickstart", "hardware/cpu", "variants/impoola"} <= set(names())


@pytest.mark.parametrize("before", [["--config", ""], ["-c", ""], ["--config="]])
@pytest.mark.parametrize("name", ["ppo", "hardware/cpu", "configs/hardware/cpu.yaml", "ppo.yaml"])
def test_a_name_stands_for_its_file(name: str, before: list[str]) -> None:
    *option, last = before
    file = CONFIGS / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml"

    assert with_shipped_configs(["fit", *option, f"{last}{name}", "--x", "ppo"]) == [
        *("fit", *option, f"{last}{file}", "--x", "ppo")
    ]


def test_a_file_goes_before_a_shipped_config_of_its_name_and_a_folder_does_not(elsewhere: Path) -> None:
    (elsewhere / "impala").touch()
    (elsewhere / "ppo").mkdir()

    given = with_shipped_configs(["fit", "--config", "impala", "--config", "ppo"])

    assert given == ["fit", "--config", "impala", "--config", str(CONFIGS / "ppo.yaml")]


@pytest.mark.parametrize("text", ["model: {class_path: PPOModule}", "{}", "x" * 5000])
def test_what_is_no_name_is_left_to_the_parser(text: str) -> None:
    assert with_shipped_configs(["fit", "--config", text]) == ["fit", "--config", text]


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError) as refusal:
        with_shipped_configs(["fit", "--config", "configs/hardware/gppu.yaml"])

    told = str(refusal.value)
    assert told.startswith("config: the file configs/hardware/gppu.yaml does not exist")
    assert told.endswith("; did you mean hardware/gpu?")
    assert ", ".join(names()) in told
