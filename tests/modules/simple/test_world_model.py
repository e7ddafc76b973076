"""What the world model is asked to predict along a window."""

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.losses.world_model import clipped_cross_entropy, clipped_frame_squared_error
from lightning_rl.modules.simple.world_model import (
    WorldModelBatch,
    mixing,
    own_frame_probability,
    reward_classes,
    window_losses,
)
from lightning_rl.networks.world_model.next_frame import NextFrame
from lightning_rl.networks.world_model.pixels import most_likely_frames
from lightning_rl.types import Windows
from tests.support.dreams import KINDS, REWARDS, H, K, W, module, options, windows

VALUES = torch.tensor(REWARDS)
END = 10**9  # an update by which all ramps have ended


def losses(
    given: Windows, *, kind: str = "deterministic", update: int = 0, seed: int = 0, **options: Any
) -> dict[str, Tensor]:
    learner = module(kind, world_model={"dropout": 0.0, "residual_dropout": 0.0, **options})
    batch = WorldModelBatch(windows=given, update=update)
    generator = torch.Generator().manual_seed(seed)
    return window_losses(
        learner.world_model,
        batch,
        learner.options,
        reward_values=VALUES,
        reward_cutoff=learner.reward_cutoff,
        generator=generator,
    )


def test_a_reward_is_its_nearest_class_but_never_none_unless_it_is_none() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.9], [0.04, -0.01, 7.0]])

    classes = reward_classes(rewards, VALUES)

    assert VALUES[classes].tolist() == [[0.0, 1.0, 1.0], [0.25, 0.25, 1.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_other_episodes_cost_nothing_whatever_they_hold(kind: str) -> None:
    given = windows(valid=False)
    changed = replace(
        given,
        rewards=torch.where(given.valid, given.rewards, 1.0),
        ended=torch.where(given.valid, given.ended, True),
    )
    assert not torch.equal(changed.ended, given.ended)

    one, other = losses(given, kind=kind), losses(changed, kind=kind)

    assert one.keys() == options(kind).loss_weights.keys()
    assert all(torch.equal(one[name], other[name]) for name in ("reward", "end"))


def test_the_frame_after_an_end_costs_nothing() -> None:
    given = windows()
    ended = replace(given, ended=torch.ones_like(given.ended))

    assert losses(given)["frames"] > 0
    assert losses(ended)["frames"] == 0
    assert losses(ended)["reward"] > 0
    assert losses(given, kind="stochastic")["prior"] > 0
    assert losses(ended, kind="stochastic")["prior"] == 0  # nor what its code would have been


@pytest.mark.parametrize("fed", ["real", "own"])
def test_predictions_go_on_from_real_frames_at_first_and_from_the_models_own_in_the_end(fed: str) -> None:
    given = windows(num_targets=2)
    learner = module(world_model={"dropout": 0.0, "residual_dropout": 0.0})

    actual = losses(given, update=0 if fed == "real" else END)

    with torch.no_grad():
        stack = list(given.frames[:, :K].unbind(1))
        expected = []
        for step in (K - 1, K):
            predicted = learner.world_model(torch.cat(stack, dim=-1), given.actions[:, step])
            target = given.frames[:, step + 1]
            expected.append(clipped_frame_squared_error(predicted.frames.squeeze(-1), target).mean())
            own = most_likely_frames(predicted.frames, stack[-1], tolerance=10**0.5)
            stack = [*stack[1:], target if fed == "real" else own]
    assert torch.allclose(actual["frames"], torch.stack(expected).mean(), rtol=1e-4)


def test_changes_that_the_loss_forgives_are_none_in_imagination() -> None:
    learner, obs = module(), torch.cat(list(windows().frames[:, :K].unbind(1)), dim=-1)
    newest = obs[..., -3:].int()
    for change, applied in ((3.0, False), (3.3, True), (-3.0, False), (-3.3, True)):
        torch.nn.init.zeros_(learner.world_model.pixels.dense.weight)
        torch.nn.init.constant_(learner.world_model.pixels.dense.bias, change / 64)

        seen = (
            learner.simulator().imagine(obs, torch.zeros(len(obs), dtype=torch.int64), torch.Generator()).frames.int()
        )

        assert torch.equal(seen, (newest + (round(change) if applied else 0)).clamp(0, 255))


def test_a_recurrent_model_predicts_the_frames_that_it_is_warmed_up_on() -> None:
    given = windows()
    warm = torch.zeros_like(given.valid)
    warm[:, : K - 1] = True

    assert losses(replace(given, valid=warm), kind="stochastic")["frames"] > 0
    assert losses(replace(given, valid=warm), kind="deterministic")["frames"] == 0


def test_losses_of_a_recurrent_model_are_the_published_means(monkeypatch: pytest.MonkeyPatch) -> None:
    given = windows(num_targets=2, valid=False)
    learner = module("stochastic")
    count, length = given.actions.shape
    logits = 3 * torch.randn(length, count, H, W, 3, 256, generator=torch.Generator().manual_seed(1))
    frame = given.frames[:, 1:].long().transpose(0, 1)
    logits.scatter_add_(-1, frame.unsqueeze(-1), torch.full_like(logits[..., :1], 14.0))  # some below the cutoff
    rewards, ends, priors = torch.randn(length, count, 4), torch.randn(length, count), torch.rand(length, count)
    steps = iter(range(length))

    def predicted(*_: object, **__: object) -> NextFrame:
        step = next(steps)
        return NextFrame(logits[step], rewards[step], ends[step], torch.zeros(count, 5, H, W), priors[step])

    monkeypatch.setattr(learner.world_model, "forward", predicted)

    found = window_losses(
        learner.world_model,
        WorldModelBatch(windows=given, update=0),
        learner.options,
        reward_values=VALUES,
        reward_cutoff=0.03,
        generator=torch.Generator().manual_seed(0),
    )

    valid, ended = given.valid.T.numpy(), given.ended.T.numpy()
    numbers = logits.double().numpy()
    nats = np.log(np.exp(numbers).sum(-1)) - np.take_along_axis(numbers, frame[..., None].numpy(), -1)[..., 0]
    frames = np.maximum(nats - 0.03, 0).mean((2, 3, 4)) * valid * ~ended
    assert 0.1 < (nats < 0.03).mean() < 0.9
    scores = rewards.double().numpy()
    classes = (given.rewards.T[..., None] == VALUES).numpy()
    misses = np.maximum(np.log(np.exp(scores).sum(-1)) - scores[classes].reshape(length, count) - 0.03, 0) * valid
    chances = 1 / (1 + np.exp(-ends.double().numpy()))
    surprises = -np.log(np.where(ended, chances, 1 - chances)) * valid
    targets = slice(K - 1, None)
    expected = {
        "frames": frames[targets].mean() + frames[: K - 1].mean(),  # the loss of targets, and `internal_loss`
        "reward": misses[targets].mean(),
        "end": surprises[targets].mean(),
        "prior": (priors.double().numpy() * valid * ~ended).mean(),
    }
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(expected, rel=1e-4)


def test_a_recurrent_model_is_warmed_up_on_real_frames_and_fed_its_own_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, learner = windows(num_targets=3), module("stochastic", world_model={"num_targets": 3})
    forward, seen, own = learner.world_model.forward, [], []

    def recorded(obs: Tensor, *args: Any, **options: Any) -> NextFrame:
        predicted = forward(obs, *args, **options)
        seen.append(obs.clone())
        own.append(predicted.frames.argmax(-1).byte())
        return predicted

    monkeypatch.setattr(learner.world_model, "forward", recorded)

    learner.objective(WorldModelBatch(windows=given, update=END), torch.Generator().manual_seed(0))

    assert len(seen) == K - 1 + 3
    assert all(torch.equal(frames, given.frames[:, step]) for step, frames in enumerate(seen[:K]))
    assert all(torch.equal(frames, own[step - 1]) for step, frames in enumerate(seen) if step >= K)
    assert not any(torch.equal(own[step], given.frames[:, step + 1]) for step in range(K - 1))


def test_probabilities_grow_as_in_the_released_code() -> None:
    assert tuple(mixing(0, 40_000)) == pytest.approx((0.01, 0.005, 0.008))
    assert tuple(mixing(10_000, 40_000)) == pytest.approx((0.2575, 0.12875, 0.8 * 0.505))
    assert tuple(mixing(40_000, 40_000)) == pytest.approx((1.0, 0.5, 0.8))
    assert own_frame_probability(0, 40_000) == pytest.approx(1e-4)
    assert own_frame_probability(10_000, 40_000) == pytest.approx(0.2575)
    assert own_frame_probability(40_000, 40_000) == 1.0


def test_a_model_learns_by_the_ramp_of_its_own_options() -> None:
    given, mixed = windows(), []
    learner = module("stochastic", world_model={"ramp": 7})
    with mock.patch.object(learner.world_model, "forward", wraps=learner.world_model.forward) as forward:
        learner.objective(WorldModelBatch(windows=given, update=2), torch.Generator().manual_seed(0))
        mixed = [call.kwargs["mixing"] for call in forward.call_args_list]

    grown = 0.01 + 0.99 * 2 / 7
    assert len(mixed) == K + 1
    assert all(found == pytest.approx((grown, 0.5 * grown, 0.8 * (0.01 + 0.99 * 2 / 3))) for found in mixed)
    early, late = losses(given, update=7, ramp=7), losses(given, update=7, ramp=10**9)
    assert early["frames"].equal(losses(given, update=END)["frames"])  # fed its own
    assert late["frames"].equal(losses(given, update=0)["frames"])  # fed real ones
    assert not early["frames"].equal(late["frames"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_loss_forgives_what_its_cutoff_says(kind: str) -> None:
    forgiven = [losses(windows(), kind=kind, frame_cutoff=cutoff)["frames"].item() for cutoff in (0.0, 0.5, 1e9)]

    assert forgiven[0] > forgiven[1] > forgiven[2] == 0
    if kind == "deterministic":
        assert forgiven[0] - forgiven[1] < 0.5  # errors under it are forgiven whole, the others half a squared level


def test_each_loss_has_its_own_weight() -> None:
    learner = module("stochastic", world_model={"frame_weight": 3.0, "reward_weight": 5.0})
    batch = WorldModelBatch(windows=windows(), update=1)

    assert learner.weights(batch) == {"frames": 3.0, "reward": 5.0, "end": 1.0, "prior": 1.0}


def test_micro_batches_hold_every_window_once() -> None:
    batch = WorldModelBatch(windows=windows(7), update=3)

    parts = batch.split(MicroBatchConfig(size=8, num_threads=2))

    assert torch.equal(torch.cat([part.windows.frames for part in parts]), batch.windows.frames)
    assert {part.update for part in parts} == {3}
    assert len(parts) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_weights_learn_from_steps_that_own_frames_were_fed_to_under_mixed_precision_too(kind: str) -> None:
    learner, gradients = module(kind, world_model={"dropout": 0.0, "residual_dropout": 0.0}), []
    for mixed in (False, True):
        batch = WorldModelBatch(windows=windows(num_targets=2), update=END)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found = window_losses(
                learner.world_model,
                batch,
                learner.options,
                reward_values=VALUES,
                reward_cutoff=learner.reward_cutoff,
                generator=torch.Generator().manual_seed(0),
            )
        learner.zero_grad()
        (found["frames"] + found["reward"]).backward()
        gradients.append({name: p.grad for name, p in learner.world_model.named_parameters() if p.grad is not None})

    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 10


def test_losses_of_windows_of_which_some_are_fed_own_frames_are_those_of_each_step_alone() -> None:
    given = windows(5, num_targets=3, valid=False)
    learner = module(world_model={"dropout": 0.0, "residual_dropout": 0.0, "num_targets": 3})
    model = learner.world_model

    with mock.patch("lightning_rl.modules.simple.world_model.own_frame_probability", return_value=0.5):
        actual = window_losses(
            model,
            WorldModelBatch(windows=given, update=0),
            learner.options,
            reward_values=VALUES,
            reward_cutoff=learner.reward_cutoff,
            generator=torch.Generator().manual_seed(4),
        )

    draws = torch.Generator().manual_seed(4)
    own = torch.stack([torch.rand(5, generator=draws) < 0.5 for _ in range(2)])
    assert 0 < int(own.sum()) < own.numel()
    expected = {"frames": 0.0, "reward": 0.0, "end": 0.0}
    for window in range(5):
        frames = list(given.frames[window : window + 1].unbind(1))
        for index, step in enumerate(range(K - 1, K + 2)):
            stack, target = (
                torch.cat(frames[step - K + 1 : step + 1], dim=-1),
                given.frames[window : window + 1, step + 1],
            )
            with torch.no_grad():
                predicted = model(stack, given.actions[window : window + 1, step])
            if given.valid[window, step]:
                ended = given.ended[window, step].float()
                error = clipped_frame_squared_error(predicted.frames.squeeze(-1), target)
                expected["frames"] += float(error * (1 - ended))
                of_reward = clipped_cross_entropy(
                    predicted.reward_logits,
                    reward_classes(given.rewards[window : window + 1, step], VALUES),
                    cutoff=learner.reward_cutoff,
                )
                expected["reward"] += float(of_reward)
                assert predicted.end_logits is not None
                expected["end"] += float(binary_cross_entropy_with_logits(predicted.end_logits[0], ended))
            if index < 2 and own[index, window]:
                frames[step + 1] = most_likely_frames(predicted.frames, frames[step], tolerance=10**0.5)
    for name, total in expected.items():
        assert actual[name].item() == pytest.approx(total / 15, rel=1e-4)
