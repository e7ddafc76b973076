"""The world model beside an exported policy: what it was, or a reason why not."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.modules.hyper_parameters import as_plain
from lightning_rl.modules.simple.exported import load_simulator
from lightning_rl.policies.folder import WORLD_MODEL
from tests.support import dreams
from tests.support.exported import policy_of, with_extra, written
from tests.support.impala_worlds import make_impala
from tests.support.runs import differences


def exported(folder: Path, kind: str = "deterministic", **described: Any) -> Path:
    module = dreams.module(kind)
    policy = policy_of(
        module,
        method="simple",
        obs_shape=dreams.OBS_SHAPE,
        num_actions=dreams.A,
        action_meanings=[str(number) for number in range(dreams.A)],
    )
    options = as_plain(module.options) | {"reward_values": list(dreams.REWARDS)} | described
    return with_extra(written(folder, policy), WORLD_MODEL, module.world_model.state_dict(), world_model=options)


@pytest.mark.parametrize("kind", dreams.KINDS)
def test_it_dreams_as_the_one_that_was_exported(kind: str, tmp_path: Path) -> None:
    own = dreams.module(kind, micro_batches=MicroBatchConfig(num_threads=1)).eval().simulator()
    found = load_simulator(exported(tmp_path / "policy", kind), nullcontext)
    assert found is not None
    obs = dreams.play().obs[0]
    steps = [
        side.imagine(obs, torch.tensor([0, 1, 2, 3]), torch.Generator().manual_seed(5), side.begin(obs))
        for side in (own, found)
    ]
    assert differences(vars(steps[0]), vars(steps[1])) == []
    assert steps[0].frames.any()


def test_a_policy_may_bring_none(tmp_path: Path) -> None:
    assert load_simulator(written(tmp_path / "policy", policy_of(make_impala())), nullcontext) is None


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ({"hidden": 9}, "as float32"),
        ({"hidden": "wide"}, "has a config.json that describes no world model"),
        ({"hidden": 0}, "describes no world model: .*hidden"),
        ({"colour": 3}, "describes no world model: WorldModelConfig has no option colour"),
        ({"reward_values": None}, "has a config.json that describes no world model"),
        ({"reward_values": []}, "reward_values must be from 1 to 10000 numbers"),
        ({"reward_values": [0.0, 1.0]}, "as float32"),
        ({"latent": 7}, "has a config.json that describes no world model"),
    ],
)
def test_another_model_than_described_is_refused(described: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        load_simulator(exported(tmp_path / "policy", **described), nullcontext)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path / "policy")
    (folder / WORLD_MODEL).unlink()
    with pytest.raises(ValueError, match=r"its world_model\.safetensors is not there"):
        load_simulator(folder, nullcontext)
