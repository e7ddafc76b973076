"""SimPLe's loop: what is learned when, from what, and by which network."""

import math
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.envs.imagined import Outcomes
from lightning_rl.losses.returns import discounts_from, generalized_advantages
from lightning_rl.modules.ppo import PPOBatch
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.outer_loop import OuterLoopConfig
from lightning_rl.modules.simple.world_model import WorldModelBatch
from lightning_rl.protocols import Replay, Source, WorldModel
from lightning_rl.runs.checkpoint_files import METADATA
from lightning_rl.types import ImaginedStep, Rollout
from tests.support.dreams import KINDS, OBS_SHAPE, REWARDS, K, Recorded, module, play, windows
from tests.support.worlds import Batches, fit, generator, learn_once


@pytest.fixture
def source(tmp_path: Path) -> Recorded:
    return Recorded(ReplayBuffer(tmp_path, game="noise", num_frames=K))


def policy_batch() -> PPOBatch:
    count = 8
    generator = torch.Generator().manual_seed(2)
    return PPOBatch(
        obs=torch.randint(256, (count, *OBS_SHAPE), generator=generator, dtype=torch.uint8),
        actions=torch.randint(5, (count,), generator=generator),
        behavior_log_probs=torch.randn(count, generator=generator) - 2,
        behavior_values=torch.zeros(count),
        advantages=torch.randn(count, generator=generator),
        returns=torch.randn(count, generator=generator),
    )


def test_the_parts_fit_the_protocols(source: Recorded) -> None:
    assert isinstance(source, Source)
    assert isinstance(module().simulator(), WorldModel)


def test_a_run_goes_through_its_phases(source: Recorded) -> None:
    learner = module()
    seen = []
    for _ in range(12):
        declared = learner.batches_per_iteration(9, 4)
        batches = list(learner.batches(source))
        kinds = {type(batch) for batch in batches}
        assert len(batches) == declared
        assert len(kinds) == 1
        seen.append((kinds.pop().__name__, len(batches), source.collected))

    model, policy = "WorldModelBatch", "PPOBatch"
    updates = 3 * 5 // 2  # epochs × steps with a known next value, two steps of four environments in a minibatch
    first = [(model, 2, 1), (model, 2, 1), (model, 1, 1), (policy, updates, 1), (policy, updates, 1)]
    second = [(model, 2, 2), (model, 1, 2), *[(policy, updates, 2)] * 4]
    assert seen == [*first, *second, (model, 2, 3)]
    assert int(learner.world_model_updates) == 5 + 3 + 2
    assert int(learner.imagined_steps) == (2 + 4) * 4 * 6


def test_the_phase_that_runs_is_told(source: Recorded) -> None:
    learner = module()

    told = []
    for _ in range(4):
        list(learner.batches(source))
        told.append((learner.phase, learner.world_model_is_trained))

    assert told == [
        ("pass 1: world model 0%", False),
        ("pass 1: world model 20%", False),
        ("pass 1: world model 40%", True),
        ("pass 1: policy 60%", False),
    ]


def test_validation_is_due_after_the_last_slice_of_each_pass(source: Recorded) -> None:
    learner = module()
    lengths = [len(learner.outer_loop.slices(number, 4 * 6)) for number in range(3)]

    due = []
    for _ in range(sum(lengths)):
        for _batch in learner.batches(source):
            now = learner.validation_is_due
        due.append(now)

    assert lengths == [5, 6, 4]
    assert [number for number, now in enumerate(due, start=1) if now] == list(accumulate(lengths))


