"""Procgen as a `gymnasium.vector.VectorEnv` whose games can be saved and continued bit for bit.

The only file that imports Procgen, and only when the first environment is built.
"""

import ctypes
import platform
import sys
import threading
import warnings
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.envs import saved_games
from lightning_rl.envs.closed import check_open
from lightning_rl.envs.procgen_games import NUM_ACTIONS, check_options
from lightning_rl.envs.saved_games import SavedGames
from lightning_rl.errors import UsageError
from lightning_rl.state import to_plain
from lightning_rl.types import State

_SYSTEM_LIBRARIES = ("libGL.so.1", "libglib-2.0.so.0", "libgthread-2.0.so.0")
_MAX_STATE = 2**20  # bytes of one game, as both bindings have it
_FORGETTING = threading.Lock()


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
        game: one of `GAMES`.
        num_envs: number of games.
        distribution_mode: difficulty, one of `DISTRIBUTION_MODES[game]`.
        num_levels: levels are drawn with replacement from this many seeds, `start_level` and following; 0 draws from
            all 2³¹ − 1 seeds, and Procgen then ignores `start_level`.
        start_level: the first level seed.
        seed: decides which levels come in which order.
        use_backgrounds: pictures behind the levels, rather than black.
        use_monochrome_assets: rectangles of one color instead of drawn assets.
        restrict_themes: one theme per kind of asset instead of several.
        use_generated_assets: randomly generated assets instead of drawn ones; such games cannot be saved.
        center_agent: the view follows the agent, in the games that leave the choice: caveflyer, climber, coinrun,
            fruitbot, jumper, ninja.
        paint_vel_info: paints the agent's velocity into a corner of the frame, in the games that support it.
        use_sequential_levels: solving a level leads to the next one (seed + 997) within the same episode.
        num_threads: threads that step the games. 2 is the fastest on two cores; forking a process that holds
            environments is safe with 0 only.
        copy: every step returns an array of its own. Otherwise all return the one that the games paint into, which the
            next step overwrites.

    Raises:
        ValueError: an option that the game does not have; see `check_options`.

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
        self.closed = True  # until the games run: gymnasium closes what is garbage-collected, also half-built
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
        self._games._reuse_arrays = (
            True  # gym3 would copy everything in every `observe`; this class copies what must be
        )
        self._copy = copy
        self.closed = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations: of the first levels when just built; later it restarts nothing.

        Args:
            seed: must be None: the order of the levels is decided when the games are built.
            options: must be None: there are none.

        Returns:
            The observations, and `level_seed`.

        Raises:
            ValueError: `seed` or `options` is given.
        """
        check_open(self)
        if seed is not None or options:
            raise ValueError(
                f"Procgen takes its seed and options when it is built and none on reset, found seed {seed} and"
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
            ValueError: these are not integers from 0 to 14, one for each game.
        """
        check_open(self)
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
            ValueError: the games have generated assets, which Procgen cannot save.
        """
        check_open(self)
        games = self._saved()
        return {**self._identity, **to_plain(SavedGames(games=games, crc32=saved_games.checksums(games)))}

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues from `state`, whatever seed this environment was built with.

        Args:
            state: what `get_state` returned from an environment with the same game, options and number of games.

        Returns:
            The observations at that point.

        Raises:
            ValueError: `state` belongs to another environment or is damaged; the games are then as they were.
        """
        check_open(self)
        saved = saved_games.own_part(SavedGames, state, self._identity, owner="ProcgenVectorEnv", B=self.num_envs)
        self._games.callmethod("set_state", saved_games.checked(saved, like=self._saved()))
        return self._obs()

    def close_extras(self) -> None:
        """Ends the games and their threads."""
        _close(self._games)

    def _saved(self) -> list[bytes]:
        if self._identity["use_generated_assets"]:
            # src/basic-abstract-game.cpp, `serialize`: `fassert(!options.use_generated_assets)`, which ends the process
            raise ValueError(
                "use_generated_assets must be False where games are saved, found True: Procgen has no format for"
                " generated assets"
            )
        return self._games.callmethod("get_state")

    def _obs(self) -> UInt8[NDArray[Any], "B H W C"]:
        return self._owned(self._games.observe()[1]["rgb"])

    def _owned(self, frames: UInt8[NDArray[Any], "B H W C"]) -> UInt8[NDArray[Any], "B H W C"]:
        return frames.copy() if self._copy else frames

    def _told(self, key: str, dtype: type[np.generic]) -> NDArray[Any]:
        # the arrays behind gym3's `get_info`, which builds a dict for each game: a step of 64 games takes 3% longer
        return self._games._info[key].astype(dtype)

    def _check_actions(self, actions: NDArray[Any]) -> None:
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be {self.num_envs} integers, one for each game, found {actions.dtype} {actions.shape}"
            )
        # Procgen would take -1 as a command to restart, and other numbers as undefined behavior
        if actions.min() < 0 or actions.max() >= NUM_ACTIONS:
            raise ValueError(f"actions must be 0 to {NUM_ACTIONS - 1}, found {actions.min()} to {actions.max()}")


