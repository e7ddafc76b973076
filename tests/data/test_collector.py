from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.data.collector import Collector
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.types import ActorOutput, RecurrentInputs, Rollout
from tests.support.policies import PixelPolicy
from tests.support.toys import CountingVectorEnv, IdentityVectorEnv, TruncatingVectorEnv

OBS_SHAPE = (4, 6, 3)
NUM_STEPS, NUM_ENVS, NUM_ACTIONS = 7, 2, 5


def counting(num_envs: int = NUM_ENVS) -> CountingVectorEnv:
    return CountingVectorEnv(num_envs, (3, 5), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


def identity(seed: int) -> EpisodeStatistics:
    """An environment with a random stream of its own, below wrappers that remember."""
    env = IdentityVectorEnv(NUM_ENVS, seed=seed, episode_length=5, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    return EpisodeStatistics(ReturnScaling(env))


def collector_of(env: Any, seed: int = 0) -> Collector:
    return Collector(env, num_steps=NUM_STEPS, seed=seed)


def policy() -> PixelPolicy:
    return PixelPolicy(NUM_ACTIONS)


def fields_of(rollout: Rollout) -> dict[str, Tensor]:
    return {name: value for name, value in vars(rollout).items() if isinstance(value, Tensor)}


def assert_same(actual: Rollout, expected: Rollout) -> None:
    different = [name for name, value in fields_of(expected).items() if not torch.equal(getattr(actual, name), value)]
    assert different == []


def saved_and_loaded(collector: Collector, folder: Path) -> Any:
    torch.save(collector.state_dict(), folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"single_observation_space": Box(0, 1, OBS_SHAPE, np.float32)},
            r"of uint8 images \[H W C\], found observations",
        ),
        ({"single_observation_space": Box(0, 255, (4,), np.uint8)}, r"of uint8 images \[H W C\], found observations"),
        ({"single_action_space": Box(-1, 1, (2,))}, "of discrete actions, found actions"),
        ({"metadata": {"autoreset_mode": AutoresetMode.NEXT_STEP}}, "SAME_STEP, found .*NEXT_STEP"),
    ],
)
def test_games_of_another_kind_are_refused(change: dict[str, Any], told: str) -> None:
    env = counting()
    vars(env).update(change)

    with pytest.raises(ValueError, match=f"^games must be .*{told}"):
        collector_of(env)


class ReusingVectorEnv(CountingVectorEnv):
    """Returns the same array from every step, overwritten."""

    def _obs(self) -> NDArray[np.uint8]:
        if not hasattr(self, "_buffer"):
            self._buffer = super()._obs()
        self._buffer[...] = super()._obs()
        return self._buffer


class InterruptedPolicy(PixelPolicy):
    """Takes the collector's state in the middle of a rollout, as a signal handler does."""

    def __init__(self, collector: Collector) -> None:
        super().__init__(NUM_ACTIONS)
        self.collector = collector
        self.states: list[Any] = []

    def act(
        self, obs: NDArray[Any], generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False
    ) -> ActorOutput:
        self.states.append(self.collector.state_dict())
        return super().act(obs, generator, greedy=greedy)


class GradientPolicy(PixelPolicy):
    """Its logits are of a parameter that wants a gradient."""

    def act(
        self, obs: NDArray[Any], generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False
    ) -> ActorOutput:
        output = super().act(obs, generator, greedy=greedy)
        return ActorOutput(
            actions=output.actions, logits=output.logits * torch.ones(1, requires_grad=True), values=output.values
        )


def test_frames_are_those_that_the_environments_showed_in_order() -> None:
    rollout = collector_of(counting()).collect(policy())

    expected = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 3], [1, 4], [2, 0], [0, 1], [1, 2]], dtype=torch.uint8)
    assert torch.equal(rollout.obs, expected[:, :, None, None, None].expand(-1, -1, *OBS_SHAPE))


