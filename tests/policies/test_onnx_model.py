"""The ONNX model computes what torch does, at every batch size, with the recurrent state."""

from typing import Any

import numpy as np
import pytest

from lightning_rl.policies import onnx_model as tested
from lightning_rl.policies.config import RECURRENT, NetworkConfig
from lightning_rl.policies.onnx_model import TOLERANCE, onnx_model, session
from lightning_rl.policies.policy import ExportedPolicy
from tests.support.exported import new_policy
from tests.support.worlds import draw_frames

NETWORKS = {
    "three_stack": NetworkConfig(name="three_stack", pooling="average", pooling_size=2),
    "two_stack": NetworkConfig(name="two_stack", num_critics=2),
    "two_conv": NetworkConfig(name="two_conv"),
    "recurrent": NetworkConfig(name=RECURRENT, pooling="average"),
    "recurrent, latent": NetworkConfig(name=RECURRENT, pooling="average", latent_size=5),
}


def played(policy: ExportedPolicy, model: bytes, frames: Any, starts: Any, rewards: Any) -> list[float]:
    """Largest differences of the outputs over steps in which each runtime carries its own state."""
    running, count = session(model), frames.shape[1]
    worst: dict[str, float] = {}
    state, actions, reward = np.zeros((count, policy.state_size), np.float32), np.zeros(count, np.int64), rewards[0] * 0
    ours: Any = state
    for obs, started, next_reward in zip(frames, starts, rewards, strict=True):
        step = {"state": state, "previous_actions": actions, "previous_rewards": reward, "starts": started}
        found = running.run(None, {"obs": obs} | (step if policy.config.recurrent else {}))
        expected = policy(obs, ours, actions, reward, started)
        for name, array in zip(expected._fields, found, strict=False):
            reference = getattr(expected, name).numpy()
            worst[name] = max(worst.get(name, 0.0), float(np.abs(array - reference).max()))
        actions, reward = expected.logits.argmax(-1).numpy(), next_reward
        state, ours = (found[2] if policy.config.recurrent else state), expected.state
    return list(worst.values())


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("two_stack", "two_conv", "recurrent")]


@pytest.mark.parametrize("name", ["three_stack", "recurrent, latent", *SLOW])
def test_the_model_computes_what_torch_does_step_by_step(name: str) -> None:
    policy = new_policy(NETWORKS[name])
    draws = np.random.default_rng(0)
    starts = draws.random((5, 2)) < 0.3
    starts[0] = True
    rewards = draws.normal(0, 2, (5, 2)).astype(np.float32)

    errors = played(policy, onnx_model(policy), draw_frames(5, 2), starts, rewards)

    assert len(errors) == 2 + policy.config.recurrent
    assert max(errors) < TOLERANCE


def test_a_model_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, other = new_policy(NETWORKS["two_conv"]), new_policy(NETWORKS["two_conv"])
    model = onnx_model(policy)
    next(other.parameters()).mul_(1.1)

    with pytest.raises(ValueError, match="onnx: logits of the model differ from torch's by"):
        tested._check(other, model)


def test_without_the_packages_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(tested, "import_module", missing)

    with pytest.raises(ValueError, match=r"the package onnx is missing: pip install 'lightning_rl\[onnx\]'"):
        onnx_model(new_policy(NETWORKS["two_conv"]))
