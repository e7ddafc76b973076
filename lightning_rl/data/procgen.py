"""Procgen for training and evaluation."""

from functools import partial
from importlib.util import find_spec
from typing import Any

from lightning_rl.data.actor_process import MakeEnv
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.envs.frame_stack import FrameStack
from lightning_rl.envs.halves import built_in
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.procgen import ProcgenVectorEnv, require_libraries
from lightning_rl.envs.procgen_games import ACTION_MEANINGS, NUM_ACTIONS, REWARDS, check_options, normalized_return
from lightning_rl.envs.side_by_side import build_side_by_side
from lightning_rl.errors import check_option
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.runs.episodes_file import PlayedEpisode
from lightning_rl.types import State


class ProcgenDataModule(RolloutDataModule):
    """Rollouts from Procgen for training, and episodes on training levels and on all levels for evaluation.

    Several games are played side by side in training, in equal shares of the environments, and each with its own
    scaling of rewards; they share the levels' options. They are judged one after the other.

    Args:
        game: one of the 16 games, or a list of some.
        distribution_mode: easy, hard, or what else the game has of extreme, memory, exploration.
        num_levels: training levels; 0 for all there are, and then `start_level` means nothing to Procgen.
        start_level: the first training level.
        frame_stack: frames in one observation; 1 in all papers.
        num_envs: environments of one rank.
        num_steps: steps of each environment in one rollout.
        total_env_steps: the run ends at the first epoch end at or past so many, all ranks and resumes counted.
        iterations_per_epoch: iterations between two epoch ends, where Lightning logs, validates and saves.
        num_actors: processes that collect while the learner learns, and share `num_envs` out among them; 0, the only
            number that methods which must be on-policy take: collect in the training process.
        actor_timeout: seconds without a step after which an actor counts as hung.
        halves: 2: the environments take turns in two halves, of which one plays while the policy decides for the other;
            1: all play at once; null: 1, or what a continued run had.
        return_scaling: divide rewards by the running standard deviation of the discounted return; each actor by that
            of its own games.
        return_scaling_gamma: discount of that return. OpenAI's baseline learns with 0.999 and scales with 0.99.
        validation_episodes: episodes per game and level set in validation.
        test_episodes: likewise in `test`, rounded up to the same number in each environment.
        test_env_steps: instead, a budget of env steps per game and level set: whole episodes, which favors short ones.
        predict_episodes: episodes of each game that `predict` plays, each in an environment of its own.
        allow_inexact_resume: take a checkpoint of another number of ranks or environments, with games started anew.
        use_backgrounds: draw the games' backgrounds.
        use_monochrome_assets: draw rectangles of one color instead of pictures.
        restrict_themes: one theme per game.
        use_generated_assets: draw generated blobs instead of pictures; refused here, since Procgen cannot save such
            games, and a run that cannot be saved cannot be resumed.
        center_agent: keep the agent in the middle, where the game has the choice.
        paint_vel_info: paint the agent's velocity into the frame.
        use_sequential_levels: go on to the next level when one is solved, without ending the episode.
        num_threads: Procgen's own threads; actors have none.
        seed: seed of games and actions; null for that of `seed_everything`.

    Raises:
        ValueError: an option that the game does not have, or a number out of range.
    """

    obs_shape = (64, 64, 3)
    num_actions = NUM_ACTIONS
    action_meanings = ACTION_MEANINGS
    can_halve = True
    decisive = ("game", "distribution_mode", "num_levels", "start_level")

    def __init__(
        self,
        *,
        game: list[str] | str = "coinrun",
        distribution_mode: str = "easy",
        num_levels: int = 200,
        start_level: int = 0,
        frame_stack: int = 1,
        num_envs: int = 64,
        num_steps: int = 256,
        total_env_steps: int = 25_000_000,
        iterations_per_epoch: int = 1,
        num_actors: int = 0,
        actor_timeout: float = 20.0,
        halves: int | None = None,
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
        seed: int | None = None,
    ) -> None:
        for name in [game] if isinstance(game, str) else game:
            check_options(
                name,
                num_envs=num_envs,
                distribution_mode=distribution_mode,
                num_levels=num_levels,
                start_level=start_level,
                num_threads=num_threads,
            )
        check_option(
            "data.use_generated_assets",
            use_generated_assets,
            not use_generated_assets,
            "false: Procgen cannot save these",
        )
        check_option("data.return_scaling_gamma", return_scaling_gamma, 0 <= return_scaling_gamma <= 1, "in [0, 1]")
        if find_spec("procgen") is not None:  # where it is not, building the games says so
            require_libraries()
        super().__init__(
            game=game,
            frame_stack=frame_stack,
            num_envs=num_envs,
            num_steps=num_steps,
            total_env_steps=total_env_steps,
            iterations_per_epoch=iterations_per_epoch,
            num_actors=num_actors,
            actor_timeout=actor_timeout,
            halves=halves,
            validation_episodes=validation_episodes,
            test_episodes=test_episodes,
            test_env_steps=test_env_steps,
            predict_episodes=predict_episodes,
            allow_inexact_resume=allow_inexact_resume,
            seed=seed,
        )
        height, width, channels = self.obs_shape
        self.obs_shape = (height, width, channels * frame_stack)
        self.distribution_mode: str = distribution_mode
        self.num_levels = num_levels
        self.start_level = start_level
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

    @classmethod
    def game_named(cls, name: str) -> str:
        """See `RolloutDataModule`; Procgen's games have one name each."""
        check_options(name)
        return name

    @property
    def level_sets(self) -> dict[str, tuple[int, int]]:
        """`num_levels` and `start_level` of the levels that a policy is judged on; one set where all are trained on."""
        everything = {"full_distribution": (0, 0)}
        return {"train_levels": self._training_levels} | everything if self.num_levels else everything

    @property
    def _training_levels(self) -> tuple[int, int]:
        return self.num_levels, self.start_level

    def _take_levels(self, state_dict: State) -> str:
        """Takes the training levels of the run that is judged; says which others the options ask for, if they do.

        Raises:
            ValueError: no run of Procgen has such levels.
        """
        num_levels, start_level = (state_dict.get(name) for name in ("num_levels", "start_level"))
        if num_levels is None or start_level is None:
            return ""
        for game in self.game_names:
            check_options(game, num_levels=num_levels, start_level=start_level)
        asked, self.num_levels, self.start_level = self._training_levels, num_levels, start_level
        if asked == self._training_levels:
            return ""
        told = f"data.num_levels {asked[0]} and data.start_level {asked[1]} were asked for"
        return f"{told}, the run trained with {num_levels} and {start_level}"

    @property
    def reward_values(self) -> tuple[float, ...] | None:
        """The game's, or those of all games, unless they are scaled."""
        if self._return_scaling_gamma is not None:
            return None
        return tuple(sorted({reward for game in self.game_names for reward in REWARDS[game]}))

    def normalized_return(self, value: float) -> float | None:
        """On the scale of a blind agent's return and the best possible one, or None; see `envs/procgen_games.py`."""
        return normalized_return(self.game, self.distribution_mode, value)

    def games(self, num_envs: int, levels: tuple[int, int], seed: int) -> ResumableVectorEnv:
        """See `RolloutDataModule`."""
        alone = self.frame_stack == 1
        env = ProcgenVectorEnv(self.game, num_envs=num_envs, seed=seed, copy=alone, **self._game_options(levels))
        return env if alone else FrameStack(env, self.frame_stack)

    def one_level(self, level: int) -> tuple[int, int]:
        """See `RolloutDataModule`; exploration has a single one, which goes by no number."""
        return (0, 0) if self.distribution_mode == "exploration" else super().one_level(level)

    def open_episode(self, episode: PlayedEpisode) -> ResumableVectorEnv:
        """One game at the beginning of an episode: level and actions decide all of it."""
        if episode.level_seed is None:
            raise ValueError("an episode of Procgen begins on a level, found none")
        return self.games(1, self.one_level(episode.level_seed), 0)

    def training_games(self) -> MakeEnv:
        """See `RolloutDataModule`."""
        options = self._game_options(self._training_levels)
        if self.num_actors:
            options["num_threads"] = 0  # the actors are the threads
        shared: dict[str, Any] = {
            "options": options,
            "frame_stack": self.frame_stack,
            "gamma": self._return_scaling_gamma,
            "halves": self.num_halves,
        }
        each = {game: partial(_training_games, game=game, **shared) for game in self.game_names}
        return each[self.game] if self.game in each else partial(build_side_by_side, games=each)

    def _game_options(self, levels: tuple[int, int]) -> dict[str, Any]:
        num_levels, start_level = levels
        own = {"distribution_mode": self.distribution_mode, "num_levels": num_levels, "start_level": start_level}
        return own | self._options


def _training_games(
    num_envs: int, seed: int, *, game: str, options: dict[str, Any], frame_stack: int, gamma: float | None, halves: int
) -> ResumableVectorEnv:
    """Games whose frames are not copied: the collector copies each into the rollout before the next step."""

    def build(count: int, seed: int) -> ResumableVectorEnv:
        env = ProcgenVectorEnv(game, num_envs=count, seed=seed, copy=False, **options)
        return FrameStack(env, frame_stack, copy=False) if frame_stack > 1 else env

    env = built_in(halves, build, num_envs=num_envs, seed=seed)
    return env if gamma is None else ReturnScaling(env, gamma=gamma)
