from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.evaluation_dataset import EvaluationDataset
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.losses.policy import log_probs_of
from lightning_rl.modules.impala_vae import ImpalaVAEModule
from lightning_rl.types import RecurrentInputs
from tests.support import reference
from tests.support.impala_worlds import KINDS, collected, drawn, make_impala, make_impala_vae, outputs, total, world
from tests.support.worlds import (
    NUM_ENVS,
    NUM_STEPS,
    Batches,
    OnGradients,
    draw_frames,
    fit,
    generator,
    make_collector,
)


@pytest.mark.parametrize("kind", KINDS)
def test_learning_sees_what_acting_saw_at_equal_weights(kind: str) -> None:
    module, collector = KINDS[kind](), make_collector(world())

    for _ in range(3):  # later rollouts begin in mid-episode, with a state, an action and a reward from before
        batch = collected(module, collector)
        with torch.no_grad():
            logits, _ = outputs(module, batch)
            metrics = module.objective(batch, generator()).metrics

        assert batch.terminated.any()
        torch.testing.assert_close(logits[:-1], batch.behavior_logits, rtol=1e-4, atol=1e-4)
        assert float(metrics["vtrace/rho_mean"]) == pytest.approx(1, abs=1e-4)
        assert float(metrics["vtrace/clipped_fraction"]) < 1
    assert not batch.recurrent_inputs.starts.all()


@pytest.mark.parametrize("part", ["previous_actions", "previous_rewards", "state"])
def test_what_is_recalled_changes_the_next_step(part: str) -> None:
    module = make_impala()
    recurrent_inputs = replace(drawn(module).recurrent_inputs, starts=torch.zeros(NUM_ENVS, dtype=torch.bool))
    frames = draw_frames(NUM_ENVS)
    before = module.act(frames, generator(), recurrent_inputs=recurrent_inputs).logits
    other = {
        "previous_actions": recurrent_inputs.previous_actions + 1,
        "previous_rewards": recurrent_inputs.previous_rewards + 0.3,
    }

    after = module.act(
        frames,
        generator(),
        recurrent_inputs=replace(recurrent_inputs, **{part: other.get(part, recurrent_inputs.state + 1)}),
    ).logits

    assert not torch.allclose(before, after)


def test_an_episode_begins_without_the_state_of_the_last_one_but_with_its_action_and_reward() -> None:
    module, frames = make_impala(), draw_frames(NUM_ENVS)
    recurrent_inputs = replace(drawn(module).recurrent_inputs, starts=torch.ones(NUM_ENVS, dtype=torch.bool))

    first = module.act(frames, generator(), recurrent_inputs=recurrent_inputs).logits
    without_state = module.act(
        frames, generator(), recurrent_inputs=replace(recurrent_inputs, state=recurrent_inputs.state + 1)
    ).logits
    without_action = module.act(
        frames,
        generator(),
        recurrent_inputs=replace(recurrent_inputs, previous_actions=recurrent_inputs.previous_actions + 1),
    )

    assert torch.equal(first, without_state)
    assert not torch.allclose(first, without_action.logits)


def test_rewards_are_heard_within_one_and_learned_from_within_the_bound() -> None:
    module, frames = make_impala(max_abs_reward=2.0), draw_frames(NUM_ENVS)
    recurrent_inputs = drawn(module).recurrent_inputs
    loud, louder = (
        replace(recurrent_inputs, previous_rewards=torch.full((NUM_ENVS,), reward)) for reward in (1.0, 5.0)
    )
    assert torch.equal(*(module.act(frames, generator(), recurrent_inputs=r).logits for r in (loud, louder)))

    batch = collected(module, make_collector(world()))

    assert batch.env_rewards.max() > 2
    assert torch.equal(batch.rewards, batch.env_rewards.clamp(-2, 2))
    assert torch.equal(
        *(
            collected(make_impala(max_abs_reward=None), make_collector(world())).__dict__[k]
            for k in ("rewards", "env_rewards")
        )
    )


@pytest.mark.parametrize("clips", [(1.0, 1.0, 1.0), (0.8, 0.9, 1.2)])
def test_the_loss_is_the_sources_sum_over_the_batch(clips: tuple[float, float, float]) -> None:
    bounds: dict[str, Any] = dict(zip(("max_rho", "max_c", "max_pg_rho"), clips, strict=True))
    module = make_impala(gamma=0.9, value_weight=0.7, entropy_weight=0.03, **bounds)
    batch = drawn(module)

    loss, _ = total(module, batch)

    with torch.no_grad():
        logits, values = (output.double().numpy() for output in outputs(module, batch))
    actions = batch.actions.numpy()
    probabilities = np.exp(reference.log_probs_of(actions, logits[:-1]))
    targets, advantages = reference.vtrace(
        rewards=batch.rewards.double().numpy(),
        discounts=0.9 * (1.0 - batch.terminated.double().numpy()),
        behavior_probabilities=np.exp(reference.log_probs_of(actions, batch.behavior_logits.double().numpy())),
        probabilities=probabilities,
        values=values[:-1],
        next_values=values[1:],
        **bounds,
    )
    expected = 0.0
    for t, b in np.ndindex(actions.shape):
        expected -= np.log(probabilities[t, b]) * advantages[t, b]
        expected += 0.7 * 0.5 * (targets[t, b] - values[t, b]) ** 2
        expected -= 0.03 * float(reference.entropy(logits[t, b]))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("kind", "size"), [("impala", 1), ("sample", 6), ("sample", 12), ("mean", 1000)])
