"""Configs with a few values changed at random: each trains, or is refused in one line before any game is built."""

import contextlib
import io
import math
import re
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from lightning_rl.data.datamodule import RolloutDataModule
from tests.support.methods import METHODS
from tests.support.runs import fit_args

Path_ = tuple[str, ...]

ODD_NUMBERS = [-1, 0, 1, 3, 7, 10**9, 10**12, 10**30, -0.5, 0.0, 0.3, 1.5, 1e300, math.nan, math.inf, -math.inf]
ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    "",
    "x",
    "κόσμε",
    "-3",
    "1e3",
    "null",
    "a: b",
    [],
    [1],
    ["x"],
    {},
    {"x": 1},
    {"1": {}},
]


class BuiltError(Exception):
    """The command began to build games."""


@cache
def resolved(config: str) -> dict[str, Any]:
    """Every option of a tiny run, as its config.yaml has them."""
    cli = RunCLI(fit_args(Path("run"), config=config))
    found: dict[str, Any] = yaml.safe_load(cli._parser("fit").dump(cli.saved_config, skip_none=False))
    return found | {"run_dir": None}


def paths(config: dict[str, Any], above: Path_ = ()) -> list[Path_]:
    """Of every option, and of every group of them."""
    found = []
    for key, value in config.items():
        found.append((*above, key))
        found += paths(value, (*above, key)) if isinstance(value, dict) else []
    return found


def group(config: dict[str, Any], path: Path_) -> dict[str, Any]:
    """What holds the option; where another change took that away, what held that."""
    for key in path[:-1]:
        inner = config.get(key)
        if not isinstance(inner, dict):
            break
        config = inner
    return config


def replaced(value: Any) -> Callable[[dict[str, Any], Path_], None]:
    def change(config: dict[str, Any], path: Path_) -> None:
        group(config, path)[path[-1]] = deepcopy(value)

    return change


def deleted(config: dict[str, Any], path: Path_) -> None:
    group(config, path).pop(path[-1], None)


def misplaced(config: dict[str, Any], path: Path_) -> None:
    value = group(config, path).pop(path[-1], None)
    group(config, path[:-1] or ("",))[path[-1]] = value


def renamed(config: dict[str, Any], path: Path_) -> None:
    group(config, path)[f"{path[-1]}s"] = group(config, path).pop(path[-1], None)


def beside(config: dict[str, Any], path: Path_) -> None:
    group(config, path)["unknown"] = 1


CHANGES = st.one_of(
    st.sampled_from(ODD_NUMBERS).map(replaced),
    st.sampled_from(ODD_VALUES).map(replaced),
    st.sampled_from([deleted, misplaced, renamed, beside]),
)


@st.composite
def changed(draw: st.DrawFn, config: dict[str, Any]) -> dict[str, Any]:
    """A config with one to three changes."""
    result = deepcopy(config)
    for _ in range(draw(st.integers(1, 3))):
        change, path = draw(CHANGES), draw(st.sampled_from(paths(config)))
        change(result, path)
    return result


def outcome(config: dict[str, Any], folder: Path) -> str:
    """`trains`, or the line with which the config is refused; anything else raises."""
    file, run_dir = folder / "changed.yaml", folder / "run"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    errors, began = io.StringIO(), time.monotonic()
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
    ):
        warnings.simplefilter("ignore")
        patch.setattr(RolloutDataModule, "setup", _build)
        patch.chdir(folder)
        try:
            status = main(["fit", "--config", str(file), "--run_dir", str(run_dir)])
        except BuiltError:
            return "trains"
    assert time.monotonic() - began < 10
    assert status == 2, errors.getvalue()
    assert re.fullmatch(r"lightning-rl: [^\n]+\n", errors.getvalue()), errors.getvalue()
    assert sorted(folder.iterdir()) == [file]
    return errors.getvalue()


def _build(data: RolloutDataModule, stage: str) -> None:
    raise BuiltError


def check(config: str, folder: pytest.TempPathFactory, *, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changed(resolved(config)))
    def trains_or_is_refused(changed: dict[str, Any]) -> None:
        outcome(changed, folder.mktemp("changed"))

    trains_or_is_refused()


SOME = [pytest.param(config, marks=[pytest.mark.slow] * (config not in ("ppo", "simple_cpu"))) for config in METHODS]
"""All methods; by default the simplest one, and the one with the most options."""


@pytest.mark.parametrize("config", SOME)
def test_the_config_unchanged_trains(config: str, tmp_path: Path) -> None:
    assert outcome(resolved(config), tmp_path) == "trains"


@pytest.mark.parametrize("config", SOME)
def test_a_changed_config_trains_or_is_refused_in_one_line(
    config: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(config, tmp_path_factory, examples=8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", METHODS)
def test_so_do_many(config: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(config, tmp_path_factory, examples=300)
