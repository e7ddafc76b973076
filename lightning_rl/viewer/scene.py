"""What can be played: a game, its agent, its world model, and the episodes that `test` has played."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from lightning_rl.protocols import Policy, ResumableVectorEnv, WorldModel
from lightning_rl.runs.episodes_file import EpisodeRow
from lightning_rl.viewer.keys import ActionKeys
from lightning_rl.viewer.lenses import Lens
from lightning_rl.viewer.levels import Levels
from lightning_rl.viewer.moments import Recorded

STEPS_A_SECOND = 15
"""The rate of Procgen's own interactive mode."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One game, and the agent that plays it.

    Args:
        title: what the page is headed with.
        game: its name.
        method: that trained the agent; empty without one.
        make_game: builds one game of a level.
        actions: names of the actions, and their keys.
        levels: which of them are for training.
        policy: the agent; None without one.
        greedy: whether it takes the most likely action at first.
        seed: of the actions.
        world_model: that the agent has learned; None without one.
        real_frames: draws a stack of the real frames that the world model has learned from; None where none are kept.
        lens: shows what else the method has to show.
    """

    title: str
    game: str
    method: str
    make_game: Callable[[int], ResumableVectorEnv]
    actions: Sequence[ActionKeys]
    levels: Levels
    policy: Policy | None
    greedy: bool = False
    seed: int = 1
    world_model: WorldModel | None = None
    real_frames: Callable[[torch.Generator], UInt8[Tensor, "1 H W D"]] | None = None
    lens: Lens | None = None

    def check_actions(self, actions: Sequence[int]) -> None:
        """Raises a ValueError if one of them is none of the game's."""
        allowed = len(self.actions)
        if wrong := [action for action in actions if not 0 <= action < allowed]:
            raise ValueError(f"actions must be from 0 to {allowed - 1}, found {wrong[0]}")


@dataclass(frozen=True, kw_only=True)
class PlayedEpisodes:
    """The episodes that `test` has played.

    Args:
        rows: what is told of each.
        read: brings one back, by its number.
    """

    rows: Sequence[EpisodeRow]
    read: Callable[[int], Recorded]


@dataclass(frozen=True, kw_only=True)
class Show:
    """All that a page offers.

    Args:
        scenes: the game, or each of several that one agent plays, which then have the same actions.
        episodes: that `test` has played; None where there are none.
    """

    scenes: Sequence[Scene]
    episodes: PlayedEpisodes | None = None

    @property
    def title(self) -> str:
        """What the page is headed with."""
        games = [scene.game for scene in self.scenes]
        return self.scenes[0].title.replace(games[0], "+".join(games), 1)

    def scene_of(self, game: str) -> Scene:
        """The scene of a game.

        Raises:
            ValueError: there is none.
        """
        found = [scene for scene in self.scenes if scene.game == game]
        if not found:
            raise ValueError(f"game must be one of {', '.join(scene.game for scene in self.scenes)}, found {game:.40}")
        return found[0]
