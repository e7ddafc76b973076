"""The bytes in which Procgen saves its games: packed into tensors, and checked before Procgen reads them again.

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


def unpacked(state: State, *, like: list[bytes]) -> list[bytes]:
    """The bytes of the games in `state`.

    Args:
        state: Holds what `packed` returned.
        like: The games that are to continue from there: as many, of the same game, options and levels.

    Returns:
        The bytes of each game, which Procgen will accept.

    Raises:
        ValueError: Other games than `like`, or damaged ones.
    """
    games, checksums = state["games"], state["crc32"]
    if not len(games) == len(checksums) == len(like):
        raise ValueError(
            f"the state must hold {len(like)} games with a checksum each, not {len(games)} games and {len(checksums)}"
            " checksums; continue from another state"
        )
    saved = [game.cpu().numpy().tobytes() for game in games]
    for index, (game, checksum, here) in enumerate(zip(saved, checksums, like, strict=True)):
        _check_game(index, game, checksum)
        _check_header(index, Header.of(game), Header.of(here))
    return saved


def _check_game(index: int, saved: bytes, checksum: int) -> None:
    if zlib.crc32(saved) != checksum or not saved.endswith(_END):
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
