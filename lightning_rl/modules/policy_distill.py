"""Policy distillation: a student learns to act like a trained teacher."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float32, Int64
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_rl.distributed import collectives
from lightning_rl.errors import check_option
from lightning_rl.losses.policy import entropy, log_probs_of
from lightning_rl.losses.policy_distillation import is_same_choice, policy_divergence, proximal_divergence
from lightning_rl.losses.value import squared_value_loss
from lightning_rl.modules.base import Objective
from lightning_rl.modules.exported import Player
from lightning_rl.modules.lesson import Lesson
from lightning_rl.modules.ppo import PPOBatch, PPOModule, Trajectories, ppo_objective
from lightning_rl.modules.teachers import Teachers, read_teacher
from lightning_rl.policies.config import PolicyConfig
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.protocols import Policy, Source
from lightning_rl.state import validate_state
from lightning_rl.types import Rollout

_TEACHER_KEY = "teacher"
_TEACHERS_KEY = "teachers"


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


class PolicyDistillModule(PPOModule):
    """A student network learns the policy of a trained teacher, or of one for each game, on frames that it visits.

    The loss is the divergence of the student's policy from the teacher's, Rullo's equation 3. With `proximal` the
    student also learns from its own rewards, by PPO, and the divergence is weighted by PPO's ratio. The settings beside
    those here are those of `PPOModule`; `network`, `channels`, `hidden`, `pooling` and `width` are the student's.

    Args:
        teacher: checkpoint, run folder or exported policy of any method here; null where a checkpoint of this method is
            continued or judged, which holds its teacher.
        teachers: instead, one for each of the games that are played side by side, by the game's name.
        games: names of the games in the order of their environments; the command takes them from the data.
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

    of_learning = ("teacher", "teachers", "start_from_teacher")
    steps_taught: Tensor

    def __init__(
        self,
        *,
        teacher: str | None = None,
        teachers: dict[str, str] | None = None,
        games: tuple[str, ...] = (),
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
        self._taught = 0  # as the CPU knows it from the beginning of an iteration on
        self.games = tuple(games)
        self.teacher: ExportedPolicy | None = None
        self.teachers = nn.ModuleDict()
        self._why_none = "model.teacher must be a checkpoint, a run folder or an exported policy, found null"
        if teachers is not None:
            _check_teachers(teachers, self.games, teacher=teacher, copied=start_from_teacher)
        self._read({"": teacher} if teachers is None else {game: teachers[game] for game in self.games})
        if start_from_teacher and self.teacher is not None:
            self._copy_teacher(self.teacher)

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`policy_distill`."""
        return "policy_distill"

    def _read(self, sources: Mapping[str, str | None]) -> None:
        """Takes the teachers at the paths. Those of which one is gone are missed later, unless a checkpoint has them.

        Args:
            sources: paths by game; one without a name is of all games.
        """
        for game, source in sources.items():
            if source is None:
                return
            try:
                policy = read_teacher(source, _key(game))
                self._check_teacher(policy, game)
            except ValueError as error:
                self._why_none, self.teacher, self.teachers = str(error), None, nn.ModuleDict()
                return
            self._take(policy, game)

    def _check_teacher(self, policy: ExportedPolicy, game: str) -> None:
        """Refuses a teacher that does not play the student's games."""
        self._check_frames(policy, game)
        known = policy.config.games
        played = [game] if game else self.games
        plays = not known or set(played) <= set(known.split("+"))
        check_option(_key(game), f"one of game {known}", plays, f"a policy of game {' and '.join(played)}")

    def _check_frames(self, policy: ExportedPolicy, game: str) -> None:
        """Refuses a teacher of other frames or actions."""
        for name, own in (("obs_shape", tuple(self.obs_shape)), ("num_actions", self.num_actions)):
            found = getattr(policy.config, name)
            check_option(_key(game), f"one of {name} {found}", found == own, f"of {name} {own} as the games are")

    def _take(self, policy: ExportedPolicy, game: str) -> None:
        taken = policy.train()  # no layer depends on it, and Lightning warns of modules in evaluation mode
        if game:
            self.teachers[game] = taken
        else:
            self.teacher = taken

    def _copy_teacher(self, teacher: ExportedPolicy) -> None:
        own, others = self.network.state_dict(), teacher.network.state_dict()
        same = {name: tensor for name, tensor in others.items() if name in own and own[name].shape == tensor.shape}
        self.network.load_state_dict(own | same)

    @property
    def _by_game(self) -> dict[str, ExportedPolicy]:
        """The teachers of several games, in the order of the games."""
        return {game: cast(ExportedPolicy, self.teachers[game]) for game in self.games if game in self.teachers}

    def _teaching(self) -> Player | Teachers:
        """Who teaches in the games as they are played side by side."""
        if self.teachers:
            return Teachers(self._by_game, self.precision)
        if self.teacher is None:
            raise ValueError(self._why_none)
        return Player(self.teacher, self.precision)

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuses to learn without a teacher, or nothing in the end."""
        super().check_trainer(trainer)
        learns = self.fading_steps is None or self.loss == "proximal" or self.regress_values
        allowed = "null where nothing else is learned than the divergence"
        check_option("model.fading_steps", self.fading_steps, learns, allowed)
        self._teaching()

    def prepare_for(self, checkpoint: dict[str, Any]) -> None:
        """Takes the teachers of the checkpoint, whose files may be gone."""
        before = {"": self.teacher} if self.teacher is not None else self._by_game
        several = checkpoint.get(_TEACHERS_KEY, {})
        validate_state(several, dict[str, dict[str, Any]], _TEACHERS_KEY)
        if not set(several) <= set(self.games):
            taught, played = ", ".join(several), ", ".join(self.games)
            raise ValueError(f"ckpt_path: the checkpoint has teachers of {taught}, the games of this run are {played}")
        own = {"": checkpoint[_TEACHER_KEY]} if _TEACHER_KEY in checkpoint else several
        if own:
            self.teacher, self.teachers = None, nn.ModuleDict()
        for game, config in own.items():
            policy = ExportedPolicy(PolicyConfig.from_json(config))
            self._check_frames(policy, game)
            self._check_same(game, before.get(game), checkpoint)
            policy.load_state_dict(_weights_of(checkpoint, game, policy), strict=False)  # what lacks is told later
            self._take(policy, game)

    def _check_same(self, game: str, read: ExportedPolicy | None, checkpoint: dict[str, Any]) -> None:
        """Refuses another teacher than a checkpoint has; the same one may be at another path now."""
        begun = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        asked, had = (_path_in(options, game) for options in (dict(self.hparams), begun))
        if asked in (None, had) or had is None:
            return
        saved = {} if read is None else _weights_of(checkpoint, game, read)
        own = {} if read is None else read.state_dict()
        if read is None or not all(name in saved and torch.equal(own[name], saved[name]) for name in own):
            raise ValueError(f"ckpt_path: the run is taught by {had}; {_key(game)} must be that or null, found {asked}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says how the teachers are built; their weights are among the module's."""
        super().on_save_checkpoint(checkpoint)
        if self.teacher is not None:
            checkpoint[_TEACHER_KEY] = self.teacher.config.to_json()
        if self.teachers:
            checkpoint[_TEACHERS_KEY] = {game: policy.config.to_json() for game, policy in self._by_game.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `RLModule`; takes the checkpoint's teachers, whatever is at their paths now."""
        self.prepare_for(checkpoint)
        super().on_load_checkpoint(checkpoint)

    def yardsticks(self, game: str) -> dict[str, Policy]:
        """The teacher, or that of the game."""
        policy = self._by_game.get(game, self.teacher)
        return {} if policy is None else {"teacher": Player(policy, self.precision)}

    def batches(self, source: Source) -> Iterator[PPOBatch]:
        """One rollout, what the teacher says of it, then shuffled minibatches."""
        rollout, taught = self.lesson(source)
        trajectories = self.trajectories(rollout, source.memory)
        return self.minibatches(TaughtTrajectories(**vars(trajectories), **taught), source.generator)

    def lesson(self, source: Source, *, state_size: int = 0) -> tuple[Rollout, dict[str, Tensor]]:
        """One rollout, and what the teacher says of it, on the module's device.

        Args:
            source: plays.
            state_size: length of the student's recurrent state, the first part of the rollout's.
        """
        self._taught = int(self.steps_taught)
        teacher_share = self.teacher_share * self._remaining(self.teacher_share_steps)
        sizes = {"num_games": max(1, len(self.games)), "state_size": state_size}
        lesson = Lesson(self, self._teaching(), teacher_share=teacher_share, **sizes)
        rollout = source.collect(lesson).to(self.device)
        size = rollout.actions.shape[1] // max(1, len(self.games))
        if self.teacher_share > 0 and round(self.teacher_share * size) == 0:
            rank_zero_warn(f"the teacher plays nowhere: model.teacher_share {self.teacher_share} of {size} is no game")
        steps = rollout.actions.numel() * collectives.world_size()
        self.steps_taught += steps
        self._taught += steps
        if rollout.teacher_logits is None or rollout.teacher_values is None:
            raise RuntimeError("the source must collect with the lesson, whose teacher then says what it thinks")
        return rollout, {"teacher_logits": rollout.teacher_logits, "teacher_values": rollout.teacher_values}

    def _remaining(self, steps: int | None) -> float:
        """What is left, between one and zero, of something that falls to zero over so many env steps."""
        return 1.0 if steps is None else max(0.0, 1 - self._taught / steps)

    def weights(self, batch: Any) -> dict[str, float]:
        """PPO's weights where its losses are learned from, and that of the divergence, which may fall."""
        distill = {"distill": self.divergence_weight * self._remaining(self.fading_steps)}
        if self.loss == "proximal":
            return self.loss_weights | distill
        return distill | ({"value": self.value_weight} if self.regress_values else {})

    def objective(self, batch: TaughtBatch, generator: torch.Generator) -> Objective:  # type: ignore[override]  # its own
        """The divergence from the teacher, and PPO's losses or the regression to the teacher's values by option."""
        logits, values = self.network(batch.obs, generator)
        if self.loss == "divergence":
            return self.imitation(logits, values[:, 0], batch.teacher_logits, batch.teacher_values)
        divergences, metrics = self._compared(logits, batch.teacher_logits)
        losses, own = ppo_objective(batch, logits, values[:, 0], epsilon=self.epsilon, value_epsilon=self.value_epsilon)
        log_probs = {
            "log_probs": log_probs_of(batch.actions, logits),
            "behavior_log_probs": batch.behavior_log_probs,
        }
        weighted = proximal_divergence(divergences, **log_probs, epsilon=self.epsilon)
        return Objective(losses | {"distill": weighted.mean()}, own | metrics)

    def imitation(
        self,
        logits: Float32[Tensor, "N A"],
        values: Float32[Tensor, "N"],
        teacher_logits: Float32[Tensor, "N A"],
        teacher_values: Float32[Tensor, "N"],
    ) -> Objective:
        """The divergence from the teacher, and by option the regression to its values."""
        divergences, metrics = self._compared(logits, teacher_logits)
        losses = {"distill": divergences.mean()}
        if self.regress_values:
            losses["value"] = squared_value_loss(values, teacher_values).mean()
        return Objective(losses, metrics | {"policy/entropy": entropy(logits).detach().mean()})

    def _compared(
        self, logits: Float32[Tensor, "N A"], teacher_logits: Float32[Tensor, "N A"]
    ) -> tuple[Float32[Tensor, "N"], dict[str, Tensor]]:
        """Divergences from the teacher, and metrics of how alike the policies are."""
        divergences = policy_divergence(teacher_logits, logits, temperature=self.temperature)
        agreement = is_same_choice(teacher_logits, logits).float().mean()
        return divergences, {"teacher/divergence": divergences.detach().mean(), "teacher/agreement": agreement}


def _key(game: str) -> str:
    """The option that names the teacher of a game, or of all games."""
    return f"model.teachers.{game}" if game else "model.teacher"


def _weights_of(checkpoint: dict[str, Any], game: str, teacher: ExportedPolicy) -> dict[str, Tensor]:
    """The teacher's weights in a checkpoint of the student, as far as they are there and of its shapes."""
    place = f"teachers.{game}." if game else "teacher."
    found = {name: checkpoint.get("state_dict", {}).get(place + name) for name in teacher.state_dict()}
    shapes = {name: own.shape for name, own in teacher.state_dict().items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None and tensor.shape == shapes[name]}


def _path_in(options: Mapping[str, Any], game: str) -> str | None:
    """The path of a teacher among options of this module."""
    path = (options.get("teachers") or {}).get(game) if game else options.get("teacher")
    return None if path is None else str(path)


def _check_teachers(teachers: dict[str, str], games: tuple[str, ...], *, teacher: str | None, copied: bool) -> None:
    """Refuses teachers of other games than are played, and options that only one teacher can have."""
    check_option("model.teacher", teacher, teacher is None, "null where model.teachers are given")
    check_option("model.start_from_teacher", copied, not copied, "false with several teachers")
    played, named = ", ".join(games), ", ".join(teachers)
    known = set(teachers) == set(games)
    check_option("model.teachers", f"of {named}", known, f"one for each game of data.game ({played})")
