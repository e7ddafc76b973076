"""Policy distillation: a student learns to act like a trained teacher."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_rl.distributed import collectives
from lightning_rl.errors import check_option
from lightning_rl.losses.policy import entropy, log_probs_of
from lightning_rl.losses.policy_distillation import is_same_choice, policy_divergence, proximal_divergence
from lightning_rl.losses.value import squared_value_loss
from lightning_rl.modules.base import Objective
from lightning_rl.modules.exported import Player
from lightning_rl.modules.ppo import PPOBatch, PPOModule, Trajectories, ppo_objective
from lightning_rl.modules.teachers import read_teacher
from lightning_rl.policies.config import PolicyConfig
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.protocols import Policy, Source
from lightning_rl.types import ActorOutput, RecurrentInputs, Rollout

_TEACHER_KEY = "teacher"


@dataclass(frozen=True, kw_only=True)
class TaughtBatch(PPOBatch):
    """`N` samples of a rollout, with what the teacher says of their frames."""

    teacher_logits: Float32[Tensor, "N A"]
    teacher_values: Float32[Tensor, "N"]


@dataclass(frozen=True, kw_only=True)
class TaughtTrajectories(Trajectories):
    """A rollout of `T` steps in `B` environments, with what the teacher says of each frame."""

    teacher_logits: Float32[Tensor, "T B A"]
    teacher_values: Float32[Tensor, "T B"]

    def minibatch(self, indices: Int64[Tensor, "N"]) -> TaughtBatch:
        """Samples by their index in time-major order."""
        return TaughtBatch(**self.samples(indices, TaughtBatch))


class Lesson:
    """Student and teacher in the same games: the teacher plays in some environments, and is asked about all frames.

    Args:
        student: plays in the other environments.
        teacher: may be recurrent.
        teacher_share: share of the environments in which the teacher plays, the first ones.
    """

    def __init__(self, student: Policy, teacher: Policy, *, teacher_share: float) -> None:
        self._student = student
        self._teacher = teacher
        self._share = teacher_share
        self._answers: list[ActorOutput] = []

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """Actions and logits of whoever plays, the student's values, and the teacher's recurrent state."""
        own = self._student.act(obs, generator, greedy=greedy)
        taught = self._teacher.act(obs, generator, recurrent_inputs=recurrent_inputs, greedy=greedy)
        self._answers.append(taught)
        first = round(self._share * len(obs))
        return ActorOutput(
            actions=torch.cat([taught.actions[:first], own.actions[first:]]),
            logits=torch.cat([taught.logits[:first], own.logits[first:]]),
            values=own.values,
            state=taught.state,
        )

    def collected(self, source: Source) -> tuple[Rollout, Float32[Tensor, "T B A"], Float32[Tensor, "T B"]]:
        """A rollout, and the teacher's logits and values of its frames but the last."""
        rollout = source.collect(self)
        answers, self._answers = self._answers, []
        values = torch.stack([answer.values[:, 0] for answer in answers])
        return rollout, torch.stack([answer.logits for answer in answers]), values


