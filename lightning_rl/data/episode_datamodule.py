"""The data module's part that judges: games for evaluation, and the episodes that policies play in them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule

from lightning_rl.data.evaluation_dataset import EvaluationDataset, UniformPolicy, Watcher
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.errors import check_option
from lightning_rl.protocols import Agent, Policy, ResumableVectorEnv
from lightning_rl.runs.lightning_private import global_seed

MAX_SEED = 2**31 - 1
"""Seeds of games are 32-bit signed integers."""

# what a random stream is for; numbers of their own keep the streams apart
GAMES, ACTIONS, _EVALUATION_GAMES, _EVALUATION_ACTIONS, _EXAMPLES, _TEST_GAMES, _TEST_ACTIONS = range(7)

_MAX_EVALUATION_ENVS = 64
_STEPS_BEFORE_EXAMPLES = 40  # first frames of many games are alike


class EpisodeDataModule(LightningDataModule, ABC):
    """Episodes of one game or several for judging policies.

    Several games are judged one after the other, each as it would be alone.

    Args:
        game: as the subclass calls it, or several.
        validation_episodes: episodes per game and level set in validation, of all ranks together.
        test_episodes: likewise in `test`, rounded up to the same number in each environment.
        test_env_steps: instead, a budget of env steps: whole episodes, which favors short ones.
        predict_episodes: episodes of each game that `predict` plays, each in an environment of its own.
        seed: seed of games and actions; None for that of `seed_everything`, or 0 where it was not called.

    Attributes:
        game: the game, or the names of several with `+` between them.
        game_names: the games in the order in which they are given.
        obs_shape: height, width and channels of an observation.
        num_actions: actions to choose from.
        distribution_mode: difficulty, where the game has several.
        watcher: is shown the frames of `predict`.

    Raises:
        ValueError: the same game twice, none, or a seed out of range.
    """

    obs_shape: tuple[int, int, int]
    num_actions: int
    action_meanings: tuple[str, ...] = ()
    """A name for each action, where the games have such."""
    distribution_mode: str | None = None

    def __init__(
        self,
        *,
        game: str | Sequence[str],
        validation_episodes: int,
        test_episodes: int,
        test_env_steps: int | None,
        predict_episodes: int,
        seed: int | None,
    ) -> None:
        super().__init__()
        check_option("data.seed", seed, seed is None or seed >= 0, "at least 0, or null for that of seed_everything")
        names = (game,) if isinstance(game, str) else tuple(game)
        different = 0 < len(names) == len(set(names))
        check_option("data.game", f"[{', '.join(names)}]", different, "a game, or a list of different games")
        self.game_names = names
        self.game = "+".join(names)
        self.validation_episodes = validation_episodes
        self.test_episodes = test_episodes
        self.test_env_steps = test_env_steps
        self.predict_episodes = predict_episodes
        self.watcher: Watcher | None = None
        self._seed = seed
        self._named = ""  # what episodes are marked with, where they are of one of several games

    @classmethod
    def game_named(cls, name: str) -> str:
        """What paths, reports and checkpoints call the game.

        Raises:
            ValueError: there is none of this name, where it has to be known to tell.
        """
        return name

    @classmethod
    def games_named(cls, game: Any) -> str:
        """What paths, reports and checkpoints call a game, or several: their names with `+` between them.

        Args:
            game: the option's value.
        """
        return "+".join(cls.game_named(str(name)) for name in (game if isinstance(game, list) else [game]))

    @property
    def each_game(self) -> "list[EpisodeDataModule]":
        """This data module for each of several games alone; for one game, itself."""
        return [self] if len(self.game_names) == 1 else [self._alone(game) for game in self.game_names]

    def _alone(self, game: str) -> "EpisodeDataModule":
        one = copy(self)
        one.game, one.game_names, one._named = game, (game,), game
        return one

    @property
    def level_sets(self) -> dict[str, tuple[int, int]]:
        """`num_levels` and `start_level` of the levels that a policy is judged on, those of training first.

        By default all there are, as one set.
        """
        return {"full_distribution": (0, 0)}

    def normalized_return(self, value: float) -> float | None:
        """A return on the scale that is published for the game, or None without one."""
        return None

    @abstractmethod
    def games(self, num_envs: int, levels: tuple[int, int], seed: int) -> ResumableVectorEnv:
        """Builds games for judging, whose observations are the caller's to keep."""

    def one_level(self, level: int) -> tuple[int, int]:
        """Number of levels and first level of games that play this one only; those without levels have it as a seed."""
        return (1, level)

    @property
    def _world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    def seed_for(self, purpose: int, actor: int = 0, begun: int = 0) -> int:
        """A seed of its own for every use of random numbers; actors count from one.

        Args:
            purpose: the use.
            actor: its number; 0 is the learner.
            begun: env steps of the run before these games begin.
        """
        seed = global_seed() if self._seed is None else self._seed
        sequence = np.random.SeedSequence([seed, purpose, self._rank, actor, *([begun] if begun else [])])
        return int(sequence.generate_state(1)[0]) % MAX_SEED

    def evaluation(
        self,
        level_set: str,
        policy: Policy,
        *,
        num_envs: int,
        episodes_per_env: int = 1,
        is_test: bool = False,
        **options: Any,
    ) -> EvaluationDataset:
        """Episodes of `policy` on a level set or, under any other name, on all levels; see `EvaluationDataset`.

        Several games are judged by those of `each_game`.

        Args:
            level_set: name of the levels.
            policy: plays.
            num_envs: environments that play side by side.
            episodes_per_env: episodes that count, in each environment.
            is_test: play other levels and actions than validation, which has chosen the best checkpoint by its own.
            **options: further options of `EvaluationDataset`.
        """
        levels = self.level_sets.get(level_set, self.level_sets["full_distribution"])
        games, actions = (_TEST_GAMES, _TEST_ACTIONS) if is_test else (_EVALUATION_GAMES, _EVALUATION_ACTIONS)

        def make_env() -> ResumableVectorEnv:
            return EpisodeStatistics(self.games(num_envs, levels, self.seed_for(games)))

        options |= {"episodes_per_env": episodes_per_env, "seed": self.seed_for(actions), "game": self._named}
        return EvaluationDataset(level_set, make_env, policy, **options)

    def example_frames(self, number: int) -> UInt8[NDArray[Any], "N H W C"]:
        """Frames from the middle of `number` games on training levels, played at random; the same at every call.

        The environments and the random stream are separate ones: training is not affected. Several games have equal
        shares, up to one.
        """
        shares = np.array_split(np.arange(number), len(self.game_names))
        own = zip(self.each_game, map(len, shares), strict=True)
        return np.concatenate([one._example_frames(share) for one, share in own if share])

    def _example_frames(self, number: int) -> UInt8[NDArray[Any], "N H W C"]:
        seed = self.seed_for(_EXAMPLES)
        policy, generator = UniformPolicy(self.num_actions), torch.Generator().manual_seed(seed)
        env = self.games(number, next(iter(self.level_sets.values())), seed)
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

    def val_dataloader(self) -> list[EvaluationDataset]:
        """Training levels, where they are not all, then all levels."""
        sizes = self._evaluation_sizes(self.validation_episodes)
        sizes |= {"greedy": self._agent.greedy}
        return [one.evaluation(name, self._agent, **sizes) for one in self.each_game for name in one.level_sets]

    def test_dataloader(self) -> list[EvaluationDataset]:
        """Training levels, where they are not all, all levels, and on these the method's yardsticks and random play."""
        budget = None if self.test_env_steps is None else -(-self.test_env_steps // self._world_size)
        sizes = self._evaluation_sizes(self.test_episodes)
        sizes |= {"env_steps": budget, "is_test": True, "greedy": self._agent.greedy}
        return [dataset for one in self.each_game for dataset in one._tests(sizes)]

    def _tests(self, sizes: dict[str, Any]) -> list[EvaluationDataset]:
        judged = [self.evaluation(name, self._agent, **sizes) for name in self.level_sets]
        others = self._agent.yardsticks(self.game) | {"random_policy": UniformPolicy(self.num_actions)}
        return [*judged, *(self.evaluation(name, policy, **sizes) for name, policy in others.items())]

    def _evaluation_sizes(self, episodes: int) -> dict[str, Any]:
        """This rank's share."""
        share = -(-episodes // self._world_size)
        num_envs = min(share, _MAX_EVALUATION_ENVS)
        return {"num_envs": num_envs, "episodes_per_env": -(-share // num_envs)}

    def predict_dataloader(self) -> list[EvaluationDataset]:
        """A few episodes on all levels, shown to `watcher`."""
        return self.shown(self._agent, greedy=self._agent.greedy, watcher=self.watcher)

    def shown(self, policy: Policy, *, greedy: bool, watcher: Watcher | None) -> list[EvaluationDataset]:
        """A few episodes of each game on all levels.

        Args:
            policy: plays.
            greedy: take the most likely actions.
            watcher: is shown every frame.
        """
        options: dict[str, Any] = {"num_envs": self.predict_episodes, "greedy": greedy, "watcher": watcher}
        return [one.evaluation("full_distribution", policy, **options) for one in self.each_game]
