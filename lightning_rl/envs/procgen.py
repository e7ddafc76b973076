"""Procgen as a `gymnasium.vector.VectorEnv` whose games can be saved and continued bit for bit.

The only file that knows Procgen, and it imports it only when the first environment is built.
"""

import ctypes
import warnings
from importlib import import_module, metadata
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.envs import saved_games
from lightning_rl.types import State, UsageError

NUM_ACTIONS = 15
_SYSTEM_LIBRARIES = ("libGL.so.1", "libglib-2.0.so.0", "libgthread-2.0.so.0")
_MAX_THREADS = 1024
MAX_SEED = 2**31 - 1
"""Procgen's seeds are 32-bit signed integers."""

_EASY_AND_HARD_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "bigfish": ((1, 40), (0, 40)),
    "bossfight": ((0.5, 13), (0.5, 13)),
    "caveflyer": ((3.5, 12), (2, 13.4)),
    "chaser": ((0.5, 13), (0.5, 14.2)),
    "climber": ((2, 12.6), (1, 12.6)),
    "coinrun": ((5, 10), (5, 10)),
    "dodgeball": ((1.5, 19), (1.5, 19)),
    "fruitbot": ((-1.5, 32.4), (-0.5, 27.2)),
    "heist": ((3.5, 10), (2, 10)),
    "jumper": ((1, 10), (1, 10)),
    "leaper": ((1.5, 10), (1.5, 10)),
    "maze": ((5, 10), (4, 10)),
    "miner": ((1.5, 13), (1.5, 20)),
    "ninja": ((3.5, 10), (2, 10)),
    "plunder": ((4.5, 30), (3, 30)),
    "starpilot": ((2.5, 64), (1.5, 35)),
}

GAMES = tuple(_EASY_AND_HARD_RANGES)

RETURN_RANGES: dict[tuple[str, str], tuple[float, float]] = {
    (game, mode): extremes
    for game, ranges in _EASY_AND_HARD_RANGES.items()
    for mode, extremes in zip(("easy", "hard"), ranges, strict=True)
}
"""Lowest and highest return per game and mode: openai/train-procgen, train_procgen/constants.py.

The lowest is that of a trained agent that sees nothing, not that of uniformly random actions.
"""

REWARDS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("coinrun", "heist", "jumper", "leaper", "maze", "ninja"), (0.0, 10.0)),
    **dict.fromkeys(("bigfish", "bossfight", "climber", "miner", "plunder"), (0.0, 1.0, 10.0)),
    "caveflyer": (0.0, 3.0, 10.0),
    "chaser": (0.0, 0.04, 10.0),
    "dodgeball": (0.0, 2.0, 10.0),
    "fruitbot": (-4.0, 0.0, 1.0, 10.0),
    "starpilot": (0.0, 1.0, 2.0, 3.0, 10.0),  # several ships at once
}
"""Rewards of one step, by game; a step that brings two of them at once is rare.

Reference:
    openai/procgen, src/games/*.cpp
"""

# openai/procgen, src/game.cpp, `Game::parse_options`, and env.py, `EXPLORATION_LEVEL_SEEDS`
_EXTREME_GAMES = ("chaser", "dodgeball", "leaper", "starpilot")
_MEMORY_GAMES = ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner")
_EXPLORATION_GAMES = ("caveflyer", "climber", "coinrun", "heist", "jumper", "leaper", "maze", "ninja")

DISTRIBUTION_MODES: dict[str, tuple[str, ...]] = {
    game: (
        "easy",
        "hard",
        *(["extreme"] if game in _EXTREME_GAMES else []),
        *(["memory"] if game in _MEMORY_GAMES else []),
        *(["exploration"] if game in _EXPLORATION_GAMES else []),
    )
    for game in GAMES
}
"""The modes that each game has."""


