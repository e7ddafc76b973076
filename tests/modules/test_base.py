from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data import stopwatch
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.modules import iteration_metrics
from lightning_rl.modules.finite import Unread
from lightning_rl.modules.ppo import PPOModule
from lightning_rl.types import ActorOutput, Episodes
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import (
    NUM_ACTIONS,
    NUM_ENVS,
    NUM_STEPS,
    OBS_SHAPE,
    Batches,
    draw_frames,
    draw_rollout,
    fit,
    generator,
    learn_once,
    make_collector,
    make_distilled,
    make_module,
    make_trainer,
    toy_data,
    whole_batch,
)


def decided(**options: Any) -> PPOModule:
    """A module whose policy is far from uniform, so that what changes its logits shows."""
    module = make_module(**options)
    module.get_parameter("network.actor.weight").data.mul_(1000)
    return module


def toy() -> CountingVectorEnv:
    return CountingVectorEnv(NUM_ENVS, [2, 3, 7], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


def test_greedy_actions_are_the_most_likely_ones() -> None:
    output = decided().act(draw_frames(11), generator(), greedy=True)

    assert len(output.actions.unique()) > 1
    assert torch.equal(output.actions, output.logits.argmax(-1))


def test_sampled_actions_follow_the_policys_probabilities() -> None:
    module = make_module()
    probabilities = torch.tensor([0.5, 0.3, 0.1, 0.1, 0.0, 0.0, 0.0])
    module.get_parameter("network.actor.weight").data.zero_()
    module.get_parameter("network.actor.bias").data.copy_(probabilities.log().clamp(min=-100))

    actions = module.act(np.zeros((2000, *OBS_SHAPE), dtype=np.uint8), generator()).actions

    # four standard deviations of a fraction of 2000: 4 √(0.25 / 2000)
    torch.testing.assert_close(actions.bincount(minlength=7) / 2000, probabilities, rtol=0, atol=0.045)


def test_sampling_draws_from_its_generator_only() -> None:
    module, frames = make_module(), draw_frames(101)
    before = torch.get_rng_state()

    first, same, other = (module.act(frames, generator(seed)).actions for seed in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_greedy_actions_draw_nothing() -> None:
    stream = generator()

    make_module().act(draw_frames(NUM_ENVS), stream, greedy=True)

    assert torch.equal(stream.get_state(), generator().get_state())


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_acting_with_the_threads_of_the_micro_batches_gives_each_frame_its_own_output(num_threads: int) -> None:
    frames = draw_frames(11)
    whole = decided().act(frames, generator())
    threaded = decided(micro_batches=MicroBatchConfig(num_threads=num_threads))

    threaded.setup("fit")
    parts = threaded.act(frames, generator())

    assert torch.get_num_threads() == num_threads

    assert torch.equal(parts.actions, whole.actions)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-5, atol=1e-5)  # other batches, other order of sums
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-5, atol=1e-5)


def test_acting_keeps_no_graph() -> None:
    output = make_module(micro_batches=MicroBatchConfig()).act(draw_frames(NUM_ENVS), generator())

    assert not output.logits.requires_grad
    assert not output.values.requires_grad


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("cuda", None)])
def test_a_saved_optimiser_takes_the_way_of_the_device_that_it_goes_on_on(device: str, fused: bool | None) -> None:
    module = make_module()
    saved = {"optimizer_states": [module.configure_optimizers().state_dict()]}
    saved["optimizer_states"][0]["param_groups"][0]["fused"] = None if fused else True  # of another device
    trainer = Mock(spec=Trainer, strategy=Mock(root_device=torch.device(device)))

    with patch.object(module, "_trainer", trainer):  # weights are still on the CPU when a checkpoint is taken up
        module.on_load_checkpoint(saved)

    assert [group["fused"] for group in saved["optimizer_states"][0]["param_groups"]] == [fused]