def test_the_policy_learns_from_collected_play_only_if_asked_to(source: Recorded) -> None:
    learner = module(learn_from_real=True)

    declared = learner.batches_per_iteration(9, 4)
    batches = list(learner.batches(source))

    assert [type(batch) for batch in batches] == [PPOBatch] * 13 + [WorldModelBatch] * 2
    assert len(batches) == declared
    assert isinstance(batches[0], PPOBatch)
    real = play(seed=1).obs[:-1].flatten(0, 1)
    assert all((real == frame).flatten(1).all(1).any() for frame in batches[0].obs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", ["world model", "policy"])
def test_a_batch_changes_the_network_that_it_is_for_and_no_bit_of_the_other(kind: str, batch: str) -> None:
    learner = module(kind)
    before = {name: parameter.detach().clone() for name, parameter in learner.named_parameters()}
    learner.world_model_updates.fill_(50)
    given: Any = WorldModelBatch(windows=windows(), update=50) if batch == "world model" else policy_batch()

    fit(learner, Batches(given))

    changed = {
        name.split(".")[0] for name, parameter in learner.named_parameters() if not parameter.equal(before[name])
    }
    assert changed == {"world_model" if batch == "world model" else "network"}


def test_imagined_play_starts_from_real_stacks_in_every_environment(source: Recorded) -> None:
    learner = module()
    replay = source.replay
    assert replay is not None
    replay.append(play())
    real = {bytes(stack.numpy()) for stack in replay.starts(600, generator=torch.Generator().manual_seed(0))}

    rollouts = [learner.imagined_rollout(replay, source.generator) for _ in range(2)]

    for rollout in rollouts:
        assert rollout.obs.shape == (7, 4, *OBS_SHAPE)
        assert all(bytes(stack.numpy()) in real for stack in rollout.obs[0])
        assert {float(reward) for reward in rollout.rewards.flatten()} <= set(REWARDS)
    assert not torch.equal(rollouts[0].obs[0], rollouts[1].obs[0])


def test_the_value_of_the_last_state_is_the_bootstrap_and_its_reward_is_not_learned_from(source: Recorded) -> None:
    learner = module()
    rollout = play(num_steps=6, seed=8)
    rollout.behavior_values.copy_(torch.randn(6, 4, 1, generator=torch.Generator().manual_seed(1)))
    learner.imagined_rollout = lambda *_: rollout  # type: ignore[method-assign]
    assert source.replay is not None

    batches = list(learner._imagined_minibatches(source.replay, source.generator, 1))

    values = rollout.behavior_values[..., 0]
    advantages = generalized_advantages(
        rewards=rollout.rewards[:5],
        discounts=discounts_from(rollout.terminated[:5], 0.99),
        values=values[:5],
        next_values=values[1:],
        lambda_=0.95,
    )
    normalised = (advantages - advantages.mean()) / advantages.std(correction=0)
    frames = rollout.obs[:5].flatten(0, 1)
    for batch in batches:
        rows = [int((frames == frame).flatten(1).all(1).nonzero()) for frame in batch.obs]
        assert torch.allclose(batch.returns, (advantages + values[:5]).flatten()[rows], atol=1e-5)
        assert torch.allclose(batch.advantages, normalised.flatten()[rows], atol=1e-4)


def test_a_minibatch_holds_whole_steps_and_epochs_visit_each_about_equally(source: Recorded) -> None:
    learner = module(epochs=4)
    rollout = play(num_steps=5, seed=4)
    frames = rollout.obs[:5].flatten(0, 1)

    batches = list(learner._minibatches(rollout, torch.zeros(4, 1), source.generator))

    steps = []
    for batch in batches:
        rows = [int((frames == frame).flatten(1).all(1).nonzero()) for frame in batch.obs]
        assert [row % 4 for row in rows] == [0, 1, 2, 3] * 2
        steps += [row // 4 for row in rows[::4]]
    assert sorted(steps) == sorted([0, 1, 2, 3, 4] * 4)


def test_the_papers_rollout_gives_seven_updates() -> None:
    assert SimPLeModule(world_model=module().options)._updates_per_rollout(49, 16) == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minibatch_size": 6}, "model.minibatch_size must be a multiple of 4 environments, from 4 to 60, found 6"),
        ({"minibatch_size": 64}, "model.minibatch_size must be a multiple of 4 environments, from 4 to 60, found 64"),
        ({"imagined_length": 1}, "model.imagined_length must be at least 2, found 1"),
        ({"gamma": 1.5}, r"model.gamma must be in \[0, 1\], found 1.5"),
        ({"world_model": {"dropout": 1.0}}, r"model.world_model.dropout must be in \[0, 1\), found 1.0"),
        ({"world_model": {"compress_steps": 5}}, "compress_steps must be at most 4 for frames of obs_shape 12×10"),
    ],
)
def test_values_out_of_range_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**given)


def test_the_world_models_learning_rate_warms_up_by_its_own_updates() -> None:
    learner = module(world_model={"learning_rate": 0.3, "warm_up": 10})
    optimizer = learner.configure_optimizers()

    rates = []
    for updates in (1, 5, 10, 40):
        learner.world_model_updates.fill_(updates)
        learner.on_before_optimizer_step(optimizer)
        rates.append([group["lr"] for group in optimizer.param_groups])

    assert rates == [[pytest.approx(0.03), 1e-4], [pytest.approx(0.15), 1e-4], [0.3, 1e-4], [0.3, 1e-4]]


