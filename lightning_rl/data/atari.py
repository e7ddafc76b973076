"""Atari games for training and evaluation."""

from functools import partial
from typing import Any

from jaxtyping import Int64
from numpy.typing import NDArray

from lightning_rl.data.actor_process import MakeEnv
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.envs.atari import AtariVectorEnv, cartridge
from lightning_rl.envs.atari_games import canonical_game, check_options, human_normalized
from lightning_rl.envs.frame_stack import FrameStack
from lightning_rl.envs.halves import built_in
from lightning_rl.envs.normalize import RewardClipping
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.runs.episodes_file import PlayedEpisode


class AtariDataModule(RolloutDataModule):
    """Rollouts from an Atari game for training, and episodes of it for evaluation.

    There are no levels to generalize over: a policy is judged on the game that it was trained on, which differs from
    episode to episode by the no-ops that open it and, with sticky actions, by the joystick.

    Args:
        game: as `ms_pacman` or `MsPacman`: one of the 26 games of the Atari 100k papers, or what else ale-py has.
        sticky_actions: each raw frame, the joystick stays where it was with probability 0.25.
        full_action_space: all 18 actions rather than those that the game distinguishes.
        max_no_ops: an episode opens with 1 to so many env steps that do nothing; 0 for none.
        max_episode_steps: time limit in env steps, of four raw frames each; it ends an episode as losing does.
        reward_clipping: clip rewards to [−1, 1]; returns are reported unclipped.
        frame_stack: frames in one observation.
        num_envs: environments of one rank.
        num_steps: steps of each environment in one rollout.
        total_env_steps: the run ends at the first epoch end at or past so many, all ranks and resumes counted.
        iterations_per_epoch: iterations between two epoch ends, where Lightning logs, validates and saves.
        num_actors: processes that collect while the learner learns, and share `num_envs` out among them; 0, the only
            number that methods which must be on-policy take: collect in the training process.
        actor_timeout: seconds without a step after which an actor counts as hung.
        halves: 2: the environments take turns in two halves, of which one plays while the policy decides for the other;
            1: all play at once; null: 1, or what a continued run had.
        validation_episodes: episodes in validation.
        test_episodes: episodes in `test`, rounded up to the same number in each environment.
        test_env_steps: instead, a budget of env steps: whole episodes, which favors short ones.
        predict_episodes: episodes that `predict` plays, each in an environment of its own.
        allow_inexact_resume: take a checkpoint of another number of ranks or environments, with games started anew.
        seed: of games and actions; set by `seed_everything`.

    Raises:
        ValueError: a game that there is not, or a number out of range.

    Reference:
        Schulman et al. 2017, https://arxiv.org/abs/1707.06347, table 5, for the sizes of rollouts; Kaiser et al. 2020,
        https://arxiv.org/abs/1903.00374, and tensorflow/tensor2tensor, rl/, for frames, no-ops and episodes of a test
    """

    can_halve = True
    decisive = (
        "game",
        "sticky_actions",
        "full_action_space",
        "max_no_ops",
        "max_episode_steps",
        "reward_clipping",
        "frame_stack",
    )

    def __init__(
        self,
        *,
        game: str = "pong",
        sticky_actions: bool = False,
        full_action_space: bool = False,
        max_no_ops: int = 8,
        max_episode_steps: int = 27_000,
        reward_clipping: bool = True,
        frame_stack: int = 4,
        num_envs: int = 8,
        num_steps: int = 128,
        total_env_steps: int = 10_000_000,
        iterations_per_epoch: int = 1,
        num_actors: int = 0,
        actor_timeout: float = 20.0,
        halves: int | None = None,
        validation_episodes: int = 16,
        test_episodes: int = 32,
        test_env_steps: int | None = None,
        predict_episodes: int = 4,
        allow_inexact_resume: bool = False,
        seed: int | None = None,
    ) -> None:
        check_options(game, num_envs=num_envs, max_no_ops=max_no_ops, max_episode_steps=max_episode_steps)
        super().__init__(
            game=canonical_game(game),
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
        height, width, channels = cartridge(self.game).obs_shape
        self.obs_shape = (height, width, channels * frame_stack)
        self.num_actions = len(cartridge(self.game).actions(full_action_space=full_action_space))
        self.action_meanings = cartridge(self.game).action_meanings(full_action_space=full_action_space)
        self.sticky_actions = sticky_actions
        self.full_action_space = full_action_space
        self.max_no_ops = max_no_ops
        self.max_episode_steps = max_episode_steps
        self.reward_clipping = reward_clipping

    @classmethod
    def game_named(cls, name: str) -> str:
        """The game's name in ale-py."""
        return canonical_game(name)

    @property
    def reward_values(self) -> tuple[float, ...] | None:
        """Those that clipping leaves: games of Atari give whole numbers."""
        return (-1.0, 0.0, 1.0) if self.reward_clipping else None

    def normalized_return(self, value: float) -> float | None:
        """On the scale of random play and a human tester, or None outside of the 26 games."""
        return human_normalized(self.game, value)

    def games(self, num_envs: int, levels: tuple[int, int], seed: int) -> ResumableVectorEnv:
        """See `RolloutDataModule`."""
        return self._maker(copy=True)(num_envs, seed)

    def open_episode(self, episode: PlayedEpisode) -> ResumableVectorEnv:
        """One game at the beginning of an episode, its joystick to stick as it did."""
        if episode.start is None:
            raise ValueError("an episode of Atari begins at a state of its random stream, found none")
        return self._maker(copy=True, start=episode.start)(1, 0)

    def training_games(self) -> MakeEnv:
        """See `RolloutDataModule`."""
        return partial(_training_games, games=self._maker(copy=False), halves=self.num_halves)

    def _maker(self, *, copy: bool, start: Int64[NDArray[Any], "6"] | None = None) -> MakeEnv:
        options = {name: getattr(self, name) for name in ("sticky_actions", "full_action_space", "max_no_ops")}
        options["max_episode_steps"] = self.max_episode_steps
        return partial(
            _games,
            game=self.game,
            options=options,
            reward_clipping=self.reward_clipping,
            frame_stack=self.frame_stack,
            copy=copy,
            start=start,
        )


def _training_games(num_envs: int, seed: int, *, games: MakeEnv, halves: int) -> ResumableVectorEnv:
    """Games in halves; what their wrappers do to rewards and frames is the same for any number of environments."""
    return built_in(halves, games, num_envs=num_envs, seed=seed)


def _games(
    num_envs: int,
    seed: int,
    *,
    game: str,
    options: dict[str, Any],
    reward_clipping: bool,
    frame_stack: int,
    copy: bool,
    start: Int64[NDArray[Any], "6"] | None,
) -> ResumableVectorEnv:
    alone = frame_stack == 1
    games = AtariVectorEnv(game, num_envs=num_envs, seed=seed, copy=copy and alone, **options)
    if start is not None:
        games.open_at(start)
    env: ResumableVectorEnv = games
    if reward_clipping:
        env = RewardClipping(env)
    return env if alone else FrameStack(env, frame_stack, copy=copy)
