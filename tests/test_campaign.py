"""Short ones of the campaigns in `campaign.py`."""

from pathlib import Path

import pytest

from tests.campaign import assert_wandb_is_complete, campaign
from tests.support.methods import METHODS, Row


@pytest.mark.slow
def test_killed_and_stopped_at_random_moments_a_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    seen = campaign(tmp_path, "ppo", kills=1, stops=1)

    assert seen.disturbances.total() == 2


@pytest.mark.slow
@pytest.mark.parametrize(("config", "row"), METHODS.items(), ids=METHODS)
def test_every_method_survives_kills_and_signals(config: str, row: Row, tmp_path: Path) -> None:
    campaign(tmp_path, config, kills=3, stops=3, **row.disturbed)


@pytest.mark.slow
def test_stopped_by_signals_a_run_has_each_row_once_on_disk_and_in_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    campaign(tmp_path, "ppo", stops=4, trainer__logger=None)

    assert_wandb_is_complete(tmp_path / "run")