def test_in_training_each_update_of_the_world_model_has_the_rate_of_its_own_number(source: Recorded) -> None:
    learner = module(world_model={"learning_rate": 0.1, "warm_up": 10})
    optimizer = learner.configure_optimizers()

    rates = []
    for _ in range(3):
        for batch in learner.batches(source):
            assert isinstance(batch, WorldModelBatch)
            learner.on_before_optimizer_step(optimizer)
            rates.append((batch.update, optimizer.param_groups[0]["lr"]))

    assert rates == [(update, pytest.approx(0.01 * update)) for update in range(1, len(rates) + 1)]


def test_world_model_and_policy_are_clipped_each_by_its_own_bound() -> None:
    learner = module(world_model={"max_grad_norm": 0.3}, max_grad_norm=0.7)
    optimizer = learner.configure_optimizers()
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)

    learner.configure_gradient_clipping(optimizer)

    norms = [
        torch.stack([parameter.grad.norm() for parameter in network.parameters() if parameter.grad is not None]).norm()
        for network in (learner.world_model, learner.network)
    ]
    assert [float(norm) for norm in norms] == pytest.approx([0.3, 0.7], rel=1e-4)


def test_the_policy_moves_by_adam_as_the_published_code_sets_it() -> None:
    learner = module(learning_rate=0.01)
    optimizer = learner.configure_optimizers()
    weight = next(learner.network.parameters())
    before = weight.detach().double().clone()
    gradients = torch.randn(2, *weight.shape, generator=generator()) * 1e-5  # small enough for ε to count

    moment, square = torch.zeros_like(before), torch.zeros_like(before)
    for count, gradient in enumerate(gradients, start=1):
        weight.grad = gradient
        optimizer.step()
        moment = 0.85 * moment + 0.15 * gradient.double()
        square = 0.997 * square + 0.003 * gradient.double().square()
        before -= 0.01 * (moment / (1 - 0.85**count)) / ((square / (1 - 0.997**count)).sqrt() + 1e-6)

    torch.testing.assert_close(weight.detach().double(), before, rtol=1e-4, atol=1e-6)


def test_values_are_regressed_however_far_they_have_moved() -> None:
    learner = module(epsilon=0.1)
    batch = replace(policy_batch(), behavior_values=torch.full((8,), 3.0))

    losses, _ = learner.objective(batch, generator())

    with torch.no_grad():
        values = learner.network(batch.obs).values[:, 0]
    assert (values - 3).abs().min() > 0.1
    torch.testing.assert_close(losses["value"].detach(), (values - batch.returns).square().mean() / 2)


@pytest.mark.parametrize("outcomes", ["likeliest", "expected"])
def test_imagined_steps_pay_what_was_asked_for(outcomes: Outcomes, source: Recorded) -> None:
    learner = module(imagined_outcomes=outcomes)
    head, logits = learner.world_model.reward[2], torch.tensor([0.0, 1.0, 0.0, 0.5])
    assert isinstance(head, torch.nn.Linear)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = logits
    assert source.replay is not None
    source.replay.append(play())

    rewards = learner.imagined_rollout(source.replay, source.generator).rewards

    paid = float(logits.softmax(0) @ learner.reward_values) if outcomes == "expected" else REWARDS[1]
    assert rewards.unique().tolist() == pytest.approx([paid], abs=1e-6)


def test_real_play_is_bootstrapped_from_the_value_of_the_frame_that_follows_it(
    source: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = module(learn_from_real=True)
    seen, trajectories = [], learner.trajectories

    def recorded(rollout: Rollout, last_values: Tensor) -> Any:
        seen.append((rollout, last_values))
        return trajectories(rollout, last_values)

    monkeypatch.setattr(learner, "trajectories", recorded)
    next(iter(learner.batches(source)))

    [(rollout, last_values)] = seen
    with torch.no_grad():
        values = learner.network(rollout.obs[-1]).values
    torch.testing.assert_close(last_values, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1e-5, 1e-3])
