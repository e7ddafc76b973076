"""Figures and pictures of a world model, against play that it never learned from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_rl.callbacks.world_model_report import (
    Imagination,
    WorldModelReport,
    imagination,
    liveliest,
    pairs,
    summed_reward_accuracy,
    world_model_metrics,
)
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.simulator import Simulator
from lightning_rl.modules.simple.world_model import reward_classes
from lightning_rl.types import ImaginedStep, Windows
from tests.support.dreams import REWARDS, H, K, W, module, play, windows
from tests.support.full_disk import RememberingWandb, leave_no_room_for


class Known(Simulator):
    """Says what it was told: a shift of the newest frame, always the same reward."""

    reward = 1.0

    def imagine(
        self, obs: Tensor, actions: Tensor, generator: torch.Generator, state: Tensor | None = None
    ) -> ImaginedStep:
        newest = obs[..., -3:]
        rewards = torch.full((len(obs),), self.reward)
        return ImaginedStep(
            frames=newest // 2, rewards=rewards, expected_rewards=rewards / 2, end_probabilities=rewards * 0
        )


def known() -> SimPLeModule:
    learner = module()
    simulator = learner.simulator()
    simulator.__class__ = Known
    learner.simulator = lambda: simulator  # type: ignore[method-assign]
    return learner


@pytest.fixture
def replay(tmp_path: Path) -> ReplayBuffer:
    buffer = ReplayBuffer(tmp_path, game="noise", num_frames=K)
    rollout = play(num_steps=70, num_envs=22)
    rollout.terminated[:, 21] = False  # one of the two that are held out
    buffer.append(rollout)
    return buffer


def test_imagination_sees_the_first_stack_and_the_actions_only() -> None:
    learner = module("stochastic")
    given = windows(3, num_targets=4)
    blind = replace(given, frames=given.frames.clone(), rewards=torch.zeros_like(given.rewards))
    blind.frames[:, K:] = 0

    one, other = (imagination(learner, seen, torch.Generator().manual_seed(1)) for seen in (given, blind))

    assert one.frames.shape == (3, 4, H, W, 3)
    assert torch.equal(one.frames, other.frames)
    assert torch.equal(one.rewards, other.rewards)


def test_imagination_goes_on_from_its_own_frames() -> None:
    given = windows(2, num_targets=3)

    dreamt = imagination(known(), given, torch.Generator())

    newest = given.frames[:, K - 1]
    assert torch.equal(dreamt.frames, torch.stack([newest // 2, newest // 4, newest // 8], 1))


def test_summed_rewards_are_right_where_their_sums_are() -> None:
    length = K - 1 + 3
    rewards = torch.ones(4, length)
    rewards[:, K - 1 :] = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    given = replace(windows(4, num_targets=3), rewards=rewards)
    said = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.25]])
    dreamt = Imagination(torch.zeros(4, 3, H, W, 3, dtype=torch.uint8), said, said)

    shares = [summed_reward_accuracy(given, dreamt, module(), steps) for steps in (1, 2, 3)]

    # after one step rows 1, 2 and 3 are right; after two 2 and 3; after three 0
    assert shares == [0.75, 0.5, 0.25]


@pytest.mark.parametrize("long", [True, False])
def test_summed_rewards_are_compared_where_an_episode_lasts_for_fifty_steps(long: bool, tmp_path: Path) -> None:
    replay = ReplayBuffer(tmp_path, game="noise", num_frames=K)
    rollout = play(num_steps=70, num_envs=22)
    rollout.terminated[:] = (torch.arange(70) % 9 == 8)[:, None]
    rollout.rewards[:] = 0.0  # in short episodes, and so it is in the beginning of imagined ones
    if long:
        rollout.terminated[:, 21] = torch.arange(70) == 60  # the last step may end the episode
        rollout.rewards[:, 21] = (torch.arange(70) % 12 == 11).float()
    replay.append(rollout)
    learner = known()
    learner.simulator().reward = 0.0  # type: ignore[attr-defined]  # "always no reward" is never right

    metrics = world_model_metrics(learner, replay, num_steps=6)

    accuracies = {key: value for key, value in metrics.items() if key.split("_")[-1].isdigit()}
    horizons = ("world_model/reward_accuracy_12", "world_model/reward_accuracy_50")
    assert accuracies == (dict.fromkeys(horizons, 0.0) if long else {})


def test_metrics_measure_held_out_play(replay: ReplayBuffer) -> None:
    learner = known()

    metrics = world_model_metrics(learner, replay)

    drawn: Windows = replay.sample(512, num_targets=1, generator=torch.Generator().manual_seed(0), held_out=True)
    goes_on = ~drawn.ended[:, K - 1]
    before, after = drawn.frames[goes_on, K - 1].double(), drawn.frames[goes_on, K].double()
    classes = reward_classes(drawn.rewards[:, K - 1], torch.tensor(REWARDS))
    assert metrics["world_model/copy_frame_error"] == pytest.approx(float((before - after).square().mean()), rel=1e-4)
    assert metrics["world_model/frame_error"] == pytest.approx(
        float((before.div(2).floor() - after).square().mean()), rel=1e-4
    )
    assert metrics["world_model/majority_reward_accuracy"] == 1 / len(classes.unique())
    assert metrics["world_model/reward_accuracy"] == pytest.approx(1 / len(classes.unique()))  # it always says one
    whole = replay.sample(64, num_targets=50, generator=torch.Generator().manual_seed(2), held_out=True)
    assert not whole.valid.all()  # many are cut short
    assert metrics.keys() >= {"world_model/reward_accuracy_12", "world_model/reward_accuracy_50"}


def test_measuring_twice_gives_the_same_figures_and_draws_nothing_from_the_process(replay: ReplayBuffer) -> None:
    learner = module("stochastic")
    before = torch.get_rng_state()

    one, other = (world_model_metrics(learner, replay, num_steps=6, num_rollouts=1) for _ in range(2))

    assert one == other
    assert torch.equal(torch.get_rng_state(), before)


def test_the_picture_is_of_the_window_in_which_most_moves() -> None:
    given = windows(3, num_targets=3)
    frames, ended = given.frames.clone(), torch.zeros_like(given.ended)
    frames[0] = frames[0, :1]  # stands still
    frames[1, K:] = frames[1, K : K + 1]  # moves once
    frames[2, : K + 1] = frames[2, :1]  # moves twice, to begin with
    moving = replace(given, frames=frames, ended=ended, valid=torch.ones_like(given.valid))
    assert liveliest(moving, K) == 2

    ended[2, K:] = True  # these frames open other episodes
    assert liveliest(replace(moving, ended=ended), K) == 1


def test_the_video_shows_the_game_beside_the_model() -> None:
    given = windows(2, num_targets=3)
    real = given.frames[:, K:]
    same = Imagination(real, given.rewards[:, K - 1 :], given.rewards[:, K - 1 :])

    video = np.stack(list(pairs(given, same, K)))

    assert video.shape[0] == 3
    height, width = 3 * H + 14, 3 * W
    game, model = video[:, :height, :width], video[:, :height, width + 2 : 2 * width + 2]
    assert np.array_equal(game[:, 14:], model[:, 14:])
    assert np.array_equal(game[:, 14::3, ::3], real[0].numpy())
    assert not np.array_equal(game[:, :14], model[:, :14])  # who is who


@pytest.mark.parametrize(
    ("unwritten", "given"),
    [("imagined_7.mp4", ["media/imagined", "env_steps"]), ("imagined.png", ["media/imagined_7", "env_steps"])],
)
def test_a_full_disk_costs_a_picture_that_wandb_is_not_given(
    unwritten: str, given: list[str], replay: ReplayBuffer, tmp_path: Path
) -> None:
    trainer, wandb = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), RememberingWandb()
    trainer.loggers = [wandb]
    leave_no_room_for(tmp_path / "media" / unwritten)

    with pytest.warns(UserWarning, match=f"{unwritten} was not written .*No space left"):
        WorldModelReport(tmp_path, title="noise")._show(trainer, known(), replay, 7)

    assert wandb.logged == [given]
