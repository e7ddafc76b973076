"""Atari games as a `gymnasium.vector.VectorEnv` that can be saved and continued bit for bit.

The only file that knows the Arcade Learning Environment.
"""

import atexit
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple

import gymnasium as gym
import numpy as np
from ale_py import Action, ALEInterface, ALEState, LoggerMode, roms
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.envs import random_streams, saved_games
from lightning_rl.envs.atari_games import GAMES, canonical_game, check_options
from lightning_rl.envs.closed import check_open
from lightning_rl.envs.saved_games import SavedGames
from lightning_rl.state import to_plain
from lightning_rl.types import State

FRAME_SKIP = 4
"""Raw frames of one env step."""

STICKINESS = 0.25
"""Probability with which a sticky joystick keeps its position for a raw frame: Machado et al. 2018, section 5.2."""


_NOOP = 0


class Cartridge(NamedTuple):
    """What a game is played with: the size of its frames as observed, and the emulator's numbers of its actions."""

    obs_shape: tuple[int, int, int]
    minimal_actions: tuple[int, ...]
    all_actions: tuple[int, ...]

    def actions(self, *, full_action_space: bool) -> tuple[int, ...]:
        """The ones to choose from; doing nothing comes first."""
        return self.all_actions if full_action_space else self.minimal_actions

    def action_meanings(self, *, full_action_space: bool) -> tuple[str, ...]:
        """What each of them does with the joystick, as `upfire`."""
        return tuple(str(Action(number).name).lower() for number in self.actions(full_action_space=full_action_space))


