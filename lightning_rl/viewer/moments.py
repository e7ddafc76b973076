"""What is kept of each step: all that going back to it needs, and what the page shows of it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import ActorOutput, RecurrentInputs, State
from lightning_rl.viewer.dream import Dream
from lightning_rl.viewer.lenses import Sight

Where = Literal["game", "both", "model"]
"""What is played: the real game, the world model beside it with the same actions, or the world model alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """One of the episodes that `test` has played.

    Args:
        number: its row in the file.
        game: that was played.
        level: it began on; None for games without levels.
        episode_return: sum of the game's rewards.
        actions: all of them.
        open: builds the game as it was at the episode's beginning.
    """

    number: int
    game: str
    level: int | None
    episode_return: float
    actions: Sequence[int]
    open: Callable[[], ResumableVectorEnv]


@dataclass
class Episode:
    """An episode as far as it was played.

    Args:
        number: episodes that were begun before it.
        level: it was begun with; with the actions it says everything that happens. None where `recorded` says it.
        recorded: the episode of `test` whose beginning this one has.
        script: actions to be taken first.
        is_real: whether it is of the real game, and no world model's.
        actions: so far.
        rewards: what each of them brought.
        values: of the critic at each frame, the last one included; None without an agent.
    """

    number: int
    level: int | None
    recorded: Recorded | None = None
    script: Sequence[int] = ()
    is_real: bool = True
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    def cut(self, length: int) -> None:
        """Forgets what came after so many steps."""
        del self.actions[length:], self.rewards[length:], self.values[length + 1 :]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The game before a step.

    Args:
        episode: that it belongs to.
        length: steps of the episode before it.
        total: their rewards' sum.
        frame: what is seen.
        inputs: of a recurrent policy.
        output: what the policy says about the frame; None without one.
        random: state of the stream of random numbers.
        game: the real game's own state; None once its episode is over.
        is_over: whether the episode has ended.
        where: what is played.
        dream: where the world model is; None where it does not play.
        sight: what else the method shows of the frame.
        left: the moment at which the real game waits for a world model that plays alone.
    """

    episode: Episode
    length: int
    total: float
    frame: UInt8[NDArray[Any], "H W 3"]
    inputs: RecurrentInputs
    output: ActorOutput | None
    random: torch.Tensor
    game: State | None
    is_over: bool = False
    where: Where = "game"
    dream: Dream | None = None
    sight: Sight | None = None
    left: Optional["Moment"] = None


class History:
    """The last moments, and which of them is shown.

    Args:
        size: moments to keep; at least 2.
    """

    def __init__(self, size: int) -> None:
        self._moments: deque[Moment] = deque(maxlen=size)
        self.at = -1

    def __len__(self) -> int:
        return len(self._moments)

    @property
    def now(self) -> Moment:
        """The moment that is shown."""
        return self._moments[self.at]

    @property
    def is_rewound(self) -> bool:
        """Whether later moments are known."""
        return self.at < len(self._moments) - 1

    def add(self, moment: Moment) -> None:
        """Goes on to another moment, from the newest one."""
        self._moments.append(moment)
        self.at = len(self._moments) - 1

    def limit(self, size: int) -> None:
        """Keeps another number of moments, of which the newest ones are there already."""
        forgotten = max(len(self._moments) - size, 0)
        self._moments = deque(self._moments, maxlen=size)
        self.at = max(self.at - forgotten, 0)

    def change(self, moment: Moment) -> None:
        """Shows the moment in another way."""
        self._moments[self.at] = moment

    def seek(self, at: int) -> None:
        """Shows another moment; numbers out of range mean the first or the last."""
        self.at = min(max(at, 0), len(self._moments) - 1)

    def forget_later(self) -> None:
        """Drops what came after the moment that is shown."""
        while self.is_rewound:
            self._moments.pop()
        self.now.episode.cut(self.now.length)