def test_an_end_stands_beside_the_action_that_brought_it() -> None:
    rollout = collector_of(counting()).collect(policy())

    assert rollout.terminated[:, 0].tolist() == [False, False, True, False, False, True, False]
    assert rollout.terminated[:, 1].tolist() == [False, False, False, False, True, False, False]


def test_a_reward_is_that_of_its_frame_and_its_action() -> None:
    rollout = collector_of(counting()).collect(policy())

    assert torch.equal(rollout.rewards, (100 * rollout.obs[:-1, :, 0, 0, 0].long() + rollout.actions).float())
    assert len(rollout.actions.unique()) == NUM_ACTIONS


def test_logits_and_values_are_those_of_their_frame() -> None:
    rollout = collector_of(counting()).collect(policy())

    pixels = rollout.obs[:-1, :, 0, 0, 0].float()
    assert torch.equal(rollout.behavior_logits, pixels[:, :, None] * torch.arange(NUM_ACTIONS))
    assert torch.equal(rollout.behavior_values, torch.stack([pixels, -pixels], dim=-1))


def test_a_rollout_begins_where_the_last_one_ended() -> None:
    collector = collector_of(counting())

    this, following = collector.collect(policy()), collector.collect(policy())

    assert torch.equal(following.obs[0], this.obs[-1])
    assert following.obs[:, 0, 0, 0, 0].tolist() == [1, 2, 0, 1, 2, 0, 1, 2]


def test_the_policy_thinks_once_about_each_frame_and_never_about_the_last() -> None:
    actor = policy()

    rollout = collector_of(counting()).collect(actor)

    assert actor.seen == rollout.obs[:-1, :, 0, 0, 0].tolist()


def test_actions_come_from_the_seed() -> None:
    first, again, other = (collector_of(counting(), seed).collect(policy()).actions for seed in (3, 3, 4))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_frame_is_stored_once() -> None:
    rollout = collector_of(counting()).collect(policy())

    assert rollout.obs.untyped_storage().nbytes() == (NUM_STEPS + 1) * NUM_ENVS * 4 * 6 * 3