def normalized_return(game: str, distribution_mode: str, value: float) -> float | None:
    """A return on the scale where a blind agent has about 0 and the best possible one about 1.

        (R − R_min) / (R_max − R_min)

    Args:
        game: One of `GAMES`.
        distribution_mode: Only `easy` and `hard` have published ranges.
        value: R, in env units.

    Returns:
        The normalized return, or None where no range is published.

    Reference:
        Cobbe et al. 2020, Leveraging procedural generation to benchmark reinforcement learning, appendix C
    """
    if (game, distribution_mode) not in RETURN_RANGES:
        return None
    low, high = RETURN_RANGES[game, distribution_mode]
    return (value - low) / (high - low)


def require_libraries() -> None:
    """Refuses a system without the libraries that the games are drawn with and that no wheel brings.

    Raises:
        UsageError: names the library, and what installs it.
    """
    for name in _SYSTEM_LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise UsageError(
                f"Procgen's games need {name}, which this system lacks; Debian and Ubuntu: apt-get install"
                " libgl1 libglib2.0-0, Fedora and Red Hat: dnf install libglvnd-glx glib2"
            ) from error


def check_options(
    game: str,
    *,
    num_envs: int = 1,
    distribution_mode: str = "easy",
    num_levels: int = 0,
    start_level: int = 0,
    seed: int = 0,
    num_threads: int = 0,
) -> None:
    """Refuses what Procgen would answer by ending the process, before anything is built and without importing it.

    Args:
        game: One of `GAMES`.
        num_envs: Number of games played side by side.
        distribution_mode: One of `DISTRIBUTION_MODES[game]`.
        num_levels: Number of levels, 0 for all.
        start_level: The first level.
        seed: Which levels come in which order.
        num_threads: Threads that play the games.

    Raises:
        ValueError: A value that this game does not have; the message names the option, the value and what is allowed.
    """
    if game not in GAMES:
        raise ValueError(f"game must be one of {', '.join(GAMES)}, not {game!r}")
    if distribution_mode not in DISTRIBUTION_MODES[game]:
        modes = ", ".join(DISTRIBUTION_MODES[game])
        raise ValueError(f"distribution_mode of {game} must be one of {modes}, not {distribution_mode!r}")
    _check_integer("num_envs", num_envs, low=1)
    _check_integer("num_levels", num_levels)
    _check_integer("start_level", start_level)
    _check_integer("seed", seed)
    _check_integer("num_threads", num_threads, high=_MAX_THREADS)
    if start_level + num_levels > MAX_SEED:
        raise ValueError(
            f"start_level + num_levels must be at most {MAX_SEED}, not {start_level} + {num_levels}"
            f" = {start_level + num_levels}"
        )
    if distribution_mode == "exploration" and (num_levels, start_level) != (0, 0):
        raise ValueError(
            "distribution_mode exploration plays one fixed level, so num_levels and start_level must be 0,"
            f" not {num_levels} and {start_level}"
        )


def _check_integer(key: str, value: int, low: int = 0, high: int = MAX_SEED) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} must be an integer from {low} to {high}, not {value!r}")


@runtime_checkable
class _Games(Protocol):
    """As much of a gym3 environment as is used here."""

    _info: dict[str, NDArray[Any]]
    _reuse_arrays: bool

    def act(self, ac: NDArray[np.int64]) -> None: ...
    def observe(self) -> tuple[NDArray[np.float32], dict[str, NDArray[np.uint8]], NDArray[np.bool_]]: ...
    def callmethod(self, method: str, *args: list[bytes]) -> list[bytes]: ...
    def close(self) -> None: ...


class ProcgenVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """`num_envs` games of Procgen, played side by side.

    The games start by themselves when built and restart by themselves in the step that ends an episode, whose last
    frame Procgen never shows: the observation of that step opens the next episode, and `info` has no `final_obs`.
    `terminated` includes running out of time, which Procgen does not tell apart from dying or finishing, and
    `truncated` is always False, as in every published Procgen baseline.

    `info` of a step has, for each environment: `level_seed`, the level of the observation returned; `prev_level_seed`,
    the level that the action was played in; `level_complete`, whether this step solved that level.

    Args:
        game: One of `GAMES`.
        num_envs: Number of games.
        distribution_mode: Difficulty, one of `DISTRIBUTION_MODES[game]`.
        num_levels: Levels are drawn with replacement from this many seeds, `start_level` and following; 0 draws from
            all 2³¹ − 1 seeds, and Procgen then ignores `start_level`.
        start_level: The first level seed.
        seed: Decides which levels come in which order.
        use_backgrounds: Pictures behind the levels, rather than black.
        use_monochrome_assets: Rectangles of one color instead of drawn assets.
        restrict_themes: One theme per kind of asset instead of several.
        use_generated_assets: Randomly generated assets instead of drawn ones; such games cannot be saved.
        center_agent: The view follows the agent, in the games that leave the choice: caveflyer, climber, coinrun,
            fruitbot, jumper, ninja.
        paint_vel_info: Paints the agent's velocity into a corner of the frame, in the games that support it.
        use_sequential_levels: Solving a level leads to the next one (seed + 997) within the same episode.
        num_threads: Threads that step the games. 2 is the fastest on two cores; forking a process that holds
            environments is safe with 0 only.
        copy: Observations are the caller's to keep. Otherwise all are one array, the one that the games paint into:
            for who is done with an observation before the next step.

    Raises:
        ValueError: An option that the game does not have; see `check_options`.

    Reference:
        Cobbe et al. 2020, Leveraging procedural generation to benchmark reinforcement learning,
        https://arxiv.org/abs/1912.01588; openai/procgen, procgen/env.py for the options
    """

    def __init__(
        self,
        game: str,
        *,
        num_envs: int,
        distribution_mode: str = "easy",
        num_levels: int = 0,
        start_level: int = 0,
        seed: int,
        use_backgrounds: bool = True,
        use_monochrome_assets: bool = False,
        restrict_themes: bool = False,
        use_generated_assets: bool = False,
        center_agent: bool = True,
        paint_vel_info: bool = False,
        use_sequential_levels: bool = False,
        num_threads: int = 2,
        copy: bool = True,
    ) -> None:
        self.closed = True  # until the games run: gymnasium closes what is open when an object dies, half-built too
        check_options(
            game,
            num_envs=num_envs,
            distribution_mode=distribution_mode,
            num_levels=num_levels,
            start_level=start_level,
            seed=seed,
            num_threads=num_threads,
        )
        options = {
            "distribution_mode": distribution_mode,
            "num_levels": num_levels,
            "start_level": start_level,
            "use_backgrounds": use_backgrounds,
            "use_monochrome_assets": use_monochrome_assets,
            "restrict_themes": restrict_themes,
            "use_generated_assets": use_generated_assets,
            "center_agent": center_agent,
            "paint_vel_info": paint_vel_info,
            "use_sequential_levels": use_sequential_levels,
        }
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.single_action_space = gym.spaces.Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._identity: State = {"game": game, **options, "num_envs": num_envs}
        self._games = _build(game, num_envs, options, rand_seed=seed, num_threads=num_threads)
        self._games._reuse_arrays = True  # gym3 would copy everything at every look; what must be copied is copied here
        self._copy = copy
        self.closed = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations: of the first levels when just built; later it restarts nothing.

        Args:
            seed: Not None is an error: the order of the levels is decided when the games are built.
            options: Not None is an error too: there are none.

        Returns:
            The observations, and `level_seed`.

        Raises:
            ValueError: `seed` or `options` is given.
        """
        if seed is not None or options:
            raise ValueError(
                f"Procgen takes its seed and options when it is built, not on reset, which got seed {seed} and"
                f" options {options}; build another ProcgenVectorEnv"
            )
        obs = self._obs()
        return obs, {"level_seed": self._told("level_seed", np.int64)}

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W C"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """Plays one action in each game.

        Args:
            actions: 0..14; 4 does nothing.

        Returns:
            Observations, rewards, `terminated`, `truncated` and `info`; where an episode ended, the observation and
            `level_seed` belong to the next one.

        Raises:
            ValueError: Not one integer from 0 to 14 for each game.
        """
        self._check_actions(actions)
        self._games.act(actions)
        rewards, obs, terminated = self._games.observe()
        info = {
            "level_seed": self._told("level_seed", np.int64),
            "prev_level_seed": self._told("prev_level_seed", np.int64),
            "level_complete": self._told("prev_level_complete", np.bool_),
        }
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return self._owned(obs["rgb"]), rewards.copy(), terminated.copy(), truncated, info

    def get_state(self) -> State:
        """The games bit for bit, each with a checksum, and the options that they were built with.

        Returns:
            What `set_state` takes.

        Raises:
            ValueError: The games have generated assets, which Procgen cannot save.
        """
        return {**self._identity, **saved_games.packed(self._saved())}

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues from `state`, whatever seed this environment was built with.

        Args:
            state: What `get_state` returned from an environment with the same game, options and number of games.

        Returns:
            The observations at that point.

        Raises:
            ValueError: `state` belongs to another environment or is damaged; the games are then as they were.
        """
        saved_games.check_identity(state, self._identity, {*saved_games.KEYS}, owner="ProcgenVectorEnv")
        self._games.callmethod("set_state", saved_games.unpacked(state, like=self._saved()))
        return self._obs()

    def close_extras(self) -> None:
        """Ends the games and their threads."""
        self._games.close()

    def _saved(self) -> list[bytes]:
        if self._identity["use_generated_assets"]:
            # src/basic-abstract-game.cpp, `serialize`: `fassert(!options.use_generated_assets)`, which ends the process
            raise ValueError(
                "use_generated_assets must be False where games are saved, not True: Procgen has no format for"
                " generated assets"
            )
        return self._games.callmethod("get_state")

    def _obs(self) -> UInt8[NDArray[Any], "B H W C"]:
        return self._owned(self._games.observe()[1]["rgb"])

    def _owned(self, frames: UInt8[NDArray[Any], "B H W C"]) -> UInt8[NDArray[Any], "B H W C"]:
        return frames.copy() if self._copy else frames

    def _told(self, key: str, dtype: type[np.generic]) -> NDArray[Any]:
        # the arrays behind gym3's `get_info`, which makes a dict for each game and a step of 64 games 3% dearer
        return self._games._info[key].astype(dtype)

    def _check_actions(self, actions: NDArray[Any]) -> None:
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be {self.num_envs} integers, one for each game, not {actions.dtype} {actions.shape}"
            )
        # Procgen would take -1 as a command to restart, and other numbers as undefined behavior
        if actions.min() < 0 or actions.max() >= NUM_ACTIONS:
            raise ValueError(f"actions must be 0 to {NUM_ACTIONS - 1}, not {actions.min()} to {actions.max()}")


def _build(game: str, num_envs: int, options: dict[str, Any], **process: int) -> _Games:
    if options["distribution_mode"] == "exploration":
        # Procgen refuses even the defaults of the options that this mode sets itself
        options = {key: value for key, value in options.items() if key not in ("num_levels", "start_level")}
    procgen = _imported_procgen()
    require_libraries()
    games: _Games = procgen.ProcgenGym3Env(num=num_envs, env_name=game, **options, **process)
    return games


def _imported_procgen() -> ModuleType:
    """The `procgen` package, imported without gym's notice.

    Procgen imports gym 0.26, which prints to stderr that it is unmaintained: true, known, and nothing that the user of
    a program built on Procgen can change. Procgen also leaves its version file to the garbage collector to close.
    """
    notices = import_module("gym_notices.notices").notices
    version = metadata.version("gym")
    if notices.get(version, "").startswith("Gym has been unmaintained since 2022"):
        del notices[version]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"unclosed file .*version\.txt", category=ResourceWarning)
        return import_module("procgen")
