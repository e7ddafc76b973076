"""Captured acting, with the function itself in place of a graph: it is taken, and changes no bit on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rl.data.deciding import captured_steps, forget
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.ppo import PPOModule
from lightning_rl.modules.simple import simulator
from lightning_rl.types import ActorOutput, TensorFields
from tests.modules import test_policy_distill, test_recurrent_policy_distill
from tests.support import dreams
from tests.support.impala_worlds import make_impala, make_impala_vae, world
from tests.support.worlds import SIZES, make_collector, make_distilled, make_module

METHODS: dict[str, Callable[[Path], RLModule]] = {
    "ppo": lambda _: make_module(),
    "ppo_distill": lambda _: make_distilled(),
    "policy_distill": lambda path: test_policy_distill.make_student(path, teacher_share=0.4),
    "recurrent_policy_distill": lambda path: test_recurrent_policy_distill.make_student(path, teacher="recurrent"),
    "impala": lambda _: make_impala(),
    "impala_vae": lambda _: make_impala_vae(),
}


def assert_same(first: Any, second: Any) -> None:
    """Batches of the same bits."""
    assert isinstance(first, TensorFields)
    for one, other in zip(first.tensors(), second.tensors(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_a_captured_step_collects_the_bits_of_calls_of_the_policy(method: str, tmp_path: Path) -> None:
    plain, captured = (METHODS[method](tmp_path / name) for name in ("plain", "captured"))
    captured.captures = True
    collectors = [make_collector(world()) for _ in range(2)]

    for _ in range(3):
        batches = [list(module.batches(own)) for module, own in zip((plain, captured), collectors, strict=True)]
        for one, other in zip(*batches, strict=True):
            assert_same(one, other)
        for module in (plain, captured):  # what was learned must be acted with
            for weight in module.network.parameters():
                weight.data.mul_(1.5)

    (step,) = captured_steps(captured)
    assert not step.is_graph
    assert captured_steps(plain) == []
    forget(captured)
    assert captured_steps(captured) == []


@pytest.mark.parametrize("outcomes", ["likeliest", pytest.param("expected", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", dreams.KINDS)
def test_so_do_captured_steps_of_policy_and_world_model(kind: str, outcomes: str, tmp_path: Path) -> None:
    seen = []
    for captures in (False, True):
        learner = dreams.module(kind, imagined_outcomes=outcomes)
        learner.captures = captures
        source = dreams.Recorded(ReplayBuffer(tmp_path / str(captures), game="noise", num_frames=dreams.K))
        for _ in range(3):
            assert [None for _ in learner.batches(source)]
        seen.append([batch for _ in range(2) for batch in learner.batches(source)])
        number = [len(captured_steps(learner)), len(simulator.captured_steps(learner.world_model))]
        assert number == ([1, 1] if captures else [0, 0])
        simulator.forget(learner.world_model)
        assert simulator.captured_steps(learner.world_model) == []

    for one, other in zip(*seen, strict=True):
        assert_same(one, other)


def test_a_module_that_acts_in_a_way_of_its_own_is_not_captured() -> None:
    class Own(PPOModule):
        def act(self, *args: Any, **options: Any) -> ActorOutput:
            return super().act(*args, **options)

    found = []
    for kind in (PPOModule, Own):
        module = kind(**SIZES)
        found.append(module.is_captured)
        module.captures = True
        found.append(module.is_captured)

    assert found == [False, True, False, False]
