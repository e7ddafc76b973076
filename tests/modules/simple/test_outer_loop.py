"""Algorithm 1's numbers, and how it is cut."""

import pytest

from lightning_rl.modules.simple.outer_loop import OuterLoopConfig, Slice

PAPER = OuterLoopConfig()
STEPS = 16 * 50


def test_the_papers_loop_imagines_fifteen_million_steps() -> None:
    rollouts = [PAPER.rollouts(index, STEPS) for index in range(15)]

    assert rollouts == [1000] * 7 + [2000] + [1000] * 3 + [2000] + [1000] * 2 + [3000]
    assert sum(rollouts) * STEPS == 15_200_000


def test_the_papers_loop_trains_the_world_model_three_times_as_long_at_first() -> None:
    updates = [sum(part.size for part in PAPER.slices(index, STEPS) if part.phase == "world model") for index in (0, 1)]

    assert updates == [45_000, 15_000]


def test_slices_come_in_order_and_only_the_first_collects() -> None:
    loop = OuterLoopConfig(first_world_model_updates=7, world_model_slice=3, imagined_steps=50, policy_slice=4)

    assert loop.slices(0, 10) == [
        Slice("world model", True, 3),
        Slice("world model", False, 3),
        Slice("world model", False, 1),
        Slice("policy", False, 4),
        Slice("policy", False, 1),
    ]


@pytest.mark.parametrize("option", ["world_model_updates", "imagined_steps", "policy_slice"])
def test_nothing_is_refused_by_its_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"model.outer_loop.{option} must be at least 1, found 0"):
        OuterLoopConfig(**{option: 0})  # type: ignore[arg-type]  # all that are tried are numbers


def test_a_pass_that_imagines_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"imagined_passes\.8 must be at least 1, found 0"):
        OuterLoopConfig(imagined_passes={8: 0})
