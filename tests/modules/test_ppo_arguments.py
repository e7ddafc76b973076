import inspect
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.modules.ppo import PPOModule
from lightning_rl.modules.ppo_distill import DistillationConfig, PPODistillModule
from lightning_rl.runs.checkpoint_files import optimizer_and_schedules
from lightning_rl.types import Rollout
from tests.support.worlds import NUM_ENVS, NUM_STEPS, draw_rollout, generator, make_distilled, make_module

BAD_VALUES: dict[str, list[Any]] = {
    "gamma": [-0.1, 1.1, float("nan")],
    "lambda_": [-0.1, 1.1],
    "epsilon": [0.0, -0.2],
    "value_epsilon": [0.0, -0.2],
    "dropout": [-0.1, 1.0],
    "epochs": [0],
    "width": [0],
    "pooling_size": [0],
    "learning_rate": [0.0, -1e-4],
    "max_grad_norm": [0.0],
    "adam_epsilon": [-1e-9],
}
BAD_DISTILLATIONS: dict[str, list[Any]] = {
    "learning_rate": [0.0],
    "adam_epsilon": [-1e-9],
    "num_outputs": [0],
    "dropout": [-0.1, 1.0],
    "scale": [0.0, -1.0],
    "max_reward": [0.0],
    "gamma": [-0.1, 1.1],
    "update_share": [0.0, 1.1],
    "warmup_rollouts": [-1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD_VALUES for value in BAD_VALUES[name]])
def test_value_out_of_range_is_refused_by_its_key(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{name} must be .*, found {value}$"):
        make_module(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD_DISTILLATIONS for value in BAD_DISTILLATIONS[name]]
)
def test_distillation_value_out_of_range_is_refused_by_its_key(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.distillation\.{name} must be .*, found {value}$"):
        DistillationConfig(**{name: value})


ALTERED: dict[str, Any] = {
    "num_actions": 11,
    "obs_shape": (24, 16, 3),
    "network": "two_stack",
    "pooling": "average",
    "pooling_size": 2,
    "width": 2,
    "channels": (16, 8),
    "hidden": 128,
    "dropout": 0.5,
    "gamma": 0.5,
    "lambda_": 0.5,
    "epsilon": 0.4,
    "value_epsilon": None,
    "epochs": 2,
    "minibatch_size": 5,
    "normalize_advantages": "rollout",
    "value_weight": 0.25,
    "entropy_weight": 0.1,
    "learning_rate": 1e-3,
    "adam_epsilon": 1e-3,
    "max_grad_norm": 0.05,
    "micro_batches": MicroBatchConfig(size=3),
    "greedy": True,
    "captured_acting": True,
    "optimizer": torch.optim.SGD,
    "scheduler": partial(ConstantLR, factor=0.5),
}
ALTERED_DISTILLATION: dict[str, Any] = {
    "learning_rate": 1e-3,
    "adam_epsilon": 1e-3,
    "num_outputs": 2,
    "dropout": 0.5,
    "normalization": "running_std",
    "scale": 10.0,
    "max_reward": 1.5,
    "gamma": 0.5,
    "episodic": False,
    "extrinsic_weight": 2.0,
    "intrinsic_weight": 2.0,
    "update_share": 0.5,
    "warmup_rollouts": 1,
}


def built(module: PPOModule) -> list[Any]:
    """What a module is made of."""
    optimizer, _ = optimizer_and_schedules(module.configure_optimizers())
    return [
        {name: parameter.shape for name, parameter in module.named_parameters()},
        [type(optimizer).__name__, *((group["lr"], group.get("eps")) for group in optimizer.param_groups)],
        [module.greedy, module.captures, module.micro_batches, module.batches_per_iteration(NUM_STEPS, NUM_ENVS)],
    ]


def learned(module: PPOModule) -> list[Any]:
    """The numbers that its first minibatch of a rollout makes."""
    rollout = draw_rollout(module.num_critics)
    batch = next(iter(module.batches(Recorded(rollout))))
    objective = module.objective(batch, generator())
    losses = {name: module.loss_weights[name] * loss for name, loss in objective.losses.items()}
    torch.stack(list(losses.values())).sum().backward()
    module.configure_gradient_clipping(optimizer_and_schedules(module.configure_optimizers())[0])
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return [{name: loss.item() for name, loss in losses.items()}, batch.advantages.tolist(), norm.item()]


class Recorded:
    """A source of one rollout that was drawn before."""

    def __init__(self, rollout: Rollout) -> None:
        self.generator = generator()
        self.memory: dict[str, Tensor] = {}
        self.replay = None
        self._rollout = rollout

    def collect(self, policy: Any) -> Rollout:
        return self._rollout


def test_equal_arguments_build_and_learn_the_same() -> None:
    assert built(make_distilled()) == built(make_distilled())
    assert learned(make_distilled()) == learned(make_distilled())


@pytest.mark.parametrize("name", ALTERED)
def test_every_argument_changes_what_is_built_or_learned(name: str) -> None:
    averaged: dict[str, Any] = {"pooling": "average"} if name == "pooling_size" else {}  # which means nothing elsewhere
    for make in (make_module, make_distilled):
        altered, default = make(**{name: ALTERED[name]}, **averaged), make(**averaged)

        assert built(altered) != built(default) or learned(altered) != learned(default)


@pytest.mark.parametrize("name", ALTERED_DISTILLATION)
def test_every_argument_of_the_distillation_changes_what_is_built_or_learned(name: str) -> None:
    altered, default = make_distilled(distillation={name: ALTERED_DISTILLATION[name]}), make_distilled()

    assert built(altered) != built(default) or learned(altered) != learned(default)


def test_no_argument_is_left_untried() -> None:
    assert ALTERED.keys() == inspect.signature(PPOModule).parameters.keys()
    assert inspect.signature(PPODistillModule).parameters.keys() == {"distillation", "ppo"}
    assert ALTERED_DISTILLATION.keys() == {field.name for field in fields(DistillationConfig)}
