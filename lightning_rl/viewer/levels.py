"""Levels by their numbers: which of them the agent was trained on, and which one comes next."""

from dataclasses import dataclass
from typing import Literal

LevelSet = Literal["training", "unseen"]

MAX_LEVEL = 2**31 - 2
"""Levels are seeds: 32-bit signed integers, the largest of which ends a range only."""


def checked_level(level: int) -> int:
    """The level.

    Raises:
        ValueError: Procgen has none of this number.
    """
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"level must be from 0 to {MAX_LEVEL}, found {level}")
    return level


@dataclass(frozen=True)
class Levels:
    """The training levels.

    Args:
        count: how many there are; 0 where all levels are trained on, or the game has none.
        first: the first of them.
    """

    count: int
    first: int

    @property
    def are_told_apart(self) -> bool:
        """Whether some levels are unseen in training."""
        return self.count > 0

    def set_of(self, level: int) -> LevelSet:
        """Whether the agent was trained on a level."""
        return "training" if not self.count or self.first <= level < self.first + self.count else "unseen"

    def first_of(self, levels: LevelSet) -> int:
        """Where a set begins; unseen levels are those after the training levels, or before them at the very end."""
        if levels == "training" or not self.count:
            return self.first if self.count else 0
        after = self.first + self.count
        return after if after <= MAX_LEVEL else 0

    def beside(self, level: int, step: int) -> int:
        """The next level of the same set, or the one before; training levels go round in circles."""
        if self.count and self.set_of(level) == "training":
            return self.first + (level - self.first + step) % self.count
        moved = (level + step) % (MAX_LEVEL + 1)
        if self.count and self.set_of(moved) == "training":
            moved = (self.first + self.count if step > 0 else self.first - 1) % (MAX_LEVEL + 1)
        return moved