def test_output_channels_of_the_world_model_move_equally_whatever_the_size_of_their_gradients(size: float) -> None:
    learner = module("stochastic", world_model={"learning_rate": 0.01})
    optimizer = learner.configure_optimizers()
    weight = learner.world_model.embed.weight  # a 1×1 convolution
    before = weight.detach().clone()
    channels = torch.arange(1.0, len(weight) + 1).view(-1, 1, 1, 1)
    weight.grad = size * channels**2 * torch.ones_like(weight)

    optimizer.step()

    moved = (before - weight.detach()).flatten().tolist()
    assert moved == pytest.approx([0.01 * float(before.square().mean().sqrt())] * len(moved), rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "optimizer", "changed"),
    [
        ("deterministic", "adam", None),
        ("deterministic", "adafactor", "Adafactor"),
        ("stochastic", "adam", "the latent's posterior, the recurrent model's frame loss"),
    ],
)
def test_a_model_that_learned_by_the_first_recipe_goes_on_or_is_refused_with_the_reason(
    kind: str, optimizer: str, changed: str | None
) -> None:
    learner, old = module(kind, world_model={"optimizer": optimizer}), {METADATA: {"method": "simple"}}
    new: dict[str, Any] = {}
    fit(learner, Batches(WorldModelBatch(windows=windows(), update=1)))
    learner.on_save_checkpoint(new)

    learner.check_continuation(new, Path("new.ckpt"))
    if changed is None:
        learner.check_continuation(old, Path("old.ckpt"))
    else:
        with pytest.raises(ValueError, match=rf"old\.ckpt learned by recipe 1, .* by 2, which differs in {changed};"):
            learner.check_continuation(old, Path("old.ckpt"))


def test_what_adafactor_remembers_is_no_larger_than_in_the_published_code() -> None:
    learner = module("stochastic")
    for parameter in learner.world_model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer = learner.configure_optimizers()

    optimizer.step()

    sizes = {}
    for name, parameter in learner.world_model.named_parameters():
        state = optimizer.state.get(parameter, {})
        sizes[name] = sum(value.numel() for key, value in state.items() if key != "step")
    published = {}
    for name, layer in learner.world_model.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            height, width = layer.kernel_size
            published[name] = height * width * (layer.in_channels + layer.out_channels) + layer.out_channels
        elif isinstance(layer, torch.nn.Linear):
            parts = {"start": 3, "dense": 2 if "action" in name or "injection" in name else 1}.get(
                name.split(".")[-1], 1
            )
            biases = layer.out_features if layer.bias is not None else 0
            published[name] = parts * layer.in_features + layer.out_features + biases
    remembered = {name: sizes[f"{name}.weight"] + sizes.get(f"{name}.bias", 0) for name in published}
    assert remembered == published


def test_a_recurrent_models_state_is_warmed_up_on_the_older_frames_of_the_stack() -> None:
    learner = module("stochastic")
    frames = windows(2).frames[:, :K]
    stack = torch.cat(list(frames.unbind(1)), dim=-1)

    state = learner.simulator().begin(stack)

    expected: Tensor | None = None
    with torch.no_grad():
        for frame in frames[:, :-1].unbind(1):
            expected = learner.world_model.next_state(frame, expected)
    assert state is not None
    assert expected is not None
    assert torch.equal(state, expected)


def test_a_recurrent_models_state_before_a_stack_of_one_frame_is_that_of_the_first_frame() -> None:
    simulator = module("stochastic").simulator()
    frame = windows(2).frames[:, 0]
    actions = torch.tensor([0, 1])

    state = simulator.begin(frame)

    assert state is not None
    steps = [simulator.imagine(frame, actions, torch.Generator().manual_seed(5), known) for known in (state, None)]
    assert not state.any()
    assert torch.equal(steps[0].frames, steps[1].frames)


