"""`lightning-rl play`: a page in the browser on which a person watches an agent, takes over and plays."""

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import UInt8
from pytorch_lightning.utilities.seed import isolate_rng

from lightning_rl.cli.config_files import values
from lightning_rl.cli.error_messages import say, short_message
from lightning_rl.cli.export import load_checkpoint
from lightning_rl.cli.registry import data_class, import_plugins
from lightning_rl.cli.run_location import judged_folder
from lightning_rl.cpu import allocator
from lightning_rl.data.atari import AtariDataModule
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.data.episode_replay import ReplaysEpisodes
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.envs import atari_games
from lightning_rl.envs.procgen_games import GAMES
from lightning_rl.errors import UsageError, UsageParser, did_you_mean
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.exported import PolicyModule
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.simulator import Simulator
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.runs.episodes_file import NAME, EpisodeRow, PlayedEpisode, read_episode, read_rows
from lightning_rl.runs.paths import users_path
from lightning_rl.viewer.access import is_loopback
from lightning_rl.viewer.keys import action_keys
from lightning_rl.viewer.lenses import lens_of
from lightning_rl.viewer.levels import Levels
from lightning_rl.viewer.moments import Recorded
from lightning_rl.viewer.scene import PlayedEpisodes, Scene, Show
from lightning_rl.viewer.serving import DEFAULT_PORT, Viewer
from lightning_rl.viewer.table import Table

_NOTEBOOKS = ("'self'", "http://127.0.0.1:*", "http://localhost:*", "vscode-webview:")
"""Sites whose pages may show this one inside them."""


class Inline:
    """The page of `play` inside a notebook.

    Args:
        viewer: serves it.
        height: of the frame, in pixels.

    Attributes:
        link: opens the page in a window of its own.
    """

    def __init__(self, viewer: Viewer, height: int) -> None:
        self.link = viewer.link
        self._height = height
        self._viewer = viewer
        viewer.start()
        threading.Thread(target=self._end, name="play", daemon=True).start()

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        size = f'width="100%" height="{self._height}"'
        return f'<iframe src="{self.link}" {size} style="border:0" allow="clipboard-write" title="play"></iframe>'

    def close(self) -> None:
        """Ends the game and the server."""
        self._viewer.ended.set()
        self._viewer.close()

    def _end(self) -> None:
        self._viewer.ended.wait()
        self._viewer.close()
        if self._viewer.failure is not None:
            raise self._viewer.failure  # Python prints it below the notebook's cell


def play(checkpoint: str | Path, *, height: int = 900, recordings: str | Path = "recordings") -> Inline:
    """Shows an agent inside a notebook: watch it, take over, play.

    The server runs in threads of this process until a minute after the page was last open. Random states stay as they
    were. What jsonargparse parses in this process afterwards may name only classes that have been imported by then:
    a checkpoint's config.yaml, which may be a stranger's, is read under that rule, and jsonargparse knows no way back.

    Args:
        checkpoint: a checkpoint, a run folder or an exported policy.
        height: of the page, in pixels.
        recordings: folder for recordings.

    Returns:
        What the notebook shows as the page.

    Raises:
        ValueError: the checkpoint cannot be played.
    """
    with _leaving_no_trace():
        try:
            shown = checkpoint_show(["--ckpt_path", str(checkpoint)])
        except UsageError as error:
            raise ValueError(short_message(str(error), [])) from error
    return Inline(Viewer(lambda: Table(shown), recordings=Path(recordings), frames=_NOTEBOOKS), height)


@contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """Gives back what loading a checkpoint as a command does changes for all: random states, seeds of processes."""
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with isolate_rng():
            yield
    finally:
        for name, value in seeds.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def parser() -> argparse.ArgumentParser:
    """The options of `play` beside those of `test`, which say what the checkpoint is."""
    options = UsageParser(
        prog="lightning-rl play",
        allow_abbrev=False,
        description="Shows an agent in the browser: watch it, take over, play.",
        epilog="--ckpt_path names a checkpoint, its run folder or an exported policy; --config and options of `test`"
        " are taken, too. On another machine: ssh -L 8265:127.0.0.1:8265 MACHINE, and open the link here.",
    )
    options.add_argument("--game", metavar="NAME", help="A game of Procgen or Atari, without an agent.")
    options.add_argument("--distribution_mode", metavar="MODE", help="Its difficulty, with --game of Procgen; easy.")
    options.add_argument("--level", type=int, metavar="N", help="The level to begin with.")
    options.add_argument(
        "--horizon",
        type=int,
        metavar="N",
        help="Steps after which the world model begins anew; 0: never, 50 by default.",
    )
    options.add_argument(
        "--temperature", type=float, metavar="T", help="Of what the world model draws; 0: the likeliest."
    )
    options.add_argument("--host", default="127.0.0.1", help="Address to listen on; this machine only by default.")
    options.add_argument("--port", type=int, help=f"Port; {DEFAULT_PORT} or the next free one by default.")
    options.add_argument("--out", default="recordings", metavar="DIR", help="Folder for recordings.")
    options.add_argument("--keep_open", action="store_true", help="Go on when no window has been open for a minute.")
    return options


