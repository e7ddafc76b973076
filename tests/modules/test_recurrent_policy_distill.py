from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.modules.recurrent_policy_distill import RecurrentPolicyDistillModule, TaughtSequences
from lightning_rl.policies.config import RECURRENT, NetworkConfig
from lightning_rl.types import Rollout
from tests.support import reference
from tests.support.compare import assert_matches
from tests.support.exported import policy_of
from tests.support.teachers import make_teacher, write_teacher
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import (
    NUM_ACTIONS,
    NUM_ENVS,
    NUM_STEPS,
    OBS_SHAPE,
    SIZES,
    fit,
    generator,
    make_collector,
    make_trainer,
)

HIDDEN = 6
TEACHERS = {
    "plain": NetworkConfig(name="three_stack", channels=[2, 3], hidden=5, pooling="average"),
    "recurrent": NetworkConfig(name=RECURRENT, channels=[2, 3], hidden=4, pooling="average"),
}


def make_student(tmp_path: Path, *, teacher: str = "plain", **options: Any) -> RecurrentPolicyDistillModule:
    policy = make_teacher(obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS, network=TEACHERS[teacher])
    small = {"channels": (2, 3), "hidden": HIDDEN, "pooling": "average", "epochs": 1}
    torch.manual_seed(0)
    return RecurrentPolicyDistillModule(
        teacher=str(write_teacher(tmp_path / "teacher", policy)), **(SIZES | small | options)
    )


