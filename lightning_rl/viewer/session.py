"""One game that an agent, a person or chance plays, step by step: no threads, no clock and no network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.policies.policy import sample_actions
from lightning_rl.protocols import Policy, ResumableVectorEnv
from lightning_rl.types import ActorOutput, RecurrentInputs
from lightning_rl.viewer.keys import ActionKeys, idle_action
from lightning_rl.viewer.levels import MAX_LEVEL, Levels
from lightning_rl.viewer.moments import Episode, History, Moment

PlayedBy = Literal["agent", "person", "random", "replay"]
AtEnd = Literal["next", "same"]

STEPS_A_SECOND = 15
"""The rate of Procgen's own interactive mode."""
_REMEMBERED = 60 * STEPS_A_SECOND
_RGB = 3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is played, and by which agent.

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


class Session:
    """A game at a moment, and the last minute before it.

    Every level begins the same each time, so a level and the actions taken in it say all that happens.

    Args:
        scene: what is played.
        level: to begin with; the first training level by default.

    Attributes:
        played_by: who decides.
        greedy: whether the agent takes its most likely action, instead of sampling.
        held: the action that a person holds.
        at_end: what follows an episode: the next level, or the same one again.
        history: the moments that can be gone back to.
        is_paused: whether time stands still, until `step`.
    """

    def __init__(self, scene: Scene, *, level: int | None = None) -> None:
        self.scene = scene
        self.played_by: PlayedBy = "random" if scene.policy is None else "agent"
        self.greedy = scene.greedy
        self.held = self.idle = idle_action(scene.actions)
        self.at_end: AtEnd = "next"
        self.history = History(_REMEMBERED)
        self.is_paused = False
        self._script: list[int] = []
        self._random = torch.Generator().manual_seed(scene.seed)
        self._episodes = 0
        self._env: ResumableVectorEnv | None = None
        self._level = -1
        self._obs: UInt8[NDArray[Any], "1 H W C"]
        self.begin(scene.levels.first_of("training") if level is None else level)

    @property
    def now(self) -> Moment:
        """The moment that is shown."""
        return self.history.now

    def begin(self, level: int) -> None:
        """Opens an episode of a level.

        Raises:
            ValueError: there is no such level.
        """
        if not 0 <= level <= MAX_LEVEL:
            raise ValueError(f"level must be from 0 to {MAX_LEVEL}, found {level}")
        if len(self.history):
            self.history.forget_later()
        self._open(level)
        self._obs, _ = self._game.reset()
        self._script = []
        if self.played_by == "replay":
            self._let_play_again()
        episode = Episode(self._episodes, level)
        self._episodes += 1
        self._arrive(episode, total=0.0, inputs=RecurrentInputs.initial(1))

    def replay(self, level: int, actions: Sequence[int]) -> None:
        """Opens an episode of a level, in which these actions are taken first.

        Raises:
            ValueError: there is no such level or action.
        """
        allowed = len(self.scene.actions)
        if wrong := [action for action in actions if not 0 <= action < allowed]:
            raise ValueError(f"actions must be from 0 to {allowed - 1}, found {wrong[0]}")
        self.begin(level)
        self._script = [*reversed(actions)]
        if actions:
            self.played_by = "replay"

    def hand_to(self, player: PlayedBy) -> None:
        """Lets another one play, from the moment that is shown on.

        Raises:
            ValueError: there is no agent.
        """
        if player == "agent" and self.scene.policy is None:
            raise ValueError("played_by must be person or random where no agent was given, found agent")
        self.played_by = player
        self._script = []
        self.held = self.idle

    def step(self) -> None:
        """Takes one action, or opens the next episode where one is over."""
        if self.history.is_rewound:
            self._go_on_from_here()
        before = self.now
        if before.is_over:
            again = self.at_end == "same"
            level = before.episode.level
            self.begin(level if again else self.scene.levels.beside(level, 1))
            return
        action = self._decided(before)
        self._obs, rewards, terminated, truncated, info = self._game.step(np.array([action]))
        ended = terminated | truncated
        reward = float(info.get("raw_rewards", rewards)[0])
        inputs = before.inputs if before.output is None else _took(before.output, action).next_inputs(rewards, ended)
        before.episode.actions.append(action)
        before.episode.rewards.append(reward)
        total = before.total + reward
        if ended[0]:  # games never show the last frame
            self.history.add(replace(before, length=before.length + 1, total=total, inputs=inputs, game=None))
        else:
            self._arrive(before.episode, total=total, inputs=inputs)
        if self.played_by == "replay" and not self._script:
            self._let_play_again()
            self.is_paused = True

    def close(self) -> None:
        """Ends the game."""
        if self._env is not None:
            self._env.close()
            self._env = None

    @property
    def _game(self) -> ResumableVectorEnv:
        if self._env is None:
            raise RuntimeError("the session is closed")
        return self._env

    def _open(self, level: int) -> None:
        self.close()
        self._env = self.scene.make_game(level)
        self._level = level

    def _let_play_again(self) -> None:
        self.hand_to("random" if self.scene.policy is None else "agent")

    def _go_on_from_here(self) -> None:
        """Brings the game back to the moment that is shown, bit for bit, and forgets what came later."""
        self.history.forget_later()
        now = self.now
        if now.episode.level != self._level:
            self._open(now.episode.level)
        self._random.set_state(now.random)
        if now.game is not None:
            self._obs = self._game.set_state(now.game)
        if self.played_by == "replay":
            self._let_play_again()

    def _arrive(self, episode: Episode, *, total: float, inputs: RecurrentInputs) -> None:
        """Lets the agent look at the frame, and remembers all."""
        policy, output = self.scene.policy, None
        if policy is not None:
            output = policy.act(self._obs, self._random, recurrent_inputs=inputs, greedy=True)
        episode.values.append(None if output is None else float(output.values[0, 0]))
        moment = Moment(
            episode=episode,
            length=len(episode.actions),
            total=total,
            frame=picture(self._obs[0]),
            inputs=inputs,
            output=output,
            random=self._random.get_state(),
            game=self._game.get_state(),
        )
        self.history.add(moment)

    def _decided(self, now: Moment) -> int:
        match self.played_by:
            case "person":
                return self.held
            case "replay":
                return self._script.pop()
            case "agent" if now.output is not None:
                return int(sample_actions(now.output.logits, self._random, greedy=self.greedy)[0])
        return int(torch.randint(len(self.scene.actions), (1,), generator=self._random))


def picture(obs: UInt8[NDArray[Any], "H W C"]) -> UInt8[NDArray[Any], "H W 3"]:
    """The newest frame of an observation, in color."""
    newest = obs[..., -_RGB:] if obs.shape[-1] % _RGB == 0 else obs[..., -1:]
    return np.ascontiguousarray(np.broadcast_to(newest, (*obs.shape[:2], _RGB)))


def _took(output: ActorOutput, action: int) -> ActorOutput:
    """The output as if the policy had chosen the action that was taken."""
    return replace(output, actions=torch.tensor([action]))