def main(args: list[str]) -> int:
    """Serves the page until Ctrl-C, SIGTERM, or a minute after its last window was closed.

    Args:
        args: what follows `play` on the command line.

    Returns:
        The exit status.

    Raises:
        UsageError: an option, the checkpoint or the game is wrong.
        ValueError: likewise.
    """
    options, rest = parser().parse_known_args(args)
    allocator.return_freed_memory()
    played = table(options, rest)
    viewer = Viewer(
        lambda: played,
        host=options.host,
        port=options.port,
        recordings=Path(users_path("out", options.out) or ""),
        keep_open=options.keep_open,
    )
    if not is_loopback(options.host):
        say(f"host: {options.host} is reached from other machines, and the traffic is not encrypted")
    with _ended_by_signals(viewer):
        viewer.start()
        try:
            sys.stdout.write(f"{viewer.link}\n")
            sys.stdout.flush()
            viewer.ended.wait()
        finally:
            viewer.close()
    if viewer.failure is not None:
        raise viewer.failure
    return 0


@contextmanager
def _ended_by_signals(viewer: Viewer) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the server."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: viewer.ended.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def table(options: argparse.Namespace, rest: list[str]) -> Table:
    """What the command line asks for.

    Args:
        options: those of `parser`.
        rest: those of `test`.

    Raises:
        UsageError: an option, the checkpoint or the game is wrong.
        ValueError: likewise.
    """
    checkpoint = values(rest, "--ckpt_path")
    if options.game is not None:
        if rest:
            raise UsageError(f"game: --game is played without an agent and takes no {rest[0]}")
        shown = show_of(_data_of(options.game, options.distribution_mode), None)
    elif checkpoint and options.distribution_mode is not None:
        raise UsageError("distribution_mode is one of --game; with a checkpoint give --data.distribution_mode")
    elif checkpoint:
        shown = checkpoint_show(rest)
    else:
        raise UsageError("ckpt_path: play needs a checkpoint, found none; give --ckpt_path FILE, or --game NAME")
    if shown.scenes[0].world_model is None and (options.horizon, options.temperature) != (None, None):
        name = "temperature" if options.horizon is None else "horizon"
        raise UsageError(f"{name} is a world model's, and {shown.title} has none")
    return Table(shown, level=options.level, horizon=options.horizon, temperature=options.temperature)


def checkpoint_show(args: list[str]) -> Show:
    """What there is to see of a checkpoint.

    Args:
        args: options of `test`.

    Raises:
        UsageError: an option or the checkpoint is wrong.
        ValueError: likewise.
    """
    folder = [Path(given) for given in values(args, "--run_dir")[-1:]]
    named = values(args, "--ckpt_path")[-1]
    if not folder and named in ("last", "best"):
        raise UsageError(f"ckpt_path: {named} is that of a run folder; give --run_dir DIR, too")
    if not folder:
        args = [*args, "--run_dir", tempfile.gettempdir()]  # nothing is written there; the run may be read-only
    import_plugins()
    run = load_checkpoint(args)
    checkpoint = run.checkpoint or Path()
    folder.append(checkpoint.parent if run.policy is None else judged_folder(run.policy.identity))
    shown = show_of(run.datamodule, run.model, method=run.method, replay=checkpoint.parent / "replay" / "rank0")
    return replace(shown, episodes=episodes_in(folder, run.datamodule))


def show_of(data: RolloutDataModule, model: RLModule | None, *, method: str = "", replay: Path | None = None) -> Show:
    """What is played, from the games of a data module.

    Args:
        data: builds the games.
        model: the agent; None without one.
        method: that trained it.
        replay: where the real frames are that it has learned from.
    """
    each = [cast(RolloutDataModule, one) for one in data.each_game]
    lens, world_model = lens_of(model), _world_model_of(model)
    scenes = [_scene_of(one, model, method) for one in each]
    real_frames = None if world_model is None else _real_frames(data, replay)
    return Show(scenes=[replace(one, lens=lens, world_model=world_model, real_frames=real_frames) for one in scenes])


