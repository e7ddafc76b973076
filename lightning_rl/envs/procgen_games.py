"""What is known of Procgen's games without playing them: their names, modes, rewards and published returns."""

from lightning_rl.errors import did_you_mean

ACTION_MEANINGS = (
    *("left+down", "left", "left+up", "down", "none", "up", "right+down", "right", "right+up"),
    *("D", "A", "W", "S", "Q", "E"),
)
"""What each action presses: openai/procgen, procgen/env.py, `get_combos`."""


NUM_ACTIONS = len(ACTION_MEANINGS)


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
    **dict.fromkeys(
        ("bigfish", "bossfight", "climber", "plunder"), (0.0, 1.0, 11.0)
    ),  # the last one completes the level
    "caveflyer": (0.0, 3.0, 10.0),
    "chaser": (0.0, 0.04, 10.04),  # so does the last orb
    "dodgeball": (0.0, 2.0, 10.0),
    "fruitbot": (-4.0, 0.0, 1.0, 10.0),
    "miner": (0.0, 1.0, 10.0),
    "starpilot": (0.0, 1.0, 2.0, 3.0, 10.0),  # several ships at once
}
"""Rewards of one step, by game; a step that brings two of them at once is rare, and counts as the nearest.

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
        game: one of `GAMES`.
        distribution_mode: only `easy` and `hard` have published ranges.
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
        game: one of `GAMES`.
        num_envs: number of games played side by side.
        distribution_mode: one of `DISTRIBUTION_MODES[game]`.
        num_levels: number of levels, 0 for all.
        start_level: the first level.
        seed: which levels come in which order.
        num_threads: threads that play the games.

    Raises:
        ValueError: a value that this game does not have; the message names the option, the value and what is allowed.
    """
    if game not in GAMES:
        raise ValueError(f"game must be one of Procgen's, found {game!r}; {did_you_mean(game, GAMES)}")
    if distribution_mode not in DISTRIBUTION_MODES[game]:
        modes = ", ".join(DISTRIBUTION_MODES[game])
        raise ValueError(f"distribution_mode of {game} must be one of {modes}, found {distribution_mode!r}")
    _check_integer("num_envs", num_envs, low=1)
    _check_integer("num_levels", num_levels)
    _check_integer("start_level", start_level)
    _check_integer("seed", seed)
    _check_integer("num_threads", num_threads, high=_MAX_THREADS)
    if start_level + num_levels > MAX_SEED:
        raise ValueError(
            f"start_level + num_levels must be at most {MAX_SEED}, found {start_level} + {num_levels}"
            f" = {start_level + num_levels}"
        )
    if distribution_mode == "exploration" and (num_levels, start_level) != (0, 0):
        raise ValueError(
            "distribution_mode exploration plays one fixed level, so num_levels and start_level must be 0,"
            f" found {num_levels} and {start_level}"
        )


def _check_integer(key: str, value: int, low: int = 0, high: int = MAX_SEED) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} must be an integer from {low} to {high}, found {value!r}")
