"""The data module: builds environments for training, and saves and restores them; it judges policies, too."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from pytorch_lightning.utilities import rank_zero_warn

from lightning_rl.data.actor_pool import ActorPool
from lightning_rl.data.actor_process import MakeEnv
from lightning_rl.data.collector import Collector
from lightning_rl.data.continuation import HALVES, GamesState, check_games, is_exact, read_games
from lightning_rl.data.episode_datamodule import ACTIONS, GAMES, EpisodeDataModule
from lightning_rl.data.replay import ReplayBuffer, ReplayState
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.distributed import collectives
from lightning_rl.envs.side_by_side import with_statistics
from lightning_rl.errors import UsageError, check_option
from lightning_rl.protocols import Agent
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import State

_MAX_FRAMES = 10**9  # of a rollout: terabytes


class RolloutDataModule(EpisodeDataModule):
    """Rollouts of games for training and episodes of them for evaluation; a subclass says which games there are.

    Args:
        game: as the subclass calls it, or several, which share `num_envs` equally.
        frame_stack: frames in one observation.
        num_envs: environments of one rank.
        num_steps: steps of each environment in one rollout.
        total_env_steps: the run ends at the first epoch end at or past so many, all ranks and resumes counted.
        iterations_per_epoch: iterations between two epoch ends, where Lightning logs, validates and saves.
        num_actors: processes that collect while the learner learns, and share `num_envs` out among them.
        actor_timeout: seconds without a step after which an actor counts as hung.
        halves: 2: the environments take turns in two halves, of which one plays while the policy decides for the other;
            1: all play at once; null: 1, or what a continued run had.
        validation_episodes: see `EpisodeDataModule`.
        test_episodes: likewise.
        test_env_steps: likewise.
        predict_episodes: likewise.
        allow_inexact_resume: take a checkpoint of another number of ranks or environments, with games started anew.
        seed: likewise.

    Raises:
        ValueError: a number out of range, or one that several games cannot share.
    """

    decisive: tuple[str, ...] = ("game",)
    """Attributes that must be as they were for games to go on where they stopped."""
    can_halve = False
    """Whether `training_games` builds its games in as many halves as `num_halves` says."""
    continues_in: Path | None = None
    """Folder of the checkpoint that the run continues from."""

    def __init__(
        self,
        *,
        game: str | Sequence[str],
        num_envs: int,
        num_steps: int,
        total_env_steps: int,
        frame_stack: int = 1,
        iterations_per_epoch: int = 1,
        num_actors: int = 0,
        actor_timeout: float = 20.0,
        halves: int | None = None,
        validation_episodes: int = 64,
        test_episodes: int = 512,
        test_env_steps: int | None = None,
        predict_episodes: int = 8,
        allow_inexact_resume: bool = False,
        seed: int | None = None,
    ) -> None:
        _require_positive(
            frame_stack=frame_stack,
            num_envs=num_envs,
            num_steps=num_steps,
            total_env_steps=total_env_steps,
            iterations_per_epoch=iterations_per_epoch,
            validation_episodes=validation_episodes,
            test_episodes=test_episodes,
            predict_episodes=predict_episodes,
            test_env_steps=1 if test_env_steps is None else test_env_steps,
        )
        frames, factors = num_envs * num_steps * frame_stack, f"{num_envs} × {num_steps} × {frame_stack}"
        check_option(
            "data.num_envs × num_steps × frame_stack", factors, frames <= _MAX_FRAMES, f"at most {_MAX_FRAMES} frames"
        )
        check_option("data.num_actors", num_actors, 0 <= num_actors <= num_envs, f"from 0 to data.num_envs, {num_envs}")
        check_option("data.actor_timeout", actor_timeout, actor_timeout > 0, "positive")
        super().__init__(
            game=game,
            validation_episodes=validation_episodes,
            test_episodes=test_episodes,
            test_env_steps=test_env_steps,
            predict_episodes=predict_episodes,
            seed=seed,
        )
        if (number := len(self.game_names)) > 1:
            shared = num_envs % number == 0
            check_option("data.num_envs", num_envs, shared, f"a multiple of {number}, the number of games")
            check_option("data.num_actors", num_actors, num_actors == 0, "0 where several games are played")
        check_option("data.halves", halves, halves in (None, 1, 2), "1, 2 or null")
        possible = halves != 2 or (self.can_halve and num_envs % 2 == 0 and number == 1 and num_actors == 0)
        check_option("data.halves", halves, possible, "1 but for an even data.num_envs of one game without actors")
        self.halves = halves
        self.frame_stack = frame_stack
        self.num_envs = num_envs
        self.num_steps = num_steps
        self.total_env_steps = total_env_steps
        self.num_actors = num_actors
        self.allow_inexact_resume = allow_inexact_resume
        self._iterations_per_epoch = iterations_per_epoch
        self._actor_timeout = actor_timeout
        self._collector: Collector | ActorPool | None = None
        self._restored_env_steps = 0
        self._left: State | None = None  # where the last `fit` has left the games
        self._other_env_steps = 0  # of a run with other numbers of ranks or environments, which this one continues

    @property
    def num_halves(self) -> int:
        """The halves in which the environments take turns, 1 or 2."""
        return self.halves or 1

    @property
    def reward_values(self) -> tuple[float, ...] | None:
        """All rewards that one step of training can give, or None where they are not a few known ones."""
        return None

    @abstractmethod
    def training_games(self) -> MakeEnv:
        """What builds games for training, in whatever process; they may overwrite their observations at each step."""

    @property
    def collector(self) -> Collector | ActorPool:
        """What collects for training.

        Raises:
            RuntimeError: there is none outside of `fit`.
        """
        if self._collector is None:
            raise RuntimeError(f"{type(self).__name__} has a collector only between setup('fit') and teardown('fit')")
        return self._collector

    @property
    def env_steps(self) -> int:
        """Decisions taken so far in training, over all environments, ranks and resumes."""
        if self._collector is None:
            return self._restored_env_steps
        return self._other_env_steps + self._collector.env_steps * self._world_size

    def setup(self, stage: str) -> None:
        """Starts the training games, for `fit`, or continues those of the last one; actors start with a rollout."""
        if stage == "fit" and self._collector is None:
            self._collector = self._new_collector()
            if self._left is not None:
                self._collector.load_state_dict(self._left)

    def _new_collector(self, begun: int = 0) -> Collector | ActorPool:
        seed_for = partial(self.seed_for, begun=begun)
        if self.num_actors == 0:
            env = with_statistics(self.training_games()(self.num_envs, seed_for(GAMES)))
            replay = self._replay() if self.trainer is not None and self._agent.uses_replay else None
            return Collector(env, num_steps=self.num_steps, seed=seed_for(ACTIONS), replay=replay)
        return ActorPool(
            self.training_games(),
            num_actors=self.num_actors,
            num_envs=self.num_envs,
            num_steps=self.num_steps,
            obs_shape=self.obs_shape,
            seeds=[(seed_for(GAMES, i), seed_for(ACTIONS, i)) for i in range(1, self.num_actors + 1)],
            seed=seed_for(ACTIONS),
            hang_seconds=self._actor_timeout,
        )

    def _replay(self) -> ReplayBuffer:
        """The replay buffer, beside the checkpoints."""
        name = f"replay/rank{self._rank}"
        folder = Path(cast(Any, self.trainer).default_root_dir) / name
        beside = None if self.continues_in is None else self.continues_in / name
        return ReplayBuffer(folder, game=self.game, num_frames=self.frame_stack, beside=beside)

    def check_agent(self, agent: Agent) -> None:
        """Refuses a method that cannot learn from what these options collect.

        Raises:
            ValueError: it must be on-policy, and `num_actors` is not 0; or its iterations differ in length, and an
                epoch is not one of them; or it learns a model of one game, and there are several.
        """
        check_option(
            "data.game",
            f"[{', '.join(self.game_names)}]",
            len(self.game_names) == 1 or not agent.uses_replay,
            f"one game for {type(agent).__name__}, which learns a model of it",
        )
        if agent.uses_replay and self._iterations_per_epoch != 1:
            raise ValueError(
                f"data.iterations_per_epoch must be 1 for {type(agent).__name__}, whose iterations differ in length,"
                f" found {self._iterations_per_epoch}"
            )
        if self.num_actors and agent.on_policy:
            raise ValueError(
                f"data.num_actors must be 0 for {type(agent).__name__}, which learns on-policy, found {self.num_actors}"
            )

    def on_exception(self, exception: BaseException) -> None:
        """Ends the training games; Lightning tears nothing down after an exception."""
        self._end_games(keep=self.num_actors == 0)  # actors would be waited for, or may be gone

    def teardown(self, stage: str) -> None:
        """Ends the training games, and keeps their states for another `fit` and for `save_checkpoint`."""
        if stage == "fit":
            self._end_games(keep=True)

    def _end_games(self, *, keep: bool) -> None:
        if self._collector is not None:
            self._restored_env_steps = self.env_steps
            self._left = self._collector.state_dict() if keep else None
            if not keep:
                self._other_env_steps = self.env_steps  # the next games are new, but the count goes on
            self._collector.close()
            self._collector = None

    def train_dataloader(self) -> RolloutDataset:
        """The dataset itself: a `DataLoader` would collate, and prefetch in processes of its own."""
        self.check_agent(self._agent)
        return RolloutDataset(self._agent, self.collector, iterations=self._iterations_per_epoch)

    def state_dict(self) -> State:
        """The collectors of all ranks, as they are or as the last `fit` has left them; a collective call."""
        own = self._left if self._collector is None and self._left is not None else self.collector.state_dict()
        collectors = collectives.all_gather(own)
        return {**self._sizes, **to_plain(GamesState(env_steps=self.env_steps, collectors=collectors))}

    def load_state_dict(self, state_dict: State) -> None:
        """Continues the games of this rank, or starts others; a replay buffer goes on either way.

        Other games show other levels than those that the run began with, and go on with the statistics that scale
        their rewards, unless actors keep or kept these, each its own.

        Raises:
            ValueError: the state is of another number of ranks or of other games.
        """
        self._restored_env_steps = read_games(state_dict).env_steps
        if self._collector is None:
            if told := self._take_levels(state_dict):
                rank_zero_warn(f"{told}: the run's own training levels are judged")
            return
        games = self.check_state(state_dict)
        if not is_exact(state_dict, self._sizes):
            self._collector.close()
            self._collector = self._new_collector(begun=games.env_steps)
        self._continue(self._collector, games.collectors, anew=not is_exact(state_dict, self._sizes))
        self._other_env_steps = games.env_steps - self._collector.env_steps * self._world_size

    def _take_levels(self, state_dict: State) -> str:
        """Takes the training levels of the run that is judged; says which others the options ask for, if they do."""
        return ""

    def _continue(self, collector: Collector | ActorPool, states: list[State], *, anew: bool) -> None:
        try:
            if not anew:
                collector.load_state_dict(states[self._rank])
                return
            if isinstance(collector, Collector) and "env" in states[0]:
                collector.take_statistics(states[0])  # at a boundary, all ranks' are the same
            if collector.replay is not None:
                collector.replay.load_state(from_plain(ReplayState, states[self._rank].get("replay"), "replay"))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            # only the games and their wrappers know what their states must hold
            raise UsageError(f"ckpt_path: the games of the checkpoint cannot go on here: {error}") from error

    @property
    def _sizes(self) -> dict[str, Any]:
        """What must be as it was for games to go on where they stopped."""
        names = (*self.decisive, "num_envs", "num_actors")
        own = {name: getattr(self, name) for name in names}
        return {**own, "num_ranks": self._world_size, HALVES: self.num_halves}

    def check_state(self, state_dict: State) -> GamesState:
        """Refuses a state whose games cannot go on here, before any is started.

        Raises:
            ValueError: names what differs.
        """
        games = check_games(state_dict, self._sizes, allow_inexact=self.allow_inexact_resume)
        own = games.collectors[self._rank] if self._rank < len(games.collectors) else {}
        if "replay" in own:
            self._replay().checked(from_plain(ReplayState, own["replay"], "replay"))
        return games


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        check_option(f"data.{name}", value, value >= 1, "at least 1")