class ActsBeforeLearning(Callback):
    """Lets the module act on the frames of the batch that it is about to learn from."""

    logits: Tensor

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, PPOModule)
        self.logits = pl_module.act(batch.obs.numpy(), generator()).logits


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("micro_batches", [None, MicroBatchConfig(num_threads=1)])
def test_acting_and_learning_on_the_same_frames_give_the_same_bits(
    precision: Any, micro_batches: MicroBatchConfig | None
) -> None:
    module = decided(micro_batches=micro_batches)
    batch = whole_batch(module, draw_rollout(1))
    acts = ActsBeforeLearning()
    learned: list[list[float]] = []

    def keep(_network: Any, _inputs: Any, outputs: Any) -> None:
        if outputs.logits.requires_grad:
            learned.extend(outputs.logits.tolist())

    module.network.register_forward_hook(keep)
    fit(module, Batches(batch), callbacks=[acts], precision=precision)

    rows = {tuple(row) for row in learned}  # threads finish in any order
    assert rows == {tuple(row) for row in acts.logits.tolist()}
    assert len(rows) == len(batch)


def test_low_precision_leaves_the_ratio_of_a_fresh_rollout_at_one() -> None:
    module = decided(epochs=1)
    data = RolloutDataset(module, make_collector(toy()), iterations=1)

    trainer = fit(module, data, precision="bf16-mixed")

    # batches of 3 and of 15 frames may round differently in bfloat16, which has 8 bits; in float32 acting alone would
    # leave 1e-4 and more
    assert trainer.callback_metrics["policy/approx_kl"] < 1e-6
    assert trainer.callback_metrics["policy/clip_fraction"] == 0


def test_acting_follows_the_trainers_precision() -> None:
    class ActsAtStart(Callback):
        logits: Tensor

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, PPOModule)
            self.logits = pl_module.act(draw_frames(NUM_ENVS), generator()).logits

    module, acts = decided(), ActsAtStart()
    single = module.act(draw_frames(NUM_ENVS), generator()).logits

    fit(module, Batches(whole_batch(module, draw_rollout(1))), precision="bf16-mixed", callbacks=[acts])

    assert acts.logits.dtype == torch.float32
    assert not torch.equal(acts.logits, single)
    torch.testing.assert_close(acts.logits, single, rtol=0.05, atol=0.05 * float(single.std()))


def test_loss_without_a_weight_is_refused() -> None:
    module = make_module()
    del module.loss_weights["entropy"]

    with pytest.raises(
        RuntimeError, match=r"losses \['entropy', 'policy', 'value'\] and their weights .* do not match"
    ):
        module.training_step(whole_batch(module, draw_rollout(1)), 0)


def test_weight_without_a_loss_is_refused() -> None:
    module = make_module()
    module.loss_weights["distill"] = 1.0

    with pytest.raises(RuntimeError, match=r"their weights \['distill', 'entropy', 'policy', 'value'\] do not match"):
        module.training_step(whole_batch(module, draw_rollout(1)), 0)