def test_a_recurrent_model_imagines_from_its_state_and_the_newest_frame_of_the_stack() -> None:
    learner = module("stochastic")
    obs = torch.cat(list(windows(4).frames[:, :K].unbind(1)), dim=-1)
    older, newest = obs.clone(), obs.clone()
    older[..., :-3] = 0
    newest[..., -3:] = 0

    frames = [
        learner.simulator()
        .imagine(seen, torch.tensor([0, 1, 2, 3]), torch.Generator().manual_seed(5), learner.simulator().begin(obs))
        .frames
        for seen in (obs, older, newest)
    ]

    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_were_cast_once_imagine_what_weights_that_are_cast_at_each_step_do(kind: str) -> None:
    learner = module(kind, micro_batches=MicroBatchConfig(size=4, num_threads=1))
    learner._autocast = torch.bfloat16
    once, each = learner.simulator(), learner.simulator()
    each._model = learner.world_model
    assert once._model.embed.weight.dtype == torch.bfloat16
    assert learner.world_model.embed.weight.dtype == torch.float32
    obs, actions = torch.cat(list(windows(4).frames[:, :K].unbind(1)), dim=-1), torch.tensor([0, 1, 2, 3])

    steps = [side.imagine(obs, actions, torch.Generator().manual_seed(5), side.begin(obs)) for side in (once, each)]

    assert torch.equal(steps[0].frames, steps[1].frames)
    assert torch.equal(steps[0].expected_rewards, steps[1].expected_rewards)
    assert torch.equal(steps[0].end_probabilities, steps[1].end_probabilities)


def test_imagination_draws_from_the_generator_alone() -> None:
    learner = module("stochastic")
    obs = torch.cat(list(windows(4).frames[:, :K].unbind(1)), dim=-1)
    actions = torch.tensor([0, 1, 2, 3])

    steps = []
    for number in range(2):
        torch.manual_seed(number)
        learner.train(number == 0)
        steps.append(
            learner.simulator().imagine(obs, actions, torch.Generator().manual_seed(5), learner.simulator().begin(obs))
        )

    assert torch.equal(steps[0].frames, steps[1].frames)
    assert torch.equal(steps[0].rewards, steps[1].rewards)


def test_games_that_are_stepped_in_parts_draw_each_by_themselves() -> None:
    simulator = module("stochastic", micro_batches=MicroBatchConfig(size=16, num_threads=2)).simulator()
    simulator.temperature = 1.0
    frames = play().obs[0, :1].expand(32, -1, -1, -1)

    step = simulator.imagine(frames, torch.zeros(32, dtype=torch.int64), generator(), simulator.begin(frames))

    assert not step.rewards[:16].equal(step.rewards[16:])


def test_a_temperature_draws_rewards_ends_and_the_latent() -> None:
    """The colder, the likelier are the likeliest ones."""
    learner = module("stochastic")
    obs = torch.cat(list(windows(1).frames[:, :K].unbind(1)), dim=-1)

    def imagined(temperature: float | None, seed: int = 5) -> ImaginedStep:
        simulator = learner.simulator()
        simulator.temperature = temperature
        many = obs.expand(200, *obs.shape[1:])
        generator = torch.Generator().manual_seed(seed)
        return simulator.imagine(many, torch.zeros(200, dtype=torch.int64), generator, simulator.begin(many))

    usual, one, cold = imagined(None), imagined(1.0), imagined(0.0)
    assert torch.equal(usual.frames, one.frames)
    assert not torch.equal(usual.rewards, one.rewards)
    assert len(set(cold.rewards.tolist())) == len(set(cold.end_probabilities.tolist())) == 1
    assert float(one.rewards.mean()) == pytest.approx(float(usual.expected_rewards.mean()), abs=0.3)
    assert set(one.end_probabilities.tolist()) == {0.0, 1.0}
    assert float(one.end_probabilities.mean()) == pytest.approx(float(usual.end_probabilities.mean()), abs=0.15)
    assert torch.equal(cold.frames, cold.frames[:1].expand(cold.frames.shape))
    assert torch.equal(cold.frames, imagined(0.0, seed=6).frames)


def test_without_ends_an_imagined_episode_never_ends() -> None:
    learner = module(world_model={"predict_ends": False})
    obs = torch.cat(list(windows(4).frames[:, :K].unbind(1)), dim=-1)

    step = learner.simulator().imagine(obs, torch.tensor([0, 1, 2, 3]), torch.Generator())

    assert not step.end_probabilities.any()


