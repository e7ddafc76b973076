from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_rl.envs.frame_stack import FrameStack
from lightning_rl.protocols import ResumableVectorEnv
from tests.support.toys import CountingVectorEnv, IdentityVectorEnv

OBS_SHAPE = (2, 3, 3)


def counting(*episode_lengths: int) -> CountingVectorEnv:
    return CountingVectorEnv(len(episode_lengths), episode_lengths, obs_shape=OBS_SHAPE)


class ColouredVectorEnv(IdentityVectorEnv):
    """Stripes that look different in each channel."""

    def _obs(self) -> NDArray[np.uint8]:
        return super()._obs() // np.array([1, 2, 3], dtype=np.uint8)


def played(env: ResumableVectorEnv, num_steps: int) -> list[NDArray[np.uint8]]:
    """The observations over `num_steps`, as they were when they came."""
    return [env.step(np.zeros(env.num_envs, dtype=np.int64))[0].copy() for _ in range(num_steps)]


@pytest.mark.parametrize("copy", [False, True])
def test_the_last_frames_are_seen_the_newest_last_and_none_of_the_episode_before(copy: bool) -> None:
    env = FrameStack(counting(6, 4), 3, copy=copy)

    obs = np.stack([env.reset()[0].copy(), *played(env, 6)])

    assert obs.shape == (7, 2, 2, 3, 9)
    newest_of_each_frame = obs.reshape(7, 2, -1, 3, 3)
    assert (newest_of_each_frame == newest_of_each_frame[:, :, :1, :, :1]).all()
    assert newest_of_each_frame[:, 0, 0, :, 0].tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [0, 0, 0],
    ]  # fmt: skip
    assert newest_of_each_frame[:, 1, 0, :, 0].tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 0], [0, 0, 1], [0, 1, 2],
    ]  # fmt: skip


@pytest.mark.parametrize("copy", [False, True])
def test_every_pixel_keeps_its_place_and_its_channels(copy: bool) -> None:
    inner, twin = (ColouredVectorEnv(2, seed=3, episode_length=7, obs_shape=(2, 8, 3), num_actions=8) for _ in "ab")
    env = FrameStack(inner, 2, copy=copy)
    frames = [twin.reset()[0], *played(twin, 6)]

    stacks = played(env, 6)

    for before, frame, stack in zip(frames, frames[1:], stacks, strict=False):
        np.testing.assert_array_equal(stack, np.concatenate([before, frame], axis=-1))


def test_copies_are_the_callers_to_keep() -> None:
    env = FrameStack(counting(3, 5), 2)
    obs, _ = env.reset()
    kept = obs.copy()

    played(env, 4)

    np.testing.assert_array_equal(obs, kept)


def test_without_copies_two_arrays_take_turns() -> None:
    env = FrameStack(counting(50), 2, copy=False)

    first, second, third = (env.step(np.array([0]))[0] for _ in range(3))

    assert np.shares_memory(first, third)
    assert not np.shares_memory(first, second)


def test_rewards_and_ends_pass_through() -> None:
    env, bare = FrameStack(counting(3, 5), 2), counting(3, 5)

    for step, expected in ((env.step(np.array([1, 2])), bare.step(np.array([1, 2]))) for _ in range(6)):
        for actual, value in zip(step[1:4], expected[1:4], strict=True):
            np.testing.assert_array_equal(actual, value)
        assert step[4].keys() == expected[4].keys()


def test_the_spaces_have_all_channels() -> None:
    env = FrameStack(counting(3, 5), 4)

    assert env.single_observation_space.shape == (2, 3, 12)
    assert env.observation_space.contains(env.reset()[0])


@pytest.mark.parametrize("copy", [False, True])
def test_a_state_continues_bit_for_bit_in_another_stack(copy: bool, tmp_path: Path) -> None:
    original, other = FrameStack(counting(4, 9), 3, copy=copy), FrameStack(counting(4, 9), 3, copy=copy)
    obs = played(original, 6)[-1]
    played(other, 3)

    torch.save(original.get_state(), tmp_path / "state.pt")
    restored = other.set_state(torch.load(tmp_path / "state.pt", weights_only=True))

    np.testing.assert_array_equal(restored, obs)
    np.testing.assert_array_equal(other.reset()[0], obs)
    np.testing.assert_array_equal(played(other, 9), played(original, 9))


def test_a_state_is_a_copy_that_later_steps_leave_alone() -> None:
    env = FrameStack(counting(9), 3, copy=False)
    state = env.get_state()
    outcome = played(env, 5)

    env.set_state(state)

    np.testing.assert_array_equal(played(env, 5), outcome)


def test_a_state_of_other_stacks_is_refused_before_anything_changes() -> None:
    env = FrameStack(counting(9, 9), 3)
    played(env, 2)

    with pytest.raises(ValueError, match=r"of shape \(2, 2, 3, 9\), found a uint8 tensor of shape \(2, 2, 3, 6\)"):
        env.set_state(FrameStack(counting(9, 9), 2).get_state())
    with pytest.raises(ValueError, match="a state of FrameStack has env, stacks"):
        env.set_state(counting(9, 9).get_state())

    assert played(env, 1)[0][0, 0, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