def _world_model_of(model: RLModule | None) -> Simulator | None:
    """The world model that an agent has learned; None without one."""
    return model.simulator() if isinstance(model, SimPLeModule | PolicyModule) else None


def _scene_of(data: RolloutDataModule, model: RLModule | None, method: str) -> Scene:
    count, first = data.level_sets.get("train_levels", (0, 0))
    difficulty = f" ({data.distribution_mode})" if data.distribution_mode else ""
    return Scene(
        title=f"{method} on {data.game}{difficulty}" if method else f"{data.game}{difficulty}",
        game=data.game,
        method=method,
        make_game=partial(_game_of, data),
        actions=action_keys(data.action_meanings, data.num_actions),
        levels=Levels(count, first),
        policy=None if model is None else model.eval(),
        greedy=model is not None and model.greedy,
    )


def _game_of(data: RolloutDataModule, level: int) -> ResumableVectorEnv:
    """One game of one level; where the data module knows no levels, its seed makes the difference."""
    return data.games(1, data.one_level(level), level)


def _real_frames(
    data: RolloutDataModule, folder: Path | None
) -> Callable[[torch.Generator], UInt8[torch.Tensor, "1 H W D"]] | None:
    """Draws from a run's real frames; None where they are gone or damaged, which is told."""
    if folder is None or not folder.is_dir():
        return None
    buffer = ReplayBuffer(folder, game=data.game, num_frames=data.frame_stack)
    try:
        buffer.read_all()
    except ValueError as error:
        say(f"the world model does not begin at real frames: {error}")
        return None
    return buffer.stack


def episodes_in(folders: Sequence[Path], data: RolloutDataModule) -> PlayedEpisodes | None:
    """The episodes that `test` has left in the first folder that has some; None where they cannot be shown."""
    path = next((found for folder in folders if (found := folder / NAME).is_file()), None)
    if path is None:
        return None
    try:
        rows = [row._replace(game=data.game_named(row.game)) for row in read_rows(path)]
        rows = [row for row in rows if row.game in data.game_names]
        games = _games_of(read_episode(path, rows[0].number)) if rows else data
    except (ValueError, TypeError, UsageError) as error:
        say(f"the episodes of test are not shown: {error}")
        return None
    if not rows or (games.num_actions, games.obs_shape) != (data.num_actions, data.obs_shape):
        say(f"the episodes of test are not shown: {path} is of other games")
        return None
    return PlayedEpisodes(rows=rows, read=partial(_recorded, path, {row.number: row for row in rows}))


def _recorded(path: Path, rows: Mapping[int, EpisodeRow], number: int) -> Recorded:
    episode = read_episode(path, number)
    listed = rows.get(number)
    found = (episode.level_seed, episode.episode_return, episode.length)
    if listed is None or found != (listed.level_seed, listed.episode_return, listed.length):
        raise ValueError(f"number must be a row that is listed here, found {number} of {path}, which was written anew")
    games = _games_of(episode)
    return Recorded(
        number=number,
        game=games.game,
        level=episode.level_seed,
        episode_return=episode.episode_return,
        actions=episode.actions.tolist(),
        open=partial(games.open_episode, episode),
    )


def _games_of(episode: PlayedEpisode) -> Any:
    """The data module of a recorded episode.

    Raises:
        UsageError: its episodes cannot be played again.
    """
    games = data_class(episode.class_path)
    data = games(**episode.init_args)
    if not isinstance(data, ReplaysEpisodes):
        raise UsageError(f"{games.__name__} has no open_episode")
    return data


def _data_of(game: str, mode: str | None) -> RolloutDataModule:
    options: dict[str, Any] = {"game": game, "seed": 1}
    if game in GAMES:
        distribution_mode = "easy" if mode is None else mode
        if distribution_mode == "exploration":  # which is one fixed level
            options["num_levels"] = 0
        return ProcgenDataModule(**options, distribution_mode=distribution_mode)
    try:
        data = AtariDataModule(**options, frame_stack=1)
    except ValueError as error:
        hint = did_you_mean(game, (*GAMES, *atari_games.GAMES))
        raise UsageError(f"game must be one of Procgen's or of Atari's, found {game!r}; {hint}") from error
    if mode is not None:
        raise UsageError(f"distribution_mode must not be given for Atari, which has none, found {mode}")
    return data