@pytest.mark.parametrize("micro_batches", [None, MicroBatchConfig(size=4)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_named(micro_batches: MicroBatchConfig | None, bad: float) -> None:
    module = make_module(micro_batches=micro_batches)
    batch = whole_batch(module, draw_rollout(1))
    returns = batch.returns.clone()
    returns[-1] = bad

    with pytest.raises(FloatingPointError, match=r"^loss/value is (nan|inf); the newest checkpoint holds"):
        fit(module, Batches(replace(batch, returns=returns)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_run_at_its_iteration_before_anything_is_saved(bad: float) -> None:
    module = make_module()
    saved = []

    class Saves(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            saved.append(trainer.global_step)

    class Spoils(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            gradient = module.get_parameter("network.actor.bias").grad
            assert gradient is not None
            gradient[0] = bad

    with pytest.raises(FloatingPointError, match=r"^the norm of a gradient is (nan|inf); the newest checkpoint holds"):
        fit(module, Batches(whole_batch(module, draw_rollout(1))), callbacks=[Spoils(), Saves()])
    assert saved == []


def test_what_is_not_finite_is_named_before_the_next_rollout_of_its_epoch() -> None:
    module, data = make_module(num_actions=NUM_ACTIONS), toy_data(iterations_per_epoch=2)

    class Spoils(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 1:
                batch.returns.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match=r"^loss/value is nan"):
        make_trainer(callbacks=[Spoils()], limit_val_batches=0).fit(module, datamodule=data)
    assert data.env_steps == NUM_STEPS * NUM_ENVS


def test_nor_is_it_saved_between_two_boundaries(tmp_path: Path) -> None:
    module, data = make_module(num_actions=NUM_ACTIONS), toy_data(iterations_per_epoch=2)

    class SpoilsAndSaves(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            batch.returns.fill_(float("nan"))

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    with pytest.raises(FloatingPointError, match=r"^loss/value is nan"):
        make_trainer(callbacks=[SpoilsAndSaves()], limit_val_batches=0).fit(module, datamodule=data)
    assert list(tmp_path.iterdir()) == []


def test_the_first_number_that_is_not_finite_is_named_once() -> None:
    unread = Unread()
    unread.add("loss/policy", torch.tensor(1.0))
    unread.add("loss/value", torch.tensor(2.0), torch.tensor(float("inf")))
    unread.add("loss/policy", torch.tensor(float("nan")))

    with pytest.raises(FloatingPointError, match=r"^loss/value is inf; the newest checkpoint holds the state before"):
        unread.check()
    unread.check()


def test_loss_is_the_weighted_sum_of_the_logged_parts() -> None:
    module = make_distilled(value_weight=0.25, entropy_weight=0.1)
    batch = whole_batch(module, draw_rollout(2))
    totals = []

    class KeepsLoss(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            totals.append(outputs["loss"])

    trainer = fit(module, Batches(batch), callbacks=[KeepsLoss()])

    weights = {"policy": 1.0, "value": 0.25, "intrinsic_value": 0.25, "entropy": 0.1, "distill": 1.0}
    expected = sum(weights[name] * trainer.callback_metrics[f"loss/{name}"] for name in weights)
    torch.testing.assert_close(totals[0], expected)


def test_trainers_own_gradient_clipping_is_refused() -> None:
    module = make_module()

    with pytest.raises(ValueError, match=r"trainer\.gradient_clip_val must be null: model\.max_grad_norm"):
        learn_once(module, whole_batch(module, draw_rollout(1)), gradient_clip_val=1.0)


def test_trainer_clips_each_group_before_its_step() -> None:
    module = make_distilled(max_grad_norm=1e-3)
    norms: list[float] = []

    class KeepsNorms(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            for group in optimizer.param_groups:
                gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
                norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    fit(module, Batches(*[whole_batch(module, draw_rollout(2))] * 2), callbacks=[KeepsNorms()])

    # of agent and teacher; before the first batch there is nothing
    assert norms == [0, 0, pytest.approx(1e-3, rel=1e-3), pytest.approx(1e-3, rel=1e-3)]


def test_returns_of_both_level_sets_reach_the_iterations_row() -> None:
    module = make_module(num_actions=NUM_ACTIONS)
    rows = []

    class KeepsRow(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            rows.append(dict(trainer.logged_metrics))

    trainer = make_trainer(max_epochs=1, callbacks=[KeepsRow()], num_sanity_val_steps=0)
    trainer.fit(module, datamodule=toy_data())

    # rewards are 100 a step and the action: episodes of 3 steps earn 300 to 318, of 2 steps 100 to 112
    assert 300 <= trainer.callback_metrics["validation/train_levels_return"] <= 318
    assert 100 <= trainer.callback_metrics["validation/return"] <= 112
    assert trainer.callback_metrics["env_steps"] == NUM_STEPS * NUM_ENVS
    assert module.validation_returns == {}


class Clock(Callback):
    """Lets collecting and learning of a batch take a second, validation a hundred, pictures and saving a thousand."""

    def __init__(self) -> None:
        self.now, self.speeds = 0.0, list[float]()

    def perf_counter(self) -> float:
        return self.now

    def on_train_batch_end(self, *_: Any) -> None:
        self.now += 1

    def on_validation_batch_end(self, *_: Any) -> None:
        self.now += 100

    def on_train_epoch_end(self, *_: Any) -> None:
        self.now += 1000

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def _read(self, trainer: Trainer) -> None:
        if "time/env_steps_per_second" in trainer.callback_metrics:
            self.speeds.append(float(trainer.callback_metrics["time/env_steps_per_second"]))


class Watch(Clock):
    """Lets an action take a second, too, and what follows a row ten."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[dict[str, float]] = []

    def on_train_epoch_end(self, *_: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.now += 10

    def _read(self, trainer: Trainer) -> None:
        metrics = trainer.callback_metrics
        names = ("seconds", "collecting", "learning", "validating", "saving")
        if "time/learning" in metrics:
            self.shares.append({name: float(metrics[f"time/{name}"]) for name in names})


def test_shares_of_the_time_are_those_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, module = Watch(), make_module(num_actions=NUM_ACTIONS)
    monkeypatch.setattr(iteration_metrics, "time", watch)
    monkeypatch.setattr(stopwatch, "time", watch)
    act = module.act

    def slow_act(*args: Any, **options: Any) -> ActorOutput:
        watch.now += 1
        return act(*args, **options)

    monkeypatch.setattr(module, "act", slow_act)
    trainer = make_trainer(
        max_epochs=2, check_val_every_n_epoch=2, callbacks=[watch], num_sanity_val_steps=0, limit_val_batches=1
    )
    trainer.fit(module, datamodule=toy_data())

    learning, (first, second) = module.batches_per_iteration(NUM_STEPS, NUM_ENVS), watch.shares
    wall = NUM_STEPS + learning + 10
    assert first.pop("seconds") == pytest.approx(wall)
    assert second.pop("seconds") > wall
    assert first == pytest.approx(
        {"collecting": NUM_STEPS / wall, "learning": learning / wall, "validating": 0, "saving": 10 / wall}
    )
    assert second["validating"] > 0.5
    assert sum(second.values()) == pytest.approx(1)
    assert second["collecting"] / second["learning"] == pytest.approx(NUM_STEPS / learning)


@pytest.mark.parametrize("val_check_interval", [1.0, 1])
def test_speed_is_that_of_collecting_and_learning(val_check_interval: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(iteration_metrics, "time", clock)
    module = make_module(num_actions=NUM_ACTIONS)
    trainer = make_trainer(
        max_epochs=3, callbacks=[clock], num_sanity_val_steps=0, val_check_interval=val_check_interval
    )
    trainer.fit(module, datamodule=toy_data())

    batches = module.batches_per_iteration(NUM_STEPS, NUM_ENVS)
    assert batches > 1
    assert clock.speeds == pytest.approx([NUM_STEPS * NUM_ENVS / batches] * 3)


def test_validate_logs_the_mean_return_of_each_level_set() -> None:
    trainer = make_trainer()

    (train_levels, full_distribution) = trainer.validate(make_module(), datamodule=toy_data(), verbose=False)

    assert 300 <= train_levels["validation/train_levels_return"] <= 318
    assert 100 <= full_distribution["validation/return"] <= 112


def test_mean_return_is_over_episodes() -> None:
    module = make_module()
    returns = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    episodes = Episodes(
        level_set="full_distribution", returns=returns, lengths=torch.tensor([1, 1, 1]), level_complete=None
    )

    module.validation_step(episodes, 0)

    assert module.validation_returns == {"validation/return": 3.0}


def test_played_episodes_are_what_predict_returns() -> None:
    episodes = Episodes(
        level_set="full_distribution",
        returns=torch.zeros(1, dtype=torch.float64),
        lengths=torch.tensor([1]),
        level_complete=None,
    )

    assert make_module().predict_step(episodes, 0) is episodes


def version_of(module: LightningModule) -> float:
    """A number that every update changes."""
    return sum(float(parameter.detach().double().sum()) for parameter in module.parameters())


class Watched(CountingVectorEnv):
    """Calls back at every step."""

    on_step: Callable[[], None]

    def step(self, actions: NDArray[np.int64]) -> Any:
        self.on_step()
        return super().step(actions)


@pytest.mark.parametrize("micro_batches", [None, MicroBatchConfig(size=2)])
def test_every_rollout_is_collected_by_the_weights_of_the_update_before_it(
    micro_batches: MicroBatchConfig | None,
) -> None:
    module = make_module(epochs=2, minibatch_size=5, micro_batches=micro_batches)
    env = Watched(NUM_ENVS, [2, 3, 7], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    collected: list[float] = []
    updated = [version_of(module)]
    env.on_step = lambda: collected.append(version_of(module))

    class Stamps(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            updated.append(version_of(pl_module))

    iterations, per_iteration = 3 * 2, 2 * 3
    data = RolloutDataset(module, make_collector(env), iterations=2)
    fit(module, data, max_epochs=3, callbacks=[Stamps()])

    assert len(set(updated)) == iterations * per_iteration + 1
    before_each_rollout = updated[:-1:per_iteration]
    assert collected == [version for version in before_each_rollout for _ in range(NUM_STEPS)]


def test_dataset_yields_as_many_batches_as_it_says() -> None:
    module = make_module(epochs=2, minibatch_size=5)
    data = RolloutDataset(module, make_collector(toy()), iterations=2)

    assert len(list(data)) == len(data) == 2 * 6
