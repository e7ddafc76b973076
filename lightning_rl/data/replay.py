"""The replay buffer of real steps, which lies on disk beside the checkpoints, so that these do not grow with it."""

import hashlib
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from lightning_rl.errors import ReplayError
from lightning_rl.runs.atomic_files import atomic_write
from lightning_rl.runs.signals import signals_held_back
from lightning_rl.types import Rollout, Windows

_HELD_OUT_EVERY = 11  # trajectories; the released code keeps one shard of eleven apart
_CHUNK_KEYS = ("game", "frames", "actions", "rewards", "terminated")


class _Chunk(NamedTuple):
    """One rollout: `K` − 1 frames before its first, so that every frame has its stack."""

    frames: UInt8[Tensor, "K+T B H W C"]
    actions: Int64[Tensor, "T B"]
    rewards: Float32[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    starts: Int64[Tensor, "T B"]  # first frame of the episode that frame t belongs to; 0 where it is not in the chunk
    lasts: Int64[Tensor, "T B"]  # last step of the episode that step t belongs to, or of the chunk


@dataclass(frozen=True, kw_only=True)
class ReplayState:
    """The game, and the digest of each file, in order."""

    game: str
    digests: list[str]


class ReplayBuffer:
    """All real rollouts, one file each: append-only, and read through the page cache.

    One trajectory (an environment's part of a rollout) in eleven is held out: the world model never learns from it.
    A new run sets aside what another has left in the folder.

    Args:
        folder: where the files are; made with the first one.
        game: kept in every file to refuse it to others.
        num_frames: K, frames of a stack; observations have their channels one after the other, the newest last.
        beside: another folder that a saved state's files may be in; they are copied from there.

    Raises:
        ReplayError: on `append`, where the disk does not take the rollout.
    """

    def __init__(self, folder: Path, *, game: str, num_frames: int, beside: Path | None = None) -> None:
        self._folder = folder
        self._beside = beside
        self._game = game
        self._num_frames = num_frames
        self._chunks: list[_Chunk] = []
        self._digests: list[str] = []

    @property
    def num_steps(self) -> int:
        """Real steps held."""
        return sum(chunk.actions.numel() for chunk in self._chunks)

    @property
    def num_held_out(self) -> int:
        """Trajectories that are never learned from."""
        return sum(len(self._trajectories(number, held_out=True)) for number in range(len(self._chunks)))

    def append(self, rollout: Rollout) -> None:
        """Adds a rollout; it is on disk when this returns."""
        obs = rollout.obs.cpu()
        first = rearrange(obs[0], "b h w (k c) -> k b h w c", k=self._num_frames)
        channels = first.shape[-1]
        contents = {
            "game": self._game,
            "frames": torch.cat([first, obs[1:, ..., -channels:]]),
            "actions": rollout.actions.cpu(),
            "rewards": rollout.rewards.cpu(),
            "terminated": rollout.terminated.cpu(),
        }
        path = self._path(len(self._chunks))
        try:
            if not self._chunks:
                self._make_way()
            with signals_held_back(), atomic_write(path) as file:
                torch.save(contents, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise ReplayError(
                f"{path} was not written ({error}); make room and continue from the newest checkpoint"
            ) from error
        self._digests.append(_digest(path))
        self._chunks.append(_opened(path))

    def _make_way(self) -> None:
        """Sets another run's files aside, which this one would otherwise overwrite."""
        others = sorted(self._folder.glob("*.pt"))
        aside = self._folder / f"superseded_{len(list(self._folder.glob('superseded_*')))}"
        for path in others:
            aside.mkdir(exist_ok=True)
            path.replace(aside / path.name)
        if others:
            told = (
                f"{self._folder} held real frames that this run has not collected: they are in {aside.name}/ there now"
            )
            warnings.warn(told, stacklevel=2)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.pt"

    def sample(self, number: int, *, num_targets: int, generator: torch.Generator, held_out: bool = False) -> Windows:
        """Windows whose first target step is drawn uniformly from all real steps learned from, or held out.

        Args:
            number: n.
            num_targets: p.
            generator: draws.
            held_out: from the trajectories that are never learned from.
        """
        lots = torch.tensor(
            [
                (chunk_number, environment)
                for chunk_number in range(len(self._chunks))
                for environment in self._trajectories(chunk_number, held_out=held_out)
            ]
        )
        lengths = torch.tensor([len(chunk.actions) for chunk in self._chunks])[lots[:, 0]]
        ends = lengths.cumsum(0)
        drawn = torch.randint(int(ends[-1]), (number,), generator=generator)
        which = torch.searchsorted(ends, drawn, right=True)
        return self._gathered(lots[which], drawn - (ends - lengths)[which], num_targets)

    def sample_whole(self, number: int, *, num_targets: int, generator: torch.Generator) -> Windows | None:
        """Held-out windows that neither their episode's end nor their rollout's cuts short; the last step may end it.

        Their first target step is drawn uniformly from all that are followed by enough; None where there are none.

        Args:
            number: n.
            num_targets: p.
            generator: draws.
        """
        starts = []
        for chunk_number, chunk in enumerate(self._chunks):
            left = chunk.lasts - torch.arange(len(chunk.lasts))[:, None] + 1
            environments = torch.tensor(self._trajectories(chunk_number, held_out=True), dtype=torch.int64)
            steps, columns = (left[:, environments] >= num_targets).nonzero().unbind(1)
            starts.append(torch.stack([torch.full_like(steps, chunk_number), environments[columns], steps], dim=1))
        candidates = torch.cat(starts)  # each a chunk, an environment and a step
        if not len(candidates):
            return None
        drawn = torch.randint(len(candidates), (number,), generator=generator)
        return self._gathered(candidates[drawn, :2], candidates[drawn, 2], num_targets)

    def _gathered(self, trajectories: Int64[Tensor, "N 2"], steps: Int64[Tensor, "N"], num_targets: int) -> Windows:
        """The windows whose first target steps are these, of chunks and environments."""
        number = len(steps)
        chunk_numbers, environments = trajectories.unbind(1)
        sampled: dict[str, Tensor] = {}
        for chunk_number, chunk in enumerate(self._chunks):
            rows = (chunk_numbers == chunk_number).nonzero().squeeze(1)
            for name, values in self._windows(chunk, environments[rows], steps[rows], num_targets).items():
                # written in place: collecting, concatenating and reordering the parts would take three times the memory
                sampled.setdefault(name, values.new_empty(number, *values.shape[1:]))[rows] = values
        return Windows(**sampled)

    def starts(self, number: int, *, generator: torch.Generator) -> UInt8[Tensor, "N H W D"]:
        """Stacks of real frames from the newest rollout's training trajectories; the first opens an episode.

        Reference:
            tensor2tensor, rl/rl_utils.py, the initial frames of simulated environments
        """
        chunk = self._chunks[-1]
        newest = len(self._chunks) - 1
        # with one environment the newest rollout may be held out; starting from its frames teaches the model nothing
        environments = self._trajectories(newest, held_out=False) or self._trajectories(newest, held_out=True)
        columns = torch.tensor(environments)
        opens = torch.zeros_like(chunk.terminated)
        opens[1:] = chunk.terminated[:-1]
        openings = opens[:, columns].nonzero()
        if not len(openings):  # no episode began
            openings = torch.tensor([[0, 0]])
        first = openings[torch.randint(len(openings), (1,), generator=generator)]
        rest = torch.stack(
            [
                torch.randint(len(chunk.actions), (number - 1,), generator=generator),
                torch.randint(len(environments), (number - 1,), generator=generator),
            ],
            dim=1,
        )
        steps, drawn = torch.cat([first, rest]).unbind(1)
        stacks = chunk.frames[self._stacks(chunk, columns[drawn], steps), columns[drawn, None]]
        return rearrange(stacks, "n k h w c -> n h w (k c)")

    def _trajectories(self, number: int, *, held_out: bool) -> list[int]:
        """Environments whose part of a rollout is held out, or is not."""
        num_envs = self._chunks[number].actions.shape[1]
        return [
            environment
            for environment in range(num_envs)
            if ((number * num_envs + environment + 1) % _HELD_OUT_EVERY == 0) is held_out
        ]

    def _stacks(
        self, chunk: _Chunk, environments: Int64[Tensor, "N"], steps: Int64[Tensor, "N"]
    ) -> Int64[Tensor, "N K"]:
        """Which frames the decisions at `steps` were made on."""
        frames = steps[:, None] + torch.arange(self._num_frames)
        return torch.maximum(frames, chunk.starts[steps, environments][:, None])

    def _windows(
        self, chunk: _Chunk, environments: Int64[Tensor, "N"], steps: Int64[Tensor, "N"], num_targets: int
    ) -> dict[str, Tensor]:
        earlier = self._num_frames - 1
        around = steps[:, None] + torch.arange(-earlier, num_targets)
        first = (chunk.starts[steps, environments] - earlier).clamp(min=0)[:, None]
        last = chunk.lasts[steps, environments][:, None]
        following = (steps[:, None] + torch.arange(num_targets) + self._num_frames).clamp(max=len(chunk.frames) - 1)
        shown = torch.cat([self._stacks(chunk, environments, steps), following], dim=1)
        played = around.clamp(0, len(chunk.actions) - 1), environments[:, None]
        return {
            "frames": chunk.frames[shown, environments[:, None]],
            "actions": chunk.actions[played],
            "rewards": chunk.rewards[played],
            "ended": chunk.terminated[played],
            "valid": (around >= first) & (around <= last),
        }

    def read_all(self) -> None:
        """Takes all files of the folder as they are; nothing may be appended then.

        Raises:
            ValueError: there are none, or one is damaged or of another game.
        """
        paths = sorted(self._folder.glob("*.pt"))
        if not paths:
            raise ValueError(f"ckpt_path: no real frames are kept in {self._folder}")
        for path in paths:
            if (game := _game_of(path)) != self._game:
                raise ValueError(f"ckpt_path: its real frames {path} are of game {game}, this run of {self._game}")
        self._chunks = [_opened(path) for path in paths]

    def stack(self, generator: torch.Generator) -> UInt8[Tensor, "1 H W D"]:
        """A stack of real frames, drawn from all that are learned from."""
        frames = self.sample(1, num_targets=1, generator=generator).frames[:, : self._num_frames]
        return rearrange(frames, "n k h w c -> n h w (k c)")

    @property
    def state(self) -> ReplayState:
        """What a checkpoint keeps of the frames."""
        return ReplayState(game=self._game, digests=list(self._digests))

    def checked(self, state: ReplayState) -> list[Path]:
        """The files of a saved state, all there as they were.

        Raises:
            ValueError: names the file and what is wrong.
        """
        return [self._checked(number, digest) for number, digest in enumerate(state.digests)]

    def _checked(self, number: int, digest: str) -> Path:
        own = self._path(number)
        path = own if own.exists() or self._beside is None else self._beside / own.name
        if not path.is_file():
            raise ValueError(f"ckpt_path: its real frames {own} are not there; keep replay/ beside the checkpoint")
        game = _game_of(path)
        if game != self._game:
            raise ValueError(f"ckpt_path: its real frames {path} are of game {game}, this run of {self._game}")
        if _digest(path) != digest:
            raise ValueError(f"ckpt_path: its real frames {path} are damaged or cut short, or of another run")
        return path

    def load_state(self, state: ReplayState) -> None:
        """Continues with the files of a saved state; files that were written after it are set aside.

        Raises:
            ValueError: a file is missing, damaged or of another game.
        """
        paths = self.checked(state)
        for number, path in enumerate(paths):
            if path != self._path(number):
                with atomic_write(self._path(number)) as file, path.open("rb") as source:
                    shutil.copyfileobj(source, file)
        self._digests = list(state.digests)
        self._chunks = [_opened(self._path(number)) for number in range(len(paths))]
        for later in sorted(self._folder.glob("*.pt"))[len(paths) :]:
            later.replace(later.with_suffix(".superseded"))


def _opened(path: Path) -> _Chunk:
    with signals_held_back():
        contents = torch.load(path, mmap=True, weights_only=True)  # pages are read when they are needed
    actions, terminated = contents["actions"], contents["terminated"]
    num_steps = len(actions)
    earlier = len(contents["frames"]) - num_steps - 1
    starts, lasts = torch.zeros_like(actions), torch.zeros_like(actions)
    for step in range(1, num_steps):
        starts[step] = torch.where(terminated[step - 1], step + earlier, starts[step - 1])
    lasts[-1] = num_steps - 1
    for step in reversed(range(num_steps - 1)):
        lasts[step] = torch.where(terminated[step], step, lasts[step + 1])
    return _Chunk(contents["frames"], actions.clone(), contents["rewards"].clone(), terminated.clone(), starts, lasts)


def _game_of(path: Path) -> str:
    try:
        with signals_held_back():
            contents = torch.load(path, mmap=True, weights_only=True)
        return str(contents["game"]) if set(contents) == set(_CHUNK_KEYS) else "?"
    except Exception as error:  # torch raises whatever its unpickler meets
        raise ValueError(f"ckpt_path: its real frames {path} are damaged or cut short") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
