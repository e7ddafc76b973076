"""The bytes in which games are saved, and what is checked before the games read them again.

Procgen ends the process over bytes that it cannot read, so everything that it would object to is found here first.
"""

import struct
import zlib
from dataclasses import dataclass, fields
from typing import Annotated, NamedTuple, TypeVar

from lightning_rl.state import from_plain
from lightning_rl.types import State

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
            saved: the bytes of the game.

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


@dataclass(frozen=True, kw_only=True)
class SavedGames:
    """What each of several games has saved, beside the options that they were built with."""

    games: Annotated[list[bytes], "B"]
    crc32: Annotated[list[int], "B"]

    def intact(self) -> list[bytes]:
        """The bytes of the games, which are as they were saved.

        Raises:
            ValueError: a game is damaged.
        """
        for index, (game, checksum) in enumerate(zip(self.games, self.crc32, strict=True)):
            _require_undamaged(index, game, checksum, zlib.crc32(game) == checksum)
        return self.games


Saved = TypeVar("Saved", bound=SavedGames)


def checksums(games: list[bytes]) -> list[int]:
    """What `SavedGames.crc32` holds for the bytes of these games."""
    return [zlib.crc32(game) for game in games]


def own_part(declared: type[Saved], state: State, identity: State, *, owner: str, **sizes: int) -> Saved:
    """What an environment's state holds beside the options that the environment was built with.

    Args:
        declared: what that is.
        state: what may have been saved by `owner`.
        identity: the options that `owner` was built with, which its states hold too.
        owner: the class of the environment.
        sizes: those in the shapes of `declared`.

    Raises:
        ValueError: `state` is of another kind of environment or of one with other options; names what differs.
    """
    expected = {*identity, *(field.name for field in fields(declared))}
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
    return from_plain(declared, state, owner, **sizes)


def checked(saved: SavedGames, *, like: list[bytes]) -> list[bytes]:
    """The bytes of Procgen's games, which Procgen will accept.

    Args:
        saved: what was saved.
        like: the bytes of the games that are to continue from there: of the same game, options and levels.

    Raises:
        ValueError: `saved` holds other games than `like`, or damaged ones.
    """
    games = saved.intact()
    for index, (game, checksum, here) in enumerate(zip(games, saved.crc32, like, strict=True)):
        _require_undamaged(index, game, checksum, game.endswith(_END))
        _check_header(index, Header.of(game), Header.of(here))
    return games


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