def test_a_rollout_outlives_the_arrays_of_the_environment() -> None:
    env = ReusingVectorEnv(NUM_ENVS, (3, 5), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    collector = collector_of(env)

    first, second = collector.collect(policy()), collector.collect(policy())

    assert first.obs[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert second.obs[:, 0, 0, 0, 0].tolist() == [1, 2, 0, 1, 2, 0, 1, 2]


def test_a_rollout_that_nobody_holds_gives_its_memory_to_the_next() -> None:
    collector = collector_of(counting())
    first = collector.collect(policy())
    frame = first.obs[3]
    place, copy = first.obs.data_ptr(), frame.clone()

    del first
    second = collector.collect(policy())
    assert second.obs.data_ptr() != place  # one frame of it is held
    assert torch.equal(frame, copy)
    place = second.obs.data_ptr()

    del second
    assert collector.collect(policy()).obs.data_ptr() == place


class Reciting(PixelPolicy):
    """Its state counts its steps; it remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(NUM_ACTIONS)
        self.told: list[RecurrentInputs] = []

    def act(
        self, obs: NDArray[Any], generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False
    ) -> ActorOutput:
        self.told.append(recurrent_inputs)
        state = torch.full((NUM_ENVS, 1), float(len(self.told)))
        noise = torch.full((NUM_ENVS, 2), float(-len(self.told)))
        return replace(super().act(obs, generator, greedy=greedy), state=state, noise=noise)


@pytest.mark.parametrize("kind", [CountingVectorEnv, TruncatingVectorEnv])
def test_a_recurrent_policy_is_told_what_it_did_and_what_came_of_it(kind: type[CountingVectorEnv]) -> None:
    reciting = Reciting()
    collector = collector_of(kind(NUM_ENVS, (3, 5), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS))

    first, second = collector.collect(reciting), collector.collect(reciting)

    told = reciting.told
    assert told[0].starts.all()
    assert told[0].state.shape == (NUM_ENVS, 0)
    actions, rewards, ends = (
        torch.cat([getattr(r, k) for r in (first, second)]) for k in ("actions", "rewards", "terminated")
    )
    assert ends.any()
    for step, recurrent_inputs in enumerate(told[1:]):
        assert torch.equal(recurrent_inputs.previous_actions, actions[step])
        assert torch.equal(recurrent_inputs.previous_rewards, rewards[step])
        assert torch.equal(recurrent_inputs.starts, ends[step])
        assert recurrent_inputs.state.tolist() == [[step + 1.0]] * NUM_ENVS
    assert first.recurrent_inputs is told[0]
    assert torch.equal(second.recurrent_inputs.state, told[NUM_STEPS].state)
    assert first.behavior_noise is not None
    assert first.behavior_noise[:, 0, 0].tolist() == [-1.0 - step for step in range(NUM_STEPS)]


def test_a_recurrent_policy_is_told_the_games_own_rewards_however_they_are_scaled() -> None:
    scaled, plain = Reciting(), Reciting()

    rollout = collector_of(ReturnScaling(counting())).collect(scaled)
    unscaled = collector_of(counting()).collect(plain)

    assert not torch.equal(rollout.rewards, unscaled.rewards)
    assert rollout.raw_rewards is not None
    assert torch.equal(rollout.raw_rewards, unscaled.rewards)
    told = [torch.stack([each.previous_rewards for each in policy.told]) for policy in (scaled, plain)]
    assert torch.equal(*told)


def test_what_is_to_be_recalled_survives_a_restart(tmp_path: Path) -> None:
    collector, reciting = collector_of(counting()), Reciting()
    collector.collect(reciting)
    saved = saved_and_loaded(collector, tmp_path)
    collector.collect(reciting)

    other, fresh = collector_of(counting(), seed=7), Reciting()
    other.load_state_dict(saved)
    other.collect(fresh)

    expected = reciting.told[NUM_STEPS]
    assert all(torch.equal(getattr(fresh.told[0], f.name), getattr(expected, f.name)) for f in fields(RecurrentInputs))


def test_a_policy_without_a_state_draws_no_noise_and_recalls_nothing() -> None:
    collector = collector_of(counting())

    rollouts = [collector.collect(policy()) for _ in range(2)]

    assert [rollout.behavior_noise for rollout in rollouts] == [None, None]
    assert rollouts[1].recurrent_inputs.starts.all()


def test_running_out_of_time_counts_as_an_end() -> None:
    env = TruncatingVectorEnv(NUM_ENVS, (3, 5), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)

    assert_same(collector_of(env).collect(policy()), collector_of(counting()).collect(policy()))


def test_env_steps_count_the_decisions_of_all_environments() -> None:
    collector = collector_of(counting())
    counts = [collector.env_steps]

    for _ in range(2):
        collector.collect(policy())
        counts.append(collector.env_steps)

    assert counts == [0, 14, 28]


def test_nothing_that_is_collected_wants_a_gradient() -> None:
    rollout = collector_of(counting()).collect(GradientPolicy(NUM_ACTIONS))

    assert not any(value.requires_grad for value in fields_of(rollout).values())


def test_the_mean_reward_is_that_of_the_last_rollout() -> None:
    collector = collector_of(counting())
    collector.collect(policy())

    rollout = collector.collect(policy())

    assert collector.metrics() == pytest.approx({"rollout/reward": float(rollout.rewards.mean())})


def test_the_mean_reward_is_the_game_s_own_where_rewards_are_scaled() -> None:
    collector = collector_of(ReturnScaling(counting()))

    scaled = collector.collect(policy()).rewards

    raw = collector_of(counting()).collect(policy()).rewards
    assert collector.mean_raw_reward == pytest.approx(float(raw.mean()))
    assert not torch.allclose(scaled, raw)


def test_metrics_include_the_episodes_of_an_environment_that_counts_them() -> None:
    collector = collector_of(EpisodeStatistics(counting()))

    collector.collect(policy())

    assert collector.metrics()["episode/length"] == pytest.approx((3 + 5 + 3) / 3)


def test_another_collector_goes_on_from_the_state_bit_for_bit(tmp_path: Path) -> None:
    original, other = collector_of(identity(seed=1), seed=1), collector_of(identity(seed=2), seed=2)
    original.collect(policy())
    other.collect(policy())

    other.load_state_dict(saved_and_loaded(original, tmp_path))

    for _ in range(2):
        assert_same(other.collect(policy()), original.collect(policy()))
    assert torch.equal(other.generator.get_state(), original.generator.get_state())
    assert (other.env_steps, other.metrics()) == (original.env_steps, original.metrics())


def test_the_memory_of_the_method_is_restored(tmp_path: Path) -> None:
    original, other = collector_of(counting()), collector_of(counting())
    original.memory["discounted_sums"] = torch.randn(NUM_ENVS)

    other.load_state_dict(saved_and_loaded(original, tmp_path))

    assert other.memory.keys() == {"discounted_sums"}
    assert torch.equal(other.memory["discounted_sums"], original.memory["discounted_sums"])


def test_a_state_is_left_alone_by_what_follows() -> None:
    collector = collector_of(identity(seed=1))
    collector.memory["sums"] = torch.zeros(NUM_ENVS)
    collector.collect(policy())
    state = collector.state_dict()
    expected = collector_of(identity(seed=3))
    expected.load_state_dict(state)
    following = expected.collect(policy())

    collector.collect(policy())
    collector.memory["sums"] += 1

    restored = collector_of(identity(seed=4))
    restored.load_state_dict(state)
    assert_same(restored.collect(policy()), following)
    assert torch.equal(restored.memory["sums"], torch.zeros(NUM_ENVS))


def test_a_restored_collector_does_not_change_the_state_it_came_from() -> None:
    original = collector_of(counting())
    original.memory["sums"] = torch.zeros(NUM_ENVS)
    state = original.state_dict()
    restored = collector_of(counting())
    restored.load_state_dict(state)

    restored.memory["sums"] += 1
    restored.collect(policy())

    assert torch.equal(state["memory"]["sums"], torch.zeros(NUM_ENVS))
    assert state["env"]["steps"].tolist() == [0, 0]


def test_a_state_taken_in_mid_rollout_holds_the_environments_of_the_last_boundary() -> None:
    collector = collector_of(counting())
    collector.collect(policy())
    boundary = collector.state_dict()
    interrupted = InterruptedPolicy(collector)

    collector.collect(interrupted)

    steps = [state["env"]["steps"].tolist() for state in interrupted.states]
    assert steps == [boundary["env"]["steps"].tolist()] * NUM_STEPS
    assert [state["env_steps"] for state in interrupted.states] == [14] * NUM_STEPS


def test_a_state_saved_right_after_restoring_is_the_state_restored(tmp_path: Path) -> None:
    original, other = collector_of(counting()), collector_of(counting())
    original.collect(policy())
    other.load_state_dict(saved_and_loaded(original, tmp_path))

    again = collector_of(counting())
    again.load_state_dict(saved_and_loaded(other, tmp_path))

    assert again.env_steps == 14
    assert_same(again.collect(policy()), original.collect(policy()))


def test_a_state_of_other_environments_is_refused() -> None:
    with pytest.raises(ValueError, match=r"collector\.recall\.\w+ must be .* of shape \(2\), found .* of shape \(3\)"):
        collector_of(counting()).load_state_dict(collector_of(counting(num_envs=3)).state_dict())


def test_closing_closes_the_environments() -> None:
    env = counting()

    collector_of(env).close()

    assert env.closed