class PolicyDistillModule(PPOModule):
    """A student network learns the policy of a trained teacher, on frames that the student visits.

    The loss is the divergence of the student's policy from the teacher's, Rullo's equation 3. With `proximal` the
    student also learns from its own rewards, by PPO, and the divergence is weighted by PPO's ratio. The settings beside
    those here are those of `PPOModule`; `network`, `channels`, `hidden`, `pooling` and `width` are the student's.

    Args:
        teacher: checkpoint, run folder or exported policy of any method here; null where a checkpoint of this method is
            continued or judged, which holds its teacher.
        temperature: τ; the teacher's logits are divided by it.
        loss: `divergence` alone, or `proximal` policy distillation.
        divergence_weight: λ, factor on the divergence.
        fading_steps: env steps over which λ falls linearly to zero; null keeps it.
        regress_values: with `divergence`, the student's critic learns the teacher's values, weighted by `value_weight`.
        teacher_share: share of the environments that the teacher plays.
        teacher_share_steps: env steps over which that share falls linearly to zero; null keeps it.
        start_from_teacher: take the teacher's weights for the student, where names and shapes agree.
        **ppo: options of `PPOModule`.

    Raises:
        ValueError: a value outside its range; before training, that no teacher could be read.

    Reference:
        Rullo 2024, Procgen-Solving agent using PPO and Distillation network strategy, section 2.2 and eq. 3; Ross et
        al. 2011, DAgger, https://arxiv.org/abs/1011.0686, for the falling share; Spigler 2024, Proximal policy
        distillation, https://arxiv.org/abs/2407.15134
    """

    steps_taught: Tensor

    def __init__(
        self,
        *,
        teacher: str | None = None,
        temperature: float = 1.0,
        loss: Literal["divergence", "proximal"] = "divergence",
        divergence_weight: float = 1.0,
        fading_steps: int | None = None,
        regress_values: bool = False,
        teacher_share: float = 0.0,
        teacher_share_steps: int | None = None,
        start_from_teacher: bool = False,
        **ppo: Any,
    ) -> None:
        super().__init__(**ppo)
        check_option("model.temperature", temperature, temperature > 0, "positive")
        check_option("model.divergence_weight", divergence_weight, divergence_weight > 0, "positive")
        check_option("model.teacher_share", teacher_share, 0 <= teacher_share <= 1, "in [0, 1]")
        for name, steps in (("fading_steps", fading_steps), ("teacher_share_steps", teacher_share_steps)):
            check_option(f"model.{name}", steps, steps is None or steps >= 1, "null or at least 1")
        alone = loss == "divergence" or not regress_values
        check_option("model.regress_values", regress_values, alone, "false with the proximal loss, which has returns")
        self.temperature = temperature
        self.loss = loss
        self.divergence_weight = divergence_weight
        self.fading_steps = fading_steps
        self.regress_values = regress_values
        self.teacher_share = teacher_share
        self.teacher_share_steps = teacher_share_steps
        self.register_buffer("steps_taught", torch.zeros((), dtype=torch.int64))
        self.teacher: ExportedPolicy | None = None
        self._why_none = "model.teacher must be a checkpoint, a run folder or an exported policy, found null"
        if teacher is not None:
            self._read(teacher, copied=start_from_teacher)

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`policy_distill`."""
        return "policy_distill"

    def _read(self, source: str, *, copied: bool) -> None:
        """Takes the teacher at a path. One that is gone is missed later, unless a checkpoint brings it."""
        try:
            self._take(read_teacher(source))
        except ValueError as error:
            self._why_none = str(error)
        else:
            if copied:
                self._copy_teacher()

    def _take(self, teacher: ExportedPolicy) -> None:
        """Takes a teacher that plays the student's games."""
        for name, own in (("obs_shape", tuple(self.obs_shape)), ("num_actions", self.num_actions)):
            found = getattr(teacher.config, name)
            check_option("model.teacher", f"one of {name} {found}", found == own, f"of {name} {own} as the games are")
        self.teacher = teacher.train()  # no layer depends on it, and Lightning warns of modules in evaluation mode

    def _copy_teacher(self) -> None:
        own, others = self.network.state_dict(), self._given_teacher.network.state_dict()
        same = {name: tensor for name, tensor in others.items() if name in own and own[name].shape == tensor.shape}
        self.network.load_state_dict(own | same)

    @property
    def _given_teacher(self) -> ExportedPolicy:
        if self.teacher is None:
            raise ValueError(self._why_none)
        return self.teacher

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuses to learn without a teacher."""
        super().check_trainer(trainer)
        _ = self._given_teacher

    def prepare_for(self, checkpoint: dict[str, Any]) -> None:
        """Takes the teacher of the checkpoint, whose file may be gone."""
        if _TEACHER_KEY in checkpoint:
            config = PolicyConfig.from_json(checkpoint[_TEACHER_KEY])
            self._take(ExportedPolicy(config))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says how the teacher is built; its weights are among the module's."""
        super().on_save_checkpoint(checkpoint)
        if self.teacher is not None:
            checkpoint[_TEACHER_KEY] = self.teacher.config.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `RLModule`; takes the checkpoint's teacher, whatever is at its path now."""
        self.prepare_for(checkpoint)
        super().on_load_checkpoint(checkpoint)

    def yardsticks(self) -> dict[str, Policy]:
        """The teacher."""
        return {} if self.teacher is None else {"teacher": Player(self.teacher, self.precision)}

    def batches(self, source: Source) -> Iterator[PPOBatch]:
        """One rollout, what the teacher says of it, then shuffled minibatches."""
        teacher_share = self.teacher_share * self._remaining(self.teacher_share_steps)
        lesson = Lesson(self, Player(self._given_teacher, self.precision), teacher_share=teacher_share)
        rollout, logits, values = lesson.collected(source)
        trajectories = self.trajectories(rollout.to(self.device), source.memory)
        self.steps_taught += trajectories.actions.numel() * collectives.world_size()
        taught = {"teacher_logits": logits.to(self.device), "teacher_values": values.to(self.device)}
        return self.minibatches(TaughtTrajectories(**vars(trajectories), **taught), source.generator)

    def _remaining(self, steps: int | None) -> float:
        """What is left, between one and zero, of something that falls to zero over so many env steps."""
        return 1.0 if steps is None else max(0.0, 1 - int(self.steps_taught) / steps)

    def weights(self, batch: Any) -> dict[str, float]:
        """PPO's weights where its losses are learned from, and that of the divergence, which may fall."""
        distill = {"distill": self.divergence_weight * self._remaining(self.fading_steps)}
        if self.loss == "proximal":
            return self.loss_weights | distill
        return distill | ({"value": self.value_weight} if self.regress_values else {})

    def objective(self, batch: TaughtBatch, generator: torch.Generator) -> Objective:  # type: ignore[override]  # its own
        """The divergence from the teacher, and PPO's losses or the regression to the teacher's values by option."""
        logits, values = self.network(batch.obs, generator)
        divergences = policy_divergence(batch.teacher_logits, logits, temperature=self.temperature)
        metrics = {
            "teacher/divergence": divergences.detach().mean(),
            "teacher/agreement": is_same_choice(batch.teacher_logits, logits).float().mean(),
        }
        if self.loss == "proximal":
            losses, own = ppo_objective(
                batch, logits, values[:, 0], epsilon=self.epsilon, value_epsilon=self.value_epsilon
            )
            log_probs = {
                "log_probs": log_probs_of(batch.actions, logits),
                "behavior_log_probs": batch.behavior_log_probs,
            }
            weighted = proximal_divergence(divergences, **log_probs, epsilon=self.epsilon)
            return Objective(losses | {"distill": weighted.mean()}, own | metrics)
        losses = {"distill": divergences.mean()}
        if self.regress_values:
            losses["value"] = squared_value_loss(values[:, 0], batch.teacher_values).mean()
        return Objective(losses, metrics | {"policy/entropy": entropy(logits).detach().mean()})
