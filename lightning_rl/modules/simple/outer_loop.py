"""SimPLe's outer loop, cut into slices; a run can be stopped and resumed between slices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lightning_rl.errors import check_option

_MAX_SLICES = 10_000_000  # a pass is a list of slices

Phase = Literal["world model", "policy"]


class Slice(NamedTuple):
    """What one iteration does; `size` counts updates of the world model, or imagined rollouts."""

    phase: Phase
    collects: bool  # collect real play first
    size: int


@dataclass(frozen=True, kw_only=True)
class OuterLoopConfig:
    """Options of Algorithm 1: collect real play, train the world model on all of it, train the policy in it, repeat.

    The first slice of a pass collects. After the last pass the run collects once more, and ends there if
    `data.total_env_steps` equals the real steps of all passes.

    Args:
        first_world_model_updates: updates of the world model in the first pass.
        world_model_updates: updates of the world model in every other pass.
        imagined_steps: imagined steps of a pass, over all imagined environments.
        imagined_passes: factor on `imagined_steps` by the number of the pass, counted from one.
        world_model_slice: updates of the world model in a slice.
        policy_slice: imagined rollouts in a slice.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Kaiser et al. 2020, algorithm 1, https://arxiv.org/abs/1903.00374; tensor2tensor, rl/trainer_model_based.py and
        rl/trainer_model_based_params.py
    """

    first_world_model_updates: int = 45_000
    world_model_updates: int = 15_000
    imagined_steps: int = 800_000
    imagined_passes: Mapping[int, int] = field(default_factory=lambda: {8: 2, 12: 2, 15: 3})
    world_model_slice: int = 500
    policy_slice: int = 50

    def __post_init__(self) -> None:
        for name in (
            "first_world_model_updates",
            "world_model_updates",
            "imagined_steps",
            "world_model_slice",
            "policy_slice",
        ):
            check_option(f"model.outer_loop.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for number, factor in self.imagined_passes.items():
            check_option(
                f"model.outer_loop.imagined_passes.{number}", factor, number >= 1 and factor >= 1, "at least 1"
            )
        updates = max(self.first_world_model_updates, self.world_model_updates)
        steps = self.imagined_steps * max(self.imagined_passes.values(), default=1)
        for name, total in (("world_model_slice", updates), ("policy_slice", steps)):
            size = getattr(self, name)
            check_option(
                f"model.outer_loop.{name}", size, total <= size * _MAX_SLICES, f"at least 1/{_MAX_SLICES} of {total}"
            )

    def rollouts(self, pass_index: int, steps_per_rollout: int) -> int:
        """Number of imagined rollouts in a pass; the first pass has index 0."""
        return max(1, self.imagined_steps * self.imagined_passes.get(pass_index + 1, 1) // steps_per_rollout)

    def slices(self, pass_index: int, steps_per_rollout: int) -> list[Slice]:
        """The slices of a pass, in order."""
        updates = self.first_world_model_updates if pass_index == 0 else self.world_model_updates
        world_model = _parts(updates, self.world_model_slice)
        policy = _parts(self.rollouts(pass_index, steps_per_rollout), self.policy_slice)
        return [
            *(Slice("world model", number == 0, size) for number, size in enumerate(world_model)),
            *(Slice("policy", False, size) for size in policy),
        ]


def _parts(total: int, size: int) -> list[int]:
    whole, rest = divmod(total, size)
    return [size] * whole + [rest] * (rest > 0)