def _build(game: str, num_envs: int, options: dict[str, Any], **process: int) -> _Games:
    if options["distribution_mode"] == "exploration":
        # Procgen refuses even the defaults of the options that this mode sets itself
        options = {key: value for key, value in options.items() if key not in ("num_levels", "start_level")}
    binding = installed_binding()
    require_libraries()
    if binding == "procgen_gym":
        return _GymnasiumsGames(import_module(binding).ProcgenVecEnv(num_envs, game, **options, **process))
    games: _Games = _imported_procgen().ProcgenGym3Env(num=num_envs, env_name=game, **options, **process)
    return games


def _close(games: Any) -> None:
    """Ends the games, and frees what cffi keeps of them: gym3 opens Procgen's library anew for each environment.

    The first handle stays: with the last one, the library would be unloaded, and all drawings be read again.
    """
    ffi, library = getattr(games, "_ffi", None), getattr(games, "_c_lib", None)
    games.close()
    if ffi is not None:  # procgen-gym has none
        with _FORGETTING:
            place = next(place for place, kept in enumerate(ffi._libraries) if kept is library)
            if place:
                del ffi._libraries[place], ffi._function_caches[place]


def installed_binding() -> str:
    """The package that brings the games: `procgen` (on gym3) up to Python 3.12, `procgen_gym` (on Gymnasium) from 3.13.

    The games in them are the same, and so are the bytes that they are saved in. Frames differ in a few of ten thousand
    pixels, since another version of Qt draws rotated sprites.

    Raises:
        UsageError: there is none for this machine.
    """
    for name in ("procgen", "procgen_gym"):
        if find_spec(name) is not None:
            return name
    raise UsageError(
        "data: Procgen's games are for Linux on x86-64 with Python 3.11 to 3.13, found"
        f" {platform.system()} on {platform.machine()} with Python {sys.version_info.major}.{sys.version_info.minor};"
        " Atari's need neither: --data AtariDataModule"
    )


class _GymnasiumsGames:
    """procgen-gym's games, used as gym3's are.

    Its vector environment copies all buffers at every look; here they are taken from the C++ library below it.

    Args:
        env: its vector environment.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._library = env._clib
        self._info: dict[str, NDArray[Any]] = self._library.get_info_bufs()
        self._reuse_arrays = True

    def act(self, ac: NDArray[np.int64]) -> None:
        """Starts a step."""
        self._library.act(ac)

    def observe(self) -> tuple[NDArray[np.float32], dict[str, NDArray[np.uint8]], NDArray[np.bool_]]:
        """Waits for the step to end; the arrays are those that the next one overwrites."""
        self._library.call_c_func("libenv_observe")
        return self._library.get_reward_buf(), self._library.get_ob_bufs(), self._library.get_first_buf().view(np.bool_)

    def callmethod(self, method: str, *args: list[bytes]) -> list[bytes]:
        """`get_state` of all games, or `set_state`."""
        if method == "set_state":
            for index, state in enumerate(args[0]):
                self._library.call_c_func("set_state", index, state, len(state))
            return []
        buffer = ctypes.create_string_buffer(_MAX_STATE)
        lengths = (self._library.call_c_func("get_state", i, buffer, _MAX_STATE) for i in range(self._env.num_envs))
        return [ctypes.string_at(buffer, length) for length in lengths]

    def close(self) -> None:
        """Ends the games and their threads."""
        self._env.close()


def _imported_procgen() -> ModuleType:
    """The `procgen` package, imported without gym's notice.

    Procgen imports gym 0.26, which prints to stderr that it is unmaintained; a user of this package cannot change that.
    Procgen also leaves its version file to the garbage collector to close.
    """
    notices = import_module("gym_notices.notices").notices
    version = metadata.version("gym")
    if notices.get(version, "").startswith("Gym has been unmaintained since 2022"):
        del notices[version]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"unclosed file .*version\.txt", category=ResourceWarning)
        return import_module("procgen")
