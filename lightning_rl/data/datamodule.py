"""Builds environments for training and evaluation, and keeps what must survive a restart of them."""

from functools import partial
from typing import Any, cast

import numpy as np
import torch.distributed
from jaxtyping import UInt8
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule

from lightning_rl.data.actors import ActorPool, MakeEnv
from lightning_rl.data.collector import Collector
from lightning_rl.data.dataset import RolloutDataset
from lightning_rl.data.evaluation import EvaluationDataset, UniformPolicy, Watcher
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.procgen import MAX_SEED, NUM_ACTIONS, ProcgenVectorEnv, check_options
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.types import Agent, Policy, ResumableVectorEnv, State

_MAX_EVALUATION_ENVS = 64
_STEPS_BEFORE_EXAMPLES = 40  # first frames of many games are alike
# what a random stream is for; numbers of their own keep the streams apart
_GAMES, _ACTIONS, _EVALUATION_GAMES, _EVALUATION_ACTIONS, _EXAMPLES = range(5)


class ProcgenDataModule(LightningDataModule):
    """Rollouts from Procgen for training, and episodes on training levels and on all levels for judging.

    Args:
        game: one of the 16 games.
        distribution_mode: easy, hard, or what else the game has of extreme, memory, exploration.
        num_levels: training levels; 0 for all there are, and then `start_level` means nothing to Procgen.
        start_level: the first training level.
        num_envs: environments of one rank.
        num_steps: steps of each environment in one rollout.
        total_env_steps: the run ends at the first epoch end at or past so many, all ranks and resumes counted.
        iterations_per_epoch: iterations between two epoch ends, where Lightning logs, validates and saves.
        num_actors: processes that collect while the learner learns, and share `num_envs` out among them; 0, the only
            number that methods which must be on-policy take: collect in the training process.
        actor_timeout: seconds without a step after which an actor is taken for hung.
        return_scaling: divide rewards by the running standard deviation of the discounted return.
        return_scaling_gamma: discount of that return. OpenAI's baseline learns with 0.999 and scales with 0.99.
        validation_episodes: episodes per level set in validation.
        test_episodes: episodes per level set in `test`, rounded up to the same number in each environment.
        test_env_steps: instead, a budget of env steps per level set: whole episodes, which favours short ones.
        predict_episodes: episodes that `predict` plays, each in an environment of its own.
        allow_inexact_resume: take a checkpoint of another number of ranks or environments, with games started anew.
        use_backgrounds: draw the games' backgrounds.
        use_monochrome_assets: draw rectangles of one colour instead of pictures.
        restrict_themes: one theme per game.
        use_generated_assets: draw generated blobs instead of pictures; refused here, since Procgen cannot save such
            games, and a run that cannot be saved cannot be resumed.
        center_agent: keep the agent in the middle, where the game has the choice.
        paint_vel_info: paint the agent's velocity into the frame.
        use_sequential_levels: go on to the next level when one is solved, without ending the episode.
        num_threads: Procgen's own threads; actors have none.
        seed: of games and actions; set by `seed_everything`.

    Raises:
        ValueError: an option that the game does not have, or a number out of range.
    """

    obs_shape: tuple[int, int, int] = (64, 64, 3)
    num_actions: int = NUM_ACTIONS

    def __init__(
        self,
        *,
        game: str = "coinrun",
        distribution_mode: str = "easy",
        num_levels: int = 200,
        start_level: int = 0,
        num_envs: int = 64,
        num_steps: int = 256,
        total_env_steps: int = 25_000_000,
        iterations_per_epoch: int = 1,
        num_actors: int = 0,
        actor_timeout: float = 20.0,
        return_scaling: bool = True,
        return_scaling_gamma: float = 0.99,
        validation_episodes: int = 64,
        test_episodes: int = 512,
        test_env_steps: int | None = None,
        predict_episodes: int = 8,
        allow_inexact_resume: bool = False,
        use_backgrounds: bool = True,
        use_monochrome_assets: bool = False,
        restrict_themes: bool = False,
        use_generated_assets: bool = False,
        center_agent: bool = True,
        paint_vel_info: bool = False,
        use_sequential_levels: bool = False,
        num_threads: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_options(
            game,
            num_envs=num_envs,
            distribution_mode=distribution_mode,
            num_levels=num_levels,
            start_level=start_level,
            num_threads=num_threads,
        )
        _require_positive(
            num_steps=num_steps,
            total_env_steps=total_env_steps,
            iterations_per_epoch=iterations_per_epoch,
            validation_episodes=validation_episodes,
            test_episodes=test_episodes,
            predict_episodes=predict_episodes,
            test_env_steps=1 if test_env_steps is None else test_env_steps,
        )
        _require(
            "use_generated_assets", use_generated_assets, not use_generated_assets, "false: Procgen cannot save these"
        )
        _require("num_actors", num_actors, 0 <= num_actors <= num_envs, f"from 0 to data.num_envs, {num_envs}")
        _require("actor_timeout", actor_timeout, actor_timeout > 0, "positive")
        _require("seed", seed, seed >= 0, "at least 0")
        _require("return_scaling_gamma", return_scaling_gamma, 0 <= return_scaling_gamma <= 1, "in [0, 1]")
        self.game = game
        self.distribution_mode = distribution_mode
        self.num_levels = num_levels
        self.start_level = start_level
        self.num_envs = num_envs
        self.num_steps = num_steps
        self.total_env_steps = total_env_steps
        self.validation_episodes = validation_episodes
        self.test_episodes = test_episodes
        self.test_env_steps = test_env_steps
        self.predict_episodes = predict_episodes
        self.allow_inexact_resume = allow_inexact_resume
        self.watcher: Watcher | None = None
        self._iterations_per_epoch = iterations_per_epoch
        self._return_scaling_gamma = return_scaling_gamma if return_scaling else None
        self._options: dict[str, Any] = {
            "use_backgrounds": use_backgrounds,
            "use_monochrome_assets": use_monochrome_assets,
            "restrict_themes": restrict_themes,
            "use_generated_assets": use_generated_assets,
            "center_agent": center_agent,
            "paint_vel_info": paint_vel_info,
            "use_sequential_levels": use_sequential_levels,
            "num_threads": num_threads,
        }
        self._seed = seed
        self.num_actors = num_actors
        self._actor_timeout = actor_timeout
        self._collector: Collector | ActorPool | None = None
        self._restored_env_steps = 0

    @property
    def level_sets(self) -> dict[str, tuple[int, int]]:
        """`num_levels` and `start_level` of the levels that a policy is judged on."""
        return {"train_levels": (self.num_levels, self.start_level), "full_distribution": (0, 0)}

    @property
    def collector(self) -> Collector | ActorPool:
        """What collects for training.

        Raises:
            RuntimeError: there is none outside of `fit`.
        """
        if self._collector is None:
            raise RuntimeError("ProcgenDataModule has a collector only between setup('fit') and teardown('fit')")
        return self._collector

    @property
    def env_steps(self) -> int:
        """Decisions taken so far in training, over all environments, ranks and resumes."""
        if self._collector is None:
            return self._restored_env_steps
        return self._collector.env_steps * self._num_ranks

    @property
    def _num_ranks(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    def _seed_for(self, purpose: int, actor: int = 0) -> int:
        """A seed of its own for every use of random numbers; actors count from one."""
        sequence = np.random.SeedSequence([self._seed, purpose, self._rank, actor])
        return int(sequence.generate_state(1)[0]) % MAX_SEED

    def _games(self, num_envs: int, levels: tuple[int, int], seed: int, *, copy: bool = True) -> ProcgenVectorEnv:
        options = self._game_options(levels)
        return ProcgenVectorEnv(self.game, num_envs=num_envs, seed=seed, copy=copy, **options)

    def _game_options(self, levels: tuple[int, int]) -> dict[str, Any]:
        num_levels, start_level = levels
        own = {"distribution_mode": self.distribution_mode, "num_levels": num_levels, "start_level": start_level}
        return own | self._options

    def setup(self, stage: str) -> None:
        """Starts the training games, for `fit`; those of actors start with the first rollout."""
        if stage != "fit" or self._collector is not None:
            return
        if self.num_actors == 0:
            env = EpisodeStatistics(self._training_games()(self.num_envs, self._seed_for(_GAMES)))
            self._collector = Collector(env, num_steps=self.num_steps, seed=self._seed_for(_ACTIONS))
            return
        self._collector = ActorPool(
            self._training_games(num_threads=0),  # the actors are the threads
            num_actors=self.num_actors,
            num_envs=self.num_envs,
            num_steps=self.num_steps,
            obs_shape=self.obs_shape,
            seeds=[(self._seed_for(_GAMES, i), self._seed_for(_ACTIONS, i)) for i in range(1, self.num_actors + 1)],
            seed=self._seed_for(_ACTIONS),
            hang_seconds=self._actor_timeout,
        )

    def _training_games(self, **options: Any) -> MakeEnv:
        """Builds games for training, in whatever process."""
        options = self._game_options(self.level_sets["train_levels"]) | options
        return partial(_training_games, game=self.game, options=options, gamma=self._return_scaling_gamma)

    def check_agent(self, agent: Agent) -> None:
        """Refuses a method that cannot learn from what actors collect.

        Raises:
            ValueError: it must be on-policy, and `num_actors` is not 0.
        """
        if self.num_actors and agent.on_policy:
            raise ValueError(
                f"data.num_actors must be 0 for {type(agent).__name__}, which learns on-policy, found {self.num_actors}"
            )

    def on_exception(self, exception: BaseException) -> None:
        """Ends the training games; Lightning tears nothing down after an exception."""
        self.teardown("fit")

    def teardown(self, stage: str) -> None:
        """Ends the training games."""
        if stage == "fit" and self._collector is not None:
            self._restored_env_steps = self.env_steps
            self._collector.close()
            self._collector = None

    def evaluation(
        self, level_set: str, policy: Policy, *, num_envs: int, episodes_per_env: int = 1, **options: Any
    ) -> EvaluationDataset:
        """Episodes of `policy` on `train_levels` or, under any other name, on all levels; see `EvaluationDataset`."""
        levels = self.level_sets.get(level_set, self.level_sets["full_distribution"])

        def make_env() -> ResumableVectorEnv:
            return EpisodeStatistics(self._games(num_envs, levels, self._seed_for(_EVALUATION_GAMES)))

        seed = self._seed_for(_EVALUATION_ACTIONS)
        return EvaluationDataset(level_set, make_env, policy, episodes_per_env=episodes_per_env, seed=seed, **options)

    def example_frames(self, number: int) -> UInt8[NDArray[Any], "N H W C"]:
        """Frames from the midst of so many games on training levels, played at random; the same at every call.

        They come from environments and a random stream of their own, so that training does not notice.
        """
        seed = self._seed_for(_EXAMPLES)
        policy, generator = UniformPolicy(self.num_actions), torch.Generator().manual_seed(seed)
        env = self._games(number, self.level_sets["train_levels"], seed)
        try:
            obs, _ = env.reset()
            for _ in range(_STEPS_BEFORE_EXAMPLES):
                obs, *_ = env.step(policy.act(obs, generator).actions.numpy())
        finally:
            env.close()
        return obs

    @property
    def _agent(self) -> Agent:
        return cast(Agent, cast(Any, self.trainer).lightning_module)

    def train_dataloader(self) -> RolloutDataset:
        """The dataset itself: a `DataLoader` would collate, and prefetch in processes of its own."""
        self.check_agent(self._agent)
        return RolloutDataset(self._agent, self.collector, iterations=self._iterations_per_epoch)

    def val_dataloader(self) -> list[EvaluationDataset]:
        """Training levels, then all levels."""
        sizes = _evaluation_sizes(self.validation_episodes)
        return [self.evaluation(name, self._agent, **sizes, greedy=self._agent.greedy) for name in self.level_sets]

    def test_dataloader(self) -> list[EvaluationDataset]:
        """Training levels, all levels, and uniform random actions on all levels."""
        sizes = _evaluation_sizes(self.test_episodes) | {"env_steps": self.test_env_steps}
        judged = [self.evaluation(name, self._agent, **sizes, greedy=self._agent.greedy) for name in self.level_sets]
        return [*judged, self.evaluation("random_policy", UniformPolicy(self.num_actions), **sizes)]

    def predict_dataloader(self) -> list[EvaluationDataset]:
        """A few episodes on all levels, shown to `watcher`."""
        return [
            self.evaluation(
                "full_distribution",
                self._agent,
                num_envs=self.predict_episodes,
                greedy=self._agent.greedy,
                watcher=self.watcher,
            )
        ]

    def state_dict(self) -> State:
        """The collectors of all ranks; a collective call."""
        collector = self.collector.state_dict()
        collectors = [collector]
        if self._num_ranks > 1:
            collectors = [{} for _ in range(self._num_ranks)]
            torch.distributed.all_gather_object(collectors, collector)
        return {
            **self._sizes,
            "env_steps": self.env_steps,
            "collectors": collectors,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Continues the games of this rank.

        Raises:
            ValueError: the state is of another number of ranks or of other games.
        """
        self._restored_env_steps = state_dict["env_steps"]
        if self._collector is None:
            return
        self.check_state(state_dict)
        if self.allow_inexact_resume and self._sizes != {key: state_dict.get(key) for key in self._sizes}:
            self._collector.count_from(state_dict["env_steps"] // self._num_ranks)
        else:
            self._collector.load_state_dict(state_dict["collectors"][self._rank])

    @property
    def _sizes(self) -> dict[str, Any]:
        """What must be as it was for games to go on where they stopped."""
        names = ("game", "distribution_mode", "num_levels", "start_level", "num_envs", "num_actors")
        return {**{name: getattr(self, name) for name in names}, "num_ranks": self._num_ranks}

    def check_state(self, state_dict: State) -> None:
        """Refuses a state whose games cannot go on here, before any is started.

        Raises:
            ValueError: names what differs.
        """
        for key, expected in self._sizes.items():
            scalable = key in ("num_envs", "num_actors", "num_ranks")
            if state_dict.get(key) != expected and not (scalable and self.allow_inexact_resume):
                remedy = "give the same" + (
                    ", or --allow_inexact_resume true to start the games anew" if scalable else ""
                )
                raise ValueError(
                    f"ckpt_path: the checkpoint has {key} {state_dict.get(key)}, this run {expected}; {remedy}"
                )


def _training_games(
    num_envs: int, seed: int, *, game: str, options: dict[str, Any], gamma: float | None
) -> ResumableVectorEnv:
    """Games whose frames are not copied: the collector copies each into the rollout before the next step."""
    env = ProcgenVectorEnv(game, num_envs=num_envs, seed=seed, copy=False, **options)
    return env if gamma is None else ReturnScaling(env, gamma=gamma)


def _evaluation_sizes(episodes: int) -> dict[str, Any]:
    num_envs = min(episodes, _MAX_EVALUATION_ENVS)
    return {"num_envs": num_envs, "episodes_per_env": -(-episodes // num_envs)}


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        _require(name, value, value >= 1, "at least 1")


def _require(name: str, value: object, valid: bool, allowed: str) -> None:
    if not valid:
        raise ValueError(f"data.{name} must be {allowed}, found {value}")
