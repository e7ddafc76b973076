"""Policies that show in their outputs what they saw."""

from typing import Any

import torch
from numpy.typing import NDArray

from lightning_rl.types import ActorOutput


class PixelPolicy:
    """Logits that rise by the frame's first pixel with each action; values that are the pixel and its negative.

    Actions are uniform, or where `greedy` the last one. `seen` holds the first pixels of every batch that it thought
    about.
    """

    def __init__(self, num_actions: int) -> None:
        self.num_actions = num_actions
        self.seen: list[list[int]] = []

    def act(
        self, obs: NDArray[Any], generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False
    ) -> ActorOutput:
        pixels = torch.from_numpy(obs[:, 0, 0, 0]).float()
        self.seen.append(obs[:, 0, 0, 0].tolist())
        actions = torch.randint(self.num_actions, (len(obs),), generator=generator)
        return ActorOutput(
            actions=torch.full_like(actions, self.num_actions - 1) if greedy else actions,
            logits=pixels[:, None] * torch.arange(self.num_actions),
            values=torch.stack([pixels, -pixels], dim=1),
        )
