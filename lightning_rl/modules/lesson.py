"""Student and teacher in the same games."""

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.modules.acting import ActingModule
from lightning_rl.modules.exported import Player
from lightning_rl.modules.teachers import Teachers
from lightning_rl.types import ActorOutput, Draws, RecurrentInputs


class Lesson:
    """Student and teacher in the same games: the teacher plays in some environments, and is asked about all frames.

    Args:
        student: plays in the other environments.
        teacher: plays, too.
        teacher_share: share of the environments in which the teacher plays, the first ones of each game.
        num_games: games that share the environments equally.
        state_size: length of the student's recurrent state; the teacher's follows it in the rollouts.
    """

    def __init__(
        self,
        student: ActingModule,
        teacher: Player | Teachers,
        *,
        teacher_share: float,
        num_games: int = 1,
        state_size: int = 0,
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._share = teacher_share
        self._num_games = num_games
        self._state_size = state_size
        self.learner = student

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """Actions and logits of whoever plays, the student's values, and the recurrent states of both."""
        students, teachers = self._told(recurrent_inputs or RecurrentInputs.initial(len(obs)))
        own = self._student.act(obs, generator, recurrent_inputs=students, greedy=greedy)
        taught = self._teacher.act(obs, generator, recurrent_inputs=teachers, greedy=greedy)
        return self._played(own, taught, self._by_teacher(len(obs)))

    @property
    def is_captured(self) -> bool:
        """Whether rollouts are collected by a captured step."""
        return self._student.is_captured

    @property
    def device(self) -> torch.device:
        """Where both decide."""
        return self._student.device

    def draws(self, num_envs: int, num_actions: int, generator: torch.Generator) -> Draws:
        """The random numbers of a step, as `act` draws them, and who plays."""
        own = self._student.draws(num_envs, num_actions, generator)
        taught = self._teacher.draws(num_envs, num_actions, generator)
        return replace(own, teacher_exponentials=taught.exponentials, by_teacher=self._by_teacher(num_envs))

    def step(self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, draws: Draws) -> ActorOutput:
        """What `act` does, on the device alone."""
        if draws.teacher_exponentials is None or draws.by_teacher is None:
            raise ValueError("draws must be those of a lesson, found none of its teacher")
        students, teachers = self._told(inputs)
        own = self._student.step(frames, students, draws)
        taught = self._teacher.step(frames, teachers, Draws(exponentials=draws.teacher_exponentials))
        return self._played(own, taught, draws.by_teacher)

    def mirror(self) -> "Lesson":
        """A copy for a captured step."""
        mirrored = copy(self)
        mirrored._student, mirrored._teacher = self._student.mirror(), self._teacher.mirror()
        return mirrored

    def acting_weights(self) -> list[Tensor]:
        """The weights that learning changes."""
        return self._student.acting_weights()

    def _told(self, inputs: RecurrentInputs) -> tuple[RecurrentInputs, RecurrentInputs]:
        """Inputs of student and teacher."""
        own, others = inputs.state[:, : self._state_size], inputs.state[:, self._state_size :]
        return replace(inputs, state=own), replace(inputs, state=others)

    def _by_teacher(self, num_envs: int) -> Bool[Tensor, "B"]:
        """The environments in which the teacher plays."""
        size = num_envs // self._num_games
        return torch.arange(num_envs) % size < round(self._share * size)

    def _played(self, own: ActorOutput, taught: ActorOutput, by_teacher: Bool[Tensor, "B"]) -> ActorOutput:
        states = [output.state for output in (own, taught) if output.state is not None]
        return ActorOutput(
            actions=torch.where(by_teacher, taught.actions, own.actions),
            logits=torch.where(by_teacher[:, None], taught.logits, own.logits),
            values=own.values,
            state=torch.cat(states, dim=1) if states else None,
            teacher_logits=taught.logits,
            teacher_values=taught.values[:, 0],
        )
