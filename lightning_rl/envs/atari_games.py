"""What is known of Atari's games without playing them: their names and published returns."""

from ale_py import roms

from lightning_rl.errors import did_you_mean

MAX_SEED = 2**31 - 1


RANDOM_AND_HUMAN_RETURNS: dict[str, tuple[float, float]] = {
    "alien": (227.8, 7127.7),
    "amidar": (5.8, 1719.5),
    "assault": (222.4, 742.0),
    "asterix": (210.0, 8503.3),
    "bank_heist": (14.2, 753.1),
    "battle_zone": (2360.0, 37187.5),
    "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5),
    "chopper_command": (811.0, 7387.8),
    "crazy_climber": (10780.5, 35829.4),
    "demon_attack": (152.1, 1971.0),
    "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7),
    "gopher": (257.6, 2412.5),
    "hero": (1027.0, 30826.4),
    "jamesbond": (29.0, 302.8),
    "kangaroo": (52.0, 3035.0),
    "krull": (1598.0, 2665.5),
    "kung_fu_master": (258.5, 22736.3),
    "ms_pacman": (307.3, 6951.6),
    "pong": (-20.7, 14.6),
    "private_eye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "road_runner": (11.5, 7845.0),
    "seaquest": (68.4, 42054.7),
    "up_n_down": (533.4, 11693.2),
}
"""Mean returns of random play and of a human tester in the 26 games of Kaiser et al. 2020: eloialonso/iris, results."""


_NEED_TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}  # the emulator ends the process over these


GAMES = tuple(sorted(set(roms.get_all_rom_ids()) - _NEED_TWO_PLAYERS))


def human_normalized(game: str, value: float) -> float | None:
    """A return on the scale where random play has 0 and a human tester 1.

        (R − R_random) / (R_human − R_random)

    Args:
        game: one of `GAMES`.
        value: R, in env units.

    Returns:
        The normalized return, or None for all but the 26 games of `RANDOM_AND_HUMAN_RETURNS`.

    Reference:
        Mnih et al. 2015, Human-level control through deep reinforcement learning, table 2
    """
    if game not in RANDOM_AND_HUMAN_RETURNS:
        return None
    low, high = RANDOM_AND_HUMAN_RETURNS[game]
    return (value - low) / (high - low)


def canonical_game(name: str) -> str:
    """The game's name in `GAMES`; papers write `MsPacman` for `ms_pacman`.

    Raises:
        ValueError: there is no such game; the message names similar ones, or all.
    """
    names = {game.replace("_", ""): game for game in GAMES}
    plain = name.replace("_", "").lower()
    if plain not in names:
        raise ValueError(f"game must be an Atari game, found {name!r}; {did_you_mean(name.lower(), GAMES)}")
    return names[plain]


def check_options(
    game: str, *, num_envs: int = 1, max_no_ops: int = 8, max_episode_steps: int = 27_000, seed: int = 0
) -> None:
    """Refuses options that no game has, before anything is built.

    Args:
        game: one of `GAMES`, or as papers write it.
        num_envs: number of games played side by side.
        max_no_ops: bound on the env steps without action that open an episode.
        max_episode_steps: time limit.
        seed: of the games.

    Raises:
        ValueError: a value that is not allowed; the message names the option, the value and what is allowed.
    """
    canonical_game(game)
    _check_integer("num_envs", num_envs, low=1)
    _check_integer("max_no_ops", max_no_ops)
    _check_integer("max_episode_steps", max_episode_steps, low=1)
    _check_integer("seed", seed)


def _check_integer(key: str, value: int, low: int = 0) -> None:
    if type(value) is not int or not low <= value <= MAX_SEED:
        raise ValueError(f"{key} must be an integer from {low} to {MAX_SEED}, found {value!r}")
