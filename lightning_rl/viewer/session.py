"""One game that an agent, a person or chance plays, step by step: no threads, no clock and no network."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.policies.policy import sample_actions
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import ActorOutput, RecurrentInputs
from lightning_rl.viewer.dream import Dream, Dreamer
from lightning_rl.viewer.keys import idle_action
from lightning_rl.viewer.levels import checked_level
from lightning_rl.viewer.moments import Episode, History, Moment, Recorded, Where
from lightning_rl.viewer.scene import STEPS_A_SECOND, Scene

PlayedBy = Literal["agent", "person", "random", "replay"]
AtEnd = Literal["next", "same"]

REMEMBERED = 60 * STEPS_A_SECOND
"""Moments of the last minute."""
_RGB = 3


class Session:
    """A game at a moment, and the last minute before it.

    Every level begins the same each time, so a level and the actions taken in it say all that happens.

    Args:
        scene: what is played.
        level: to begin with; the first training level by default.
        numbers: of the episodes that it opens; from 0 by default.

    Attributes:
        played_by: who decides.
        greedy: whether the agent takes its most likely action, instead of sampling.
        held: the action that a person holds.
        at_end: what follows an episode: the next level, or the same one again.
        history: the moments that can be gone back to.
        is_paused: whether time stands still, until `step`.
        horizon: steps after which the world model begins anew; beside the game at the real frame, alone where it began.
            0 for none.
        stride: how many levels on the next one is.
    """

    def __init__(self, scene: Scene, *, level: int | None = None, numbers: Iterator[int] | None = None) -> None:
        self.scene = scene
        self.played_by: PlayedBy = "random" if scene.policy is None else "agent"
        self.greedy = scene.greedy
        self.held = self.idle = idle_action(scene.actions)
        self.at_end: AtEnd = "next"
        self.history = History(REMEMBERED)
        self.is_paused = False
        self.horizon = 50
        self.stride = 1
        self._where: Where = "game"
        self._script: list[int] = []
        self._random = torch.Generator().manual_seed(scene.seed)
        self._dreamer = None if scene.world_model is None else Dreamer(scene.world_model, self._random)
        self._numbers = count() if numbers is None else numbers
        self._env: ResumableVectorEnv | None = None
        self._opened: tuple[int | None, Recorded | None] = (None, None)  # what the game was built for
        self._heard = 0.0  # the last reward as the game's wrappers gave it
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
        self._begin(checked_level(level))

    def replay(self, level: int, actions: Sequence[int]) -> None:
        """Opens an episode of a level, in which these actions are taken first.

        Raises:
            ValueError: there is no such level or action.
        """
        self.scene.check_actions(actions)
        self._begin(checked_level(level), script=actions)

    def replay_recorded(self, recorded: Recorded, actions: Sequence[int] | None = None) -> None:
        """Opens an episode at the beginning of one that was recorded, in which its actions, or these, are taken first.

        Raises:
            ValueError: there is no such action.
        """
        script = recorded.actions if actions is None else actions
        self.scene.check_actions(script)
        self._begin(recorded.level, recorded=recorded, script=script)

    def again(self) -> None:
        """Opens an episode at the beginning of the present one; actions that are played again begin anew, too."""
        now = self.now.episode
        self._begin(now.level, recorded=now.recorded, script=now.script if self.played_by == "replay" else ())

    def _begin(self, level: int | None, *, recorded: Recorded | None = None, script: Sequence[int] = ()) -> None:
        if len(self.history):
            self.history.forget_later()
        self._open(level, recorded)
        self._obs, _ = self._game.reset()
        if self.played_by == "replay" and not script:
            self._let_play_again()
        self._script = [*reversed(script)]
        if script:
            self.played_by = "replay"
        if self._where == "model":
            self._where = "game"
        episode = Episode(next(self._numbers), level, recorded, script)
        self._arrive(episode, total=0.0, inputs=RecurrentInputs.initial(1), dream=self._dream_here())

    def go(self, where: Where) -> None:
        """Lets the world model play beside the real game from its present state on, or alone, or not at all.

        Raises:
            ValueError: there is no world model.
        """
        if where != "game" and self._dreamer is None:
            raise ValueError(f"where must be game without a world model, found {where}")
        if self.history.is_rewound:
            self._go_on_from_here()
        real = self.now if self.now.left is None else self.now.left
        if real is not self.now:
            self._obs = self._game.set_state(real.game) if real.game is not None else self._obs
        if real.is_over and where == "model":
            self.again()
            real = self.now
        self._where = where
        if where == "model":
            self._dream_alone(real, None)
        elif real is self.now:
            self.history.change(replace(real, where=where, dream=self._dream_here()))
        else:
            self.history.add(replace(real, where=where, dream=self._dream_here()))

    def dream_of_replay(self) -> None:
        """Lets the world model play alone from a frame that was drawn from those it has learned from.

        Raises:
            ValueError: there are none.
        """
        draw, dreamer = self.scene.real_frames, self._dreamer
        if draw is None or dreamer is None:
            raise ValueError("where must be the game: the real frames of this run are not kept, found the replay")
        if self.history.is_rewound:
            self._go_on_from_here()
        self._where = "model"
        left = self.now if self.now.left is None else self.now.left
        self._dream_alone(left, dreamer.begin_at_replay(draw(self._random)))

    @property
    def temperature(self) -> float | None:
        """Of the world model's draws; see `Dreamer`."""
        return None if self._dreamer is None else self._dreamer.temperature

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        """Sets it.

        Raises:
            ValueError: there is no world model, or see `Dreamer`.
        """
        if self._dreamer is None:
            raise ValueError(f"temperature is a world model's, which there is none of, found {value}")
        self._dreamer.temperature = value

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
        if before.left is not None and (before.is_over or self._is_at_horizon(before.dream)):
            self._dream_alone(before.left, before.dream)
        elif before.is_over:
            self._begin_next(before.episode)
        else:
            self._act(before, self._decided(before))

    def _begin_next(self, over: Episode) -> None:
        levels = self.scene.levels
        if self.at_end == "same":
            self.again()
        elif over.level is None:
            self.begin(levels.first_of("training"))
        else:
            self.begin(levels.beside(over.level, self.stride))

    def look_again(self) -> None:
        """Shows the frame anew, after a slider was moved."""
        lens, before = self.scene.lens, self.now.sight
        if lens is not None and before is not None:
            images = lens.look(self.now.frame[None], None).images
            self.history.change(replace(self.now, sight=replace(before, images=images)))

    def _act(self, before: Moment, action: int) -> None:
        reward, ended, dream = self._played(before, action)
        inputs = before.inputs
        if before.output is not None:
            rewards = np.array([reward if before.left is not None else self._heard], dtype=np.float32)
            inputs = _took(before.output, action).next_inputs(rewards, np.array([ended]))
        before.episode.actions.append(action)
        before.episode.rewards.append(reward)
        total, length = before.total + reward, before.length + 1
        if ended and before.left is None:  # games never show the last frame
            changed: dict[str, Any] = {"length": length, "total": total, "inputs": inputs, "game": None}
            self.history.add(replace(before, **changed, is_over=True))
        else:
            self._arrive(before.episode, total=total, inputs=inputs, dream=dream, before=before, is_over=ended)
        if self.played_by == "replay" and not self._script:
            self._let_play_again()
            self.is_paused = True

    def _played(self, before: Moment, action: int) -> tuple[float, bool, Dream | None]:
        """Reward and end of the step that is shown, and the world model after it, if it plays."""
        if before.left is not None and self._dreamer is not None and before.dream is not None:
            imagined = self._dreamer.step(before.dream, action, None)
            self._obs = imagined.stack.numpy()
            return imagined.reward, imagined.is_over, imagined
        self._obs, rewards, terminated, truncated, info = self._game.step(np.array([action]))
        self._heard = float(rewards[0])
        dream = before.dream
        if self._dreamer is not None and dream is not None:
            dream = self._dreamer.step(dream, action, picture(self._obs[0]))
            dream = self._dream_here() if dream.is_over or self._is_at_horizon(dream) else dream
        ended = bool((terminated | truncated)[0])
        return float(info.get("raw_rewards", rewards)[0]), ended, dream

    def _is_at_horizon(self, dream: Dream | None) -> bool:
        return dream is not None and 0 < self.horizon <= dream.steps

    def _dream_here(self) -> Dream | None:
        """The world model, where it plays beside the game, at the game's present frame."""
        return None if self._dreamer is None or self._where != "both" else self._dreamer.begin(self._obs)

    def _dream_alone(self, left: Moment, origin: Dream | None) -> None:
        """The world model's own play, from where it began before or, by default, from the game's present frame."""
        if self._dreamer is None:
            return
        dream = self._dreamer.begin(self._obs) if origin is None else self._dreamer.begin_anew(origin)
        self._obs = dream.stack.numpy()
        episode = Episode(next(self._numbers), left.episode.level, is_real=False)
        self._arrive(episode, total=0.0, inputs=left.inputs, dream=dream, left=left)

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

    def _open(self, level: int | None, recorded: Recorded | None) -> None:
        game = self.scene.make_game(level or 0) if recorded is None else recorded.open()
        self.close()
        self._env, self._opened = game, (level, recorded)

    def _let_play_again(self) -> None:
        self.hand_to("random" if self.scene.policy is None else "agent")

    def _go_on_from_here(self) -> None:
        """Brings the game back to the moment that is shown, bit for bit, and forgets what came later."""
        self.history.forget_later()
        now = self.now
        real = (now if now.left is None else now.left).episode  # that of the game, whose state is restored
        if (real.level, real.recorded) != self._opened:
            self._open(real.level, real.recorded)
        self._random.set_state(now.random)
        self._where = now.where
        if now.game is not None:
            self._obs = self._game.set_state(now.game)
        if now.left is not None and now.dream is not None:
            self._obs = now.dream.stack.numpy()
        if self.played_by == "replay":
            self._let_play_again()

    def _arrive(
        self,
        episode: Episode,
        *,
        total: float,
        inputs: RecurrentInputs,
        dream: Dream | None,
        before: Moment | None = None,
        left: Moment | None = None,
        is_over: bool = False,
    ) -> None:
        """Lets the agent look at the frame, and remembers all."""
        policy, output = self.scene.policy, None
        if policy is not None:
            output = policy.act(self._obs, self._random, recurrent_inputs=inputs, greedy=True)
        episode.values.append(None if output is None else float(output.values[0, 0]))
        lens, memory = self.scene.lens, None if before is None or before.sight is None else before.sight.memory
        moment = Moment(
            episode=episode,
            length=len(episode.actions),
            total=total,
            frame=picture(self._obs[0]),
            inputs=inputs,
            output=output,
            random=self._random.get_state(),
            game=self._game.get_state(),
            is_over=is_over,
            where=self._where,
            dream=dream,
            sight=None if lens is None else lens.look(self._obs, memory),
            left=left if before is None else before.left,
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
    return np.array(np.broadcast_to(newest, (*obs.shape[:2], _RGB)))


def _took(output: ActorOutput, action: int) -> ActorOutput:
    """The output as if the policy had chosen the action that was taken."""
    return replace(output, actions=torch.tensor([action]))