def test_micro_batches_give_the_gradients_of_the_whole(kind: str, size: int) -> None:
    found = []
    for micro_batches in (None, MicroBatchConfig(size=size)):
        module = KINDS[kind](micro_batches=micro_batches)
        if isinstance(module, ImpalaVAEModule) and module.vae_config.feed == "mean":
            module.vae.requires_grad_(False)  # its own noise is drawn by part
        norms: list[dict[str, Tensor]] = []

        def keep(module: Any, kept: list[dict[str, Tensor]] = norms) -> None:
            kept.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})

        fit(module, Batches(drawn(module)), callbacks=[OnGradients(keep)])
        found.append(norms[0])

    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-3, msg=name)


def test_parts_hold_whole_unrolls() -> None:
    batch = drawn(make_impala_vae())

    parts = batch.split(MicroBatchConfig(size=2 * (NUM_STEPS + 1), num_threads=1))

    assert [len(part) for part in parts] == [1, 2]
    assert torch.equal(parts[1].obs, batch.obs[:, 1:])
    assert torch.equal(parts[1].recurrent_inputs.state, batch.recurrent_inputs.state[1:])
    assert [len(part) for part in batch.split(MicroBatchConfig(size=1, num_threads=1))] == [1, 1, 1]


def test_evaluation_lets_every_environment_recall_its_own_past() -> None:
    module = make_impala_vae()
    seen: list[RecurrentInputs] = []
    act = module.act

    def watched(
        obs: Any, generator: torch.Generator, *, recurrent_inputs: RecurrentInputs, greedy: bool = False
    ) -> Any:
        seen.append(recurrent_inputs)
        return act(obs, generator, recurrent_inputs=recurrent_inputs, greedy=greedy)

    module.act = watched  # type: ignore[method-assign, assignment]
    list(EvaluationDataset("train_levels", lambda: EpisodeStatistics(world()), module, episodes_per_env=1, seed=0))

    sizes = [len(recurrent_inputs.starts) for recurrent_inputs in seen]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == NUM_ENVS
    assert sizes[-1] < NUM_ENVS
    assert seen[0].starts.all()
    assert not any(
        recurrent_inputs.starts.any() for recurrent_inputs in seen[1:]
    )  # who has played its episode plays no more
    assert all(
        recurrent_inputs.state.shape == (size, 512) for recurrent_inputs, size in zip(seen[1:], sizes[1:], strict=True)
    )


def test_rewards_that_are_scaled_for_learning_are_not_those_that_the_policy_is_told() -> None:
    module, collector = make_impala(), make_collector(ReturnScaling(world()))

    for _ in range(3):
        batch = collected(module, collector)
        with torch.no_grad():
            logits, _ = outputs(module, batch)
            ratio = module.objective(batch, generator()).metrics["vtrace/rho_mean"]
        assert not torch.equal(batch.rewards, batch.env_rewards.clamp(-1, 1))
        torch.testing.assert_close(logits[:-1], batch.behavior_logits, rtol=1e-4, atol=1e-4)
        assert float(ratio) == pytest.approx(1, abs=1e-4)


def test_clipped_fraction_is_the_share_of_ratios_above_the_bound() -> None:
    module = make_impala()
    batch = drawn(module)

    with torch.no_grad():
        logits, _ = outputs(module, batch)
        metrics = module.objective(batch, generator()).metrics

    ratios = (log_probs_of(batch.actions, logits[:-1]) - log_probs_of(batch.actions, batch.behavior_logits)).exp()
    share = float((ratios > 1).float().mean())
    assert 0 < share < 1
    assert share != 0.5
    assert float(metrics["vtrace/clipped_fraction"]) == pytest.approx(share)


BAD_VALUES: dict[str, list[Any]] = {
    "gamma": [-0.1, 1.1, float("nan")],
    "max_rho": [0.0],
    "max_c": [-1.0],
    "max_pg_rho": [0.0],
    "max_abs_reward": [0.0],
    "learning_rate": [0.0],
    "adam_epsilon": [-1e-9],
    "max_grad_norm": [0.0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD_VALUES for value in BAD_VALUES[name]])
def test_value_out_of_range_is_refused_by_its_key(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{name} must be .*, found {value}$"):
        make_impala(**{name: value})


def test_means_are_weighed_as_sums_over_the_transitions() -> None:
    module = make_impala(value_weight=0.7, entropy_weight=0.03)

    number = NUM_STEPS * NUM_ENVS

    assert module.weights(drawn(module)) == {"policy": number, "value": 0.7 * number, "entropy": 0.03 * number}


def test_impala_has_one_parameter_group_and_no_latent() -> None:
    module = make_impala(learning_rate=2e-5, adam_epsilon=0.2)

    (group,) = module.configure_optimizers().param_groups

    assert (group["lr"], group["eps"]) == (2e-5, 0.2)
    assert {name.split(".")[0] for name in module.state_dict()} == {"network"}
    assert module.act(draw_frames(NUM_ENVS), generator()).noise is None
