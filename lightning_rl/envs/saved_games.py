"""The bytes in which games are saved: packed into tensors, and checked before the games read them again.

Procgen ends the process over bytes that it cannot read, so everything that it would object to is found here first.
"""

import struct
import zlib
from typing import NamedTuple

import torch

from lightning_rl.types import State

KEYS = ("games", "crc32")
"""What `packed` adds to a state."""

_END = struct.pack("<I", 0xCAFECAFE)  # openai/procgen, src/vecgame.cpp, `END_OF_BUFFER`


class Header(NamedTuple):
    """How the bytes of a game begin: format version, name, options, range of levels.

    Reference:
        openai/procgen, src/game.cpp, `Game::serialize`; src/buffer.h for integers and strings
    """

    version: int
    game: str
    paint_vel_info: int
    use_generated_assets: int
    use_monochrome_assets: int
    restrict_themes: int
    use_backgrounds: int
    center_agent: int
    distribution_mode: int
    use_sequential_levels: int
    first_level: int
    end_level: int

    @classmethod
    def of(cls, saved: bytes) -> "Header":
        """The header of one game.

        Args:
            saved: The bytes of the game.

        Returns:
            The fields that the options of the environment decide.

        Raises:
            ValueError: Procgen did not write these bytes.
        """
        try:
            version, length = struct.unpack_from("<2i", saved)
            name = saved[8 : 8 + length].decode("ascii")
            ints = struct.unpack_from("<15i", saved, 8 + length)
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"Procgen did not write these {len(saved)} bytes; continue from another state") from error
        # passed over: debug_mode, use_easy_jump, plain_assets, physics_mode, which nothing here sets, and grid_step
        return cls(version, name, *ints[:6], *ints[7:9], *ints[13:15])


def packed(saved: list[bytes]) -> State:
    """The games as tensors, each with its checksum.

    Args:
        saved: The bytes of each game.

    Returns:
        `games` and `crc32`.
    """
    games = [torch.frombuffer(bytearray(game), dtype=torch.uint8) for game in saved]
    return {"games": games, "crc32": [zlib.crc32(game) for game in saved]}


def check_identity(state: State, identity: State, keys: set[str], *, owner: str) -> None:
    """Refuses what another kind of environment saved, or one with other options.

    Args:
        state: What may have been saved by `owner`.
        identity: The options that `owner` was built with, which its states hold too.
        keys: What its states hold beside them.
        owner: The class of the environment.

    Raises:
        ValueError: Names what differs.
    """
    expected = {*identity, *keys}
    if set(state) != expected:
        raise ValueError(
            f"a state of {owner} has {', '.join(sorted(expected))}; this one differs in"
            f" {', '.join(sorted(expected ^ set(state)))}"
        )
    for key, here in identity.items():
        if state[key] != here:
            raise ValueError(
                f"the state was saved with {key} {state[key]!r} and this environment has {here!r}; only an"
                f" environment with {key} {state[key]!r} can continue it"
            )


def intact(state: State, *, number: int) -> list[bytes]:
    """The bytes of the games in `state`, as they were packed.

    Args:
        state: Holds what `packed` returned.
        number: How many games there must be.

    Raises:
        ValueError: There are more or fewer, or they are damaged.
    """
    games, checksums = state["games"], state["crc32"]
    if not len(games) == len(checksums) == number:
        raise ValueError(
            f"the state must hold {number} games with a checksum each, not {len(games)} games and {len(checksums)}"
            " checksums; continue from another state"
        )
    saved = [game.cpu().numpy().tobytes() for game in games]
    for index, (game, checksum) in enumerate(zip(saved, checksums, strict=True)):
        _require_undamaged(index, game, checksum, zlib.crc32(game) == checksum)
    return saved


def unpacked(state: State, *, like: list[bytes]) -> list[bytes]:
    """The bytes of Procgen's games in `state`.

    Args:
        state: Holds what `packed` returned.
        like: The games that are to continue from there: as many, of the same game, options and levels.

    Returns:
        The bytes of each game, which Procgen will accept.

    Raises:
        ValueError: Other games than `like`, or damaged ones.
    """
    saved = intact(state, number=len(like))
    for index, (game, checksum, here) in enumerate(zip(saved, state["crc32"], like, strict=True)):
        _require_undamaged(index, game, checksum, game.endswith(_END))
        _check_header(index, Header.of(game), Header.of(here))
    return saved


def _require_undamaged(index: int, saved: bytes, checksum: int, undamaged: bool) -> None:
    if not undamaged:
        raise ValueError(
            f"game {index} of the state is damaged: its {len(saved)} bytes do not match the checksum {checksum} saved"
            " with them; continue from another state"
        )


def _check_header(index: int, found: Header, expected: Header) -> None:
    for key, there, here in zip(Header._fields, found, expected, strict=True):
        if there != here:
            raise ValueError(
                f"game {index} of the state holds the bytes of {key} {there!r} where this environment plays {key}"
                f" {here!r}; continue from another state"
            )