def games() -> CountingVectorEnv:
    return CountingVectorEnv(NUM_ENVS, (3, 4, 7), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


def step_by_step(module: RecurrentPolicyDistillModule, batch: TaughtSequences) -> tuple[Tensor, Tensor]:
    """Logits and values of the student, with a state that is carried by hand and forgotten where episodes begin."""
    state = batch.state if batch.state.shape[1] else torch.zeros(len(batch), 2 * HIDDEN)
    logits, values = [], []
    for step in range(NUM_STEPS):
        kept = state * (~batch.starts[step]).unsqueeze(-1)
        told = (batch.previous_actions[step], batch.previous_rewards[step], torch.zeros(len(batch), dtype=torch.bool))
        output = module.network.step(batch.obs[step], torch.zeros(len(batch), 0), *told, kept)
        logits.append(output.logits)
        values.append(output.values[:, 0])
        state = output.state
    return torch.stack(logits), torch.stack(values)


class Witness:
    """A source that keeps the rollouts."""

    def __init__(self, env: Any = None) -> None:
        self._collector = make_collector(games() if env is None else env)
        self.generator, self.memory, self.replay = self._collector.generator, self._collector.memory, None
        self.rollouts: list[Rollout] = []

    def collect(self, policy: Any) -> Rollout:
        self.rollouts.append(self._collector.collect(policy))
        return self.rollouts[-1]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_sequences_hold_what_the_student_acted_with_from_rollout_to_rollout(
    teacher: str, scaled: bool, tmp_path: Path
) -> None:
    module, source = make_student(tmp_path, teacher=teacher), Witness(ReturnScaling(games()) if scaled else games())

    for _ in range(3):
        (batch,) = module.batches(source)
        assert isinstance(batch, TaughtSequences)
        logits, _ = step_by_step(module, batch)
        acted = source.rollouts[-1].behavior_logits
        for sequence, frames in zip(logits.unbind(1), batch.obs.unbind(1), strict=True):  # in an order of their own
            [which] = [env for env in range(NUM_ENVS) if torch.equal(source.rollouts[-1].obs[:-1, env], frames)]
            torch.testing.assert_close(sequence, acted[:, which], rtol=1e-4, atol=1e-5)
    assert source.rollouts[1].terminated.any()
    assert source.rollouts[1].recurrent_inputs.state.abs().sum() > 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_loss_is_the_mean_divergence_over_all_steps_of_the_sequences(temperature: float, tmp_path: Path) -> None:
    module = make_student(tmp_path, temperature=temperature, regress_values=True, value_weight=0.3)
    collector = make_collector(games())
    next(iter(module.batches(collector)))
    (batch,) = module.batches(collector)  # in the middle of episodes
    assert isinstance(batch, TaughtSequences)

    losses, metrics = module.objective(batch, generator())

    logits, values = (tensor.detach().double().numpy() for tensor in step_by_step(module, batch))
    expected = reference.kl_divergence(batch.teacher_logits.double().numpy() / temperature, logits)
    assert expected.shape == (NUM_STEPS, NUM_ENVS)
    assert_matches(losses["distill"].detach(), expected.mean())
    assert_matches(metrics["teacher/divergence"], expected.mean())
    regression = reference.squared_value_loss(values, batch.teacher_values.double().numpy())
    assert_matches(losses["value"].detach(), regression.mean())
    assert module.weights(batch) == {"distill": 1.0, "value": 0.3}


def test_minibatches_are_of_whole_sequences_each_once(tmp_path: Path) -> None:
    module = make_student(tmp_path, minibatch_size=NUM_STEPS, epochs=2)

    batches = list(module.batches(make_collector(games())))

    assert len(batches) == module.batches_per_iteration(NUM_STEPS, NUM_ENVS) == 2 * NUM_ENVS
    assert [len(batch) for batch in batches] == [1] * len(batches)
    logits = [batch.teacher_logits.sum().item() for batch in batches if isinstance(batch, TaughtSequences)]
    assert sorted(logits[:NUM_ENVS]) == sorted(logits[NUM_ENVS:])


def test_parts_of_a_minibatch_are_its_sequences(tmp_path: Path) -> None:
    (batch,) = make_student(tmp_path).batches(make_collector(games()))
    assert isinstance(batch, TaughtSequences)

    parts = batch.split(MicroBatchConfig(size=NUM_STEPS, num_threads=1))

    assert [len(part) for part in parts] == [1] * NUM_ENVS
    torch.testing.assert_close(torch.cat([part.obs for part in parts], 1), batch.obs)
    torch.testing.assert_close(torch.cat([part.state for part in parts]), batch.state)


def test_learning_changes_the_student_and_never_the_teacher(tmp_path: Path) -> None:
    module = make_student(tmp_path, teacher="recurrent", regress_values=True, learning_rate=0.01)
    assert module.teacher is not None
    teacher = {name: tensor.clone() for name, tensor in module.teacher.state_dict().items()}
    student = [parameter.detach().clone() for parameter in module.network.parameters()]

    fit(module, RolloutDataset(module, make_collector(games()), iterations=3))

    assert all(torch.equal(tensor, teacher[name]) for name, tensor in module.teacher.state_dict().items())
    assert not any(torch.equal(a, b) for a, b in zip(student, module.network.parameters(), strict=True))


def test_it_is_exported_as_a_recurrent_policy(tmp_path: Path) -> None:
    module = make_student(tmp_path)
    obs = np.random.default_rng(1).integers(256, size=(NUM_ENVS, *OBS_SHAPE), dtype=np.uint8)

    output = policy_of(module)(obs)

    acted = module.act(obs, generator(), greedy=True)
    assert torch.equal(output.logits, acted.logits)
    assert output.state is not None
    assert acted.state is not None
    assert torch.equal(output.state, acted.state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "two_conv"}, r"^model\.network must be three_stack, on which the LSTM stands, found two_conv$"),
        ({"dropout": 0.5}, r"^model\.dropout must be 0 for a student with an LSTM, found 0\.5$"),
    ],
)
def test_options_of_networks_without_a_memory_are_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_student(tmp_path, **options)


def test_minibatches_that_would_cut_sequences_are_refused(tmp_path: Path) -> None:
    module = make_student(tmp_path, minibatch_size=NUM_ENVS)

    with pytest.raises(ValueError, match=r"^model\.minibatch_size must be a multiple of data\.num_steps, 5, found 3$"):
        module.batches_per_iteration(NUM_STEPS, NUM_ENVS)


def test_it_is_accepted_for_training(tmp_path: Path) -> None:
    make_student(tmp_path).check_trainer(make_trainer())