def test_a_row_says_what_imagined_steps_earned(source: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = {"first_world_model_updates": 1, "world_model_updates": 1, "imagined_steps": 48, "policy_slice": 2}
    learner = module(outer_loop=OuterLoopConfig(imagined_passes={}, **loop))
    imagine, means = learner.imagined_rollout, []

    def recorded(replay: Replay, generator: torch.Generator) -> Rollout:
        rollout = imagine(replay, generator)
        rollout.rewards[:] = torch.randn(rollout.rewards.shape)
        means.append(float(rollout.rewards.mean()))
        return rollout

    monkeypatch.setattr(learner, "imagined_rollout", recorded)
    monkeypatch.setattr(learner, "log_dict", lambda *_, **__: None)
    logged: list[tuple[str, float]] = []
    monkeypatch.setattr(learner, "log", lambda key, value, **_: logged.append((key, value)))
    for _ in range(4):  # of two passes, each a slice of the world model's and one of the policy's
        list(learner.batches(source))
        learner.on_train_epoch_end()

    assert len(means) == 4
    assert [key for key, _ in logged] == ["imagined/reward"] * 2
    assert [value for _, value in logged] == pytest.approx([sum(means[:2]) / 2, sum(means[2:]) / 2])


def with_reward_logits(learner: SimPLeModule, logits: list[float]) -> SimPLeModule:
    """The module, its reward head saying the same whatever it sees, until it learns."""
    output: Any = learner.world_model.reward[2]
    torch.nn.init.zeros_(output.weight)
    output.bias.data = torch.tensor(logits)
    return learner


@pytest.mark.parametrize(("outcomes", "cutoff"), [("likeliest", 0.03), ("expected", 0.0)])
def test_expected_rewards_are_learned_without_a_cutoff(outcomes: Outcomes, cutoff: float) -> None:
    logits = [0.4, 5.5, -0.3, 0.1]  # of the rewards −1, 0, 0.25 and 1
    learner, given = with_reward_logits(module(imagined_outcomes=outcomes), logits), windows()
    given = replace(given, rewards=torch.zeros_like(given.rewards))

    gradients, logged = learn_once(learner, WorldModelBatch(windows=given, update=1))

    probabilities = np.exp(logits) / np.exp(logits).sum()
    nats = -math.log(probabilities[1])
    assert 0 < nats < 0.03
    slope = (probabilities - [0, 1, 0, 0]) * (nats > cutoff)
    assert logged["loss/reward"].item() == pytest.approx(max(nats - cutoff, 0.0), rel=1e-4)
    found = gradients["world_model.reward.2.bias"]
    assert found is not None
    assert found.tolist() == pytest.approx(slope.tolist(), abs=1e-5)


def test_rewards_that_never_came_are_not_paid_for() -> None:
    learner, given = with_reward_logits(module(imagined_outcomes="expected"), [-9.0, 0.0, -9.0, 3.0]), windows()
    batch = WorldModelBatch(windows=replace(given, rewards=torch.zeros_like(given.rewards)), update=1)
    bias: Any = learner.world_model.reward[2].bias
    obs = torch.cat(list(given.frames[:, :K].unbind(1)), dim=-1)

    for _ in range(50):
        (slope,) = torch.autograd.grad(
            learner.objective(batch, torch.Generator().manual_seed(0)).losses["reward"], bias
        )
        bias.data -= 2 * slope

    paid = learner.simulator().imagine(obs, given.actions[:, 0], torch.Generator()).expected_rewards
    assert paid.abs().max() < 0.01  # with the paper's cutoff 0.03 would be left


def test_a_cutoff_under_expected_rewards_is_refused_where_it_would_learn_and_can_still_be_judged() -> None:
    learner = module(imagined_outcomes="expected", world_model={"reward_cutoff": 0.03})

    with pytest.raises(ValueError, match=r"model\.world_model\.reward_cutoff must be 0 with .*expected.*, found 0\.03"):
        fit(learner, Batches(WorldModelBatch(windows=windows(), update=1)))


@pytest.mark.parametrize("predicts", [True, False])
def test_ends_are_learned_where_imagination_asks_for_them(predicts: bool) -> None:
    learner = module(world_model={"predict_ends": predicts})

    gradients, _ = learn_once(learner, WorldModelBatch(windows=windows(), update=1))

    ends = [gradient for name, gradient in gradients.items() if name.startswith("world_model.end.")]
    assert [gradient is not None and bool(gradient.any()) for gradient in ends] == ([True] * 4 if predicts else [])
    assert ("end" in learner.options.loss_weights) == predicts


def test_a_trainer_that_would_not_ask_for_the_next_slices_length_is_refused() -> None:
    batch = Batches(WorldModelBatch(windows=windows(), update=1))

    with pytest.raises(ValueError, match=r"reload_dataloaders_every_n_epochs must be 1 for SimPLeModule, .*, found 0"):
        fit(module(), batch, reload_dataloaders_every_n_epochs=0)
