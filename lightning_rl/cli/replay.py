"""`predict --replay`: plays an episode of `test` again, exactly, and writes its video."""

import argparse
import math
import sys
from pathlib import Path

from lightning_rl.cli.registry import data_class
from lightning_rl.data.episode_replay import ReplaysEpisodes, replay
from lightning_rl.errors import UsageError, UsageParser
from lightning_rl.media.recorder import EpisodeRecorder
from lightning_rl.runs.episodes_file import NAME, read_episode
from lightning_rl.runs.paths import users_path

OPTIONS = {
    "--replay": f"A run's {NAME}: plays one of test's episodes again, and writes its video.",
    "--episode": "Row of the file that --replay names, from 0. 0 by default.",
}


def parser() -> argparse.ArgumentParser:
    """The options of `predict --replay`."""
    options = UsageParser(
        prog="lightning-rl predict", allow_abbrev=False, description="Plays an episode of test again, exactly."
    )
    options.add_argument("--replay", required=True, metavar="FILE", help=OPTIONS["--replay"])
    options.add_argument("--episode", type=int, default=0, metavar="N", help=OPTIONS["--episode"])
    options.add_argument("--run_dir", metavar="DIR", help="Folder for the video; that of the file by default.")
    return options


def is_asked_for(args: list[str]) -> bool:
    """Whether a command line is about an episode that was played."""
    return args[:1] == ["predict"] and any(arg.partition("=")[0] in OPTIONS for arg in args)


def main(args: list[str]) -> int:
    """Plays the episode, writes `media/episode_N.mp4` and prints what was played.

    Args:
        args: the command line without the program's name.

    Returns:
        The exit status: 1 where another episode came out than was recorded.

    Raises:
        UsageError: an option or the file is wrong.
    """
    options = parser().parse_args(args[1:])
    file = Path(users_path("replay", options.replay) or "")
    file = file / NAME if file.is_dir() else file
    folder = Path(users_path("run_dir", options.run_dir) or file.parent)
    try:
        episode = read_episode(file, options.episode)
    except ValueError as error:
        raise UsageError(f"{'episode' if str(error).startswith('must') else 'replay:'} {error}") from error
    games = data_class(episode.class_path)
    try:
        data = games(**episode.init_args)
    except (TypeError, AttributeError, ValueError) as error:  # whatever a value of another kind leads to
        raise UsageError(f"replay: {file} has options that {games.__name__} does not take: {error}") from error
    if not isinstance(data, ReplaysEpisodes):
        raise UsageError(f"replay: episodes of {games.__name__} cannot be played again, it has no open_episode")
    recorder = EpisodeRecorder(max_steps=math.inf)
    try:
        played = replay(data, episode, watcher=recorder)
    except ValueError as error:
        raise UsageError(f"replay: row {episode.number} of {file} cannot be played: {error}") from error
    video = folder / "media" / f"episode_{episode.number}.mp4"
    recorder.write(video)
    level = "" if episode.level_seed is None else f", level {episode.level_seed}"
    sys.stdout.write(
        f"episode {episode.number} of {episode.level_set}{level}: return {played.episode_return:g}, {played.length}"
        f" env steps\nvideo   {video}\n"
    )
    if (played.episode_return, played.length) == (episode.episode_return, episode.length) and played.is_over:
        return 0
    then = "" if played.is_over else ", and then goes on"
    sys.stderr.write(
        f"lightning-rl: another episode was recorded, of return {episode.episode_return:g} in {episode.length} env"
        f" steps; here it has return {played.episode_return:g} in {played.length}{then}. The games have changed\n"
    )
    return 1