@cache
def cartridge(game: str) -> Cartridge:
    """Looks a game up; 210×160 pixels, which nearly all games show, are observed as 105×80.

    Args:
        game: one of `GAMES`.
    """
    emulator = _taken(game)
    height, width = emulator.getScreenDims()
    minimal, full = (
        tuple(action.value for action in actions)
        for actions in (emulator.getMinimalActionSet(), emulator.getLegalActionSet())
    )
    _idle[game].append(emulator)
    return Cartridge((height // 2, width // 2, 3), minimal, full)


@dataclass(frozen=True, kw_only=True)
class AtariState(SavedGames):
    """What `AtariVectorEnv` saves beside its options."""

    generators: Annotated[list[State], "B"]
    joysticks: Annotated[list[int], "B"]
    steps: Int64[NDArray[Any], "B"]
    obs: UInt8[NDArray[Any], "B H W C"]


class AtariVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """`num_envs` games of one kind, played side by side.

    An env step holds an action for four raw frames, fewer where the game ends, and pays the sum of their rewards. An
    observation is the larger of the last two frames, pixel by pixel, since many games draw some things in every other
    frame only, and shrunk to half by averaging 2×2 pixels and rounding down, as TensorFlow does for SimPLe.

    The games start by themselves when built and restart by themselves in the step that ends an episode: the observation
    of that step opens the next episode, and `info` has no `final_obs`. `terminated` includes running out of time, which
    the papers do not tell apart from losing, and `truncated` is always False, as with Procgen.

    An emulator draws nothing at random. Each game has a random stream of its own, for the number of no-ops and for the
    sticky joystick, which the emulator has too, but without saving the position at which it is stuck.

    Args:
        game: one of `GAMES`, or as papers write it: `ms_pacman` or `MsPacman`.
        num_envs: number of games.
        seed: of the random streams, no two of which are alike.
        sticky_actions: each raw frame, the joystick stays where it was with probability `STICKINESS`.
        full_action_space: all 18 actions rather than those that the game distinguishes.
        max_no_ops: an episode opens with 1 to so many env steps that do nothing; 0 for none.
        max_episode_steps: time limit, in env steps after the no-ops.
        copy: every step returns an array of its own. Otherwise all return the same one, which the next step
            overwrites.

    Raises:
        ValueError: an option out of range; see `check_options`.

    Reference:
        Bellemare et al. 2013, The Arcade Learning Environment, https://arxiv.org/abs/1207.4708; Machado et al. 2018,
        Revisiting the Arcade Learning Environment, https://arxiv.org/abs/1709.06009; tensorflow/tensor2tensor,
        data_generators/gym_env.py, `T2TGymEnv`, and rl/gym_utils.py, for SimPLe's frames
    """

    def __init__(
        self,
        game: str,
        *,
        num_envs: int,
        seed: int,
        sticky_actions: bool = False,
        full_action_space: bool = False,
        max_no_ops: int = 8,
        max_episode_steps: int = 27_000,
        copy: bool = True,
    ) -> None:
        self.closed = True  # until the games run: gymnasium closes what is garbage-collected, also half-built
        check_options(game, num_envs=num_envs, max_no_ops=max_no_ops, max_episode_steps=max_episode_steps, seed=seed)
        game = canonical_game(game)
        obs_shape, actions = cartridge(game).obs_shape, cartridge(game).actions(full_action_space=full_action_space)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(0, 255, obs_shape, np.uint8)
        self.single_action_space = gym.spaces.Discrete(len(actions))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._identity: State = {
            "game": game,
            "sticky_actions": sticky_actions,
            "full_action_space": full_action_space,
            "max_no_ops": max_no_ops,
            "max_episode_steps": max_episode_steps,
            "num_envs": num_envs,
        }
        self._actions = actions
        self._max_episode_steps = max_episode_steps
        stickiness = STICKINESS if sticky_actions else 0.0
        self._games = [
            _Game(game, np.random.default_rng(own), stickiness=stickiness, max_no_ops=max_no_ops)
            for own in np.random.SeedSequence(seed).spawn(num_envs)
        ]
        self.closed = False
        self._copy = copy
        self._steps = np.zeros(num_envs, dtype=np.int64)  # of the open episodes
        self._obs = np.empty((num_envs, *obs_shape), dtype=np.uint8)
        for played, frame in zip(self._games, self._obs, strict=True):
            played.start()
            played.draw(frame)

    def open_at(self, start: Int64[NDArray[Any], "6"]) -> None:
        """Begins another episode in every game, at a start that `info` has told of an episode that was played.

        Raises:
            ValueError: there is no such start.
        """
        check_open(self)
        for game, frame in zip(self._games, self._obs, strict=True):
            game.generator = random_streams.unpacked(start)
            game.start()
            game.draw(frame)
        self._steps[:] = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations: of the first episodes when just built; later it restarts nothing.

        Args:
            seed: must be None: the random streams begin when the games are built.
            options: must be None: there are none.

        Returns:
            The observations, and `episode_start` in `info`: the state of each game's random stream before its open
            episode, from which that could be played again.

        Raises:
            ValueError: `seed` or `options` is given.
        """
        check_open(self)
        if seed is not None or options:
            raise ValueError(
                f"Atari takes its seed and options when it is built and none on reset, found seed {seed} and options"
                f" {options}; build another AtariVectorEnv"
            )
        return self._owned(), self._info()

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
            actions: positions in the game's set of actions; 0 does nothing.

        Returns:
            Observations, rewards, `terminated`, `truncated`, and `info` as of `reset`; where an episode ended,
            observation and `info` belong to the next one.

        Raises:
            ValueError: these are not integers, one for each game, or the game lacks one of them.
        """
        check_open(self)
        self._check_actions(actions)
        self._steps += 1
        rewards = np.empty(self.num_envs, dtype=np.float32)
        terminated = self._steps >= self._max_episode_steps
        for index, (game, action) in enumerate(zip(self._games, actions.tolist(), strict=True)):
            rewards[index] = game.play(self._actions[action])
            terminated[index] |= game.is_over()
            if terminated[index]:
                game.start()
            game.draw(self._obs[index])
        self._steps[terminated] = 0
        return self._owned(), rewards, terminated, np.zeros(self.num_envs, dtype=np.bool_), self._info()

    def _info(self) -> dict[str, Any]:
        return {"episode_start": np.stack([game.opening for game in self._games])}

    def get_state(self) -> State:
        """The games bit for bit, each with a checksum, their random streams, and the options they were built with.

        Returns:
            What `set_state` takes.
        """
        check_open(self)
        games = [game.saved() for game in self._games]
        saved = AtariState(
            games=games,
            crc32=saved_games.checksums(games),
            generators=[dict(game.generator.bit_generator.state) for game in self._games],
            joysticks=[game.joystick for game in self._games],
            steps=self._steps,
            obs=self._obs,  # which the state of an emulator does not include
        )
        return {**self._identity, **to_plain(saved)}

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
        sizes = dict(zip("BHWC", self._obs.shape, strict=True))
        saved = saved_games.own_part(AtariState, state, self._identity, owner="AtariVectorEnv", **sizes)
        parts = (saved.intact(), [random_streams.restored(state) for state in saved.generators], saved.joysticks)
        for game, emulator, generator, joystick in zip(self._games, *parts, strict=True):
            game.restore(emulator)
            game.generator = generator
            game.joystick = joystick
        self._steps = saved.steps
        self._obs[:] = saved.obs
        return self._owned()

    def close_extras(self) -> None:
        """Leaves the emulators to the next environment."""
        for game in self._games:
            game.close()

    def _owned(self) -> UInt8[NDArray[Any], "B H W C"]:
        return self._obs.copy() if self._copy else self._obs

    def _check_actions(self, actions: NDArray[Any]) -> None:
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be {self.num_envs} integers, one for each game, found {actions.dtype} {actions.shape}"
            )
        if actions.min() < 0 or actions.max() >= len(self._actions):
            raise ValueError(f"actions must be 0 to {len(self._actions) - 1}, found {actions.min()} to {actions.max()}")


class _Game:
    """One emulator, its joystick and the last two frames."""

    def __init__(self, game: str, generator: np.random.Generator, *, stickiness: float, max_no_ops: int) -> None:
        self.generator = generator
        self.joystick = _NOOP
        self.opening = np.zeros(6, dtype=np.int64)  # random stream before the open episode
        self._game = game
        self._stickiness = stickiness
        self._max_no_ops = max_no_ops
        self._emulator = _taken(game)
        self._frames = np.empty((2, *self._emulator.getScreenDims(), 3), dtype=np.uint8)

    def start(self) -> None:
        """Opens an episode."""
        self.opening = random_streams.packed(self.generator)
        self._reset()
        num_no_ops = self.generator.integers(1, self._max_no_ops, endpoint=True) if self._max_no_ops else 0
        for _ in range(num_no_ops):
            self.play(_NOOP)
            if self.is_over():
                self._reset()

    def _reset(self) -> None:
        self._emulator.restoreState(_new[self._game])  # in 17 games a reset alone keeps memory of the play before
        self._emulator.reset_game()
        self.joystick = _NOOP
        self._emulator.getScreenRGB(self._frames[1])
        self._frames[0] = self._frames[1]

    def play(self, action: int) -> int:
        """Holds the action, or what the sticky joystick makes of it, for some frames; the sum of their rewards."""
        reward = 0
        for frame in range(FRAME_SKIP):
            if not self._stickiness or self.generator.random() >= self._stickiness:
                self.joystick = action
            reward += self._emulator.act(self.joystick)
            if self.is_over():
                break  # the frame after the end is never observed
            if frame >= FRAME_SKIP - 2:
                self._emulator.getScreenRGB(self._frames[frame - FRAME_SKIP])
        return reward

    def is_over(self) -> bool:
        """Whether the game is lost or won."""
        return self._emulator.game_over()

    def draw(self, obs: UInt8[NDArray[Any], "H W 3"]) -> None:
        """Writes the current observation into `obs`."""
        height, width, channels = obs.shape
        rows = np.maximum(*self._frames).reshape(height, 2, 2 * width * channels)
        sums = np.add(rows[:, 0], rows[:, 1], dtype=np.uint16)
        pairs = (
            sums[:, :-channels] + sums[:, channels:]
        )  # of all neighboring columns: every second one is needed, but this is faster
        pairs >>= 2
        for channel in range(channels):  # numpy is slow where the inner loop is over three channels
            obs[..., channel] = pairs[:, channel :: 2 * channels]

    def saved(self) -> bytes:
        """The emulator, its random stream included."""
        return self._emulator.cloneState(include_rng=True).serialize()

    def restore(self, saved: bytes) -> None:
        """Continues from what `saved` returned."""
        self._emulator.restoreState(ALEState(saved))

    def close(self) -> None:
        """Gives the emulator back."""
        _idle[self._game].append(self._emulator)


_idle: dict[str, list[ALEInterface]] = {game: [] for game in GAMES}
_new: dict[str, ALEState] = {}
"""Idle emulators, to be used again, and the state in which a new one begins. Building one takes 0.2 s, nearly all of it
for color tables that nothing here uses (Arcade-Learning-Environment#740)."""


@atexit.register
def _freed() -> None:
    """Frees the emulators before Python exits: nanobind would report them as leaked."""
    for emulators in _idle.values():
        emulators.clear()
    _new.clear()


def _taken(game: str) -> ALEInterface:
    if _idle[game]:
        used = _idle[game].pop()
        used.restoreState(_new[game])
        return used
    ALEInterface.setLoggerMode(LoggerMode.Error)  # each emulator would print a banner
    emulator = ALEInterface()
    emulator.setFloat("repeat_action_probability", 0.0)  # the default is 0.25, without a place in the saved state
    emulator.setInt("random_seed", 0)  # the default is the time
    emulator.loadROM(str(roms.get_rom_path(game)))
    _new.setdefault(game, emulator.cloneState(include_rng=True))
    return emulator
