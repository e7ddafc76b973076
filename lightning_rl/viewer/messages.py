"""What the page and the server say to each other: commands as checked JSON, frames as binary messages."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.state import validate_state

MAX_MESSAGE_BYTES = 65_536
_MAX_ACTIONS = 40_000

Command = dict[str, Any]
"""A message of the page: `do` says what, the rest with what."""

_COMMANDS: dict[str, dict[str, Any]] = {
    "hello": {"window": str},
    "who": {"player": str},
    "greedy": {"value": bool},
    "hold": {"action": int},
    "pause": {"value": bool},
    "step": {},
    "speed": {"value": int | float},
    "restart": {},
    "seek": {"at": int},
    "level": {"number": int},
    "beside": {"to": str},
    "set": {"levels": str},
    "at_end": {"value": str},
    "game": {"value": str},
    "grid": {"number": int},
    "choose": {"number": int},
    "episodes": {},
    "episode": {"number": int},
    "replay": {"game": str, "level": int, "actions": str},
    "replay_episode": {"number": int, "actions": str},
    "link": {},
    "trace": {},
    "record": {"value": bool},
    "where": {"value": str},
    "real_frame": {},
    "horizon": {"value": int},
    "temperature": {"value": str},  # a number as text; empty for none
    "latent": {"dimension": int, "value": str},  # a number as text: it may be negative
}
_CHOICES = {
    ("who", "player"): ("agent", "person", "random"),
    ("set", "levels"): ("training", "unseen"),
    ("where", "value"): ("game", "both", "model"),
    ("at_end", "value"): ("next", "same"),
    ("grid", "number"): (1, 4, 9, 16),
    ("beside", "to"): ("next", "previous"),
    ("speed", "value"): (0, 0.25, 0.5, 1, 2, 4),  # 0: as fast as it goes
}


def parsed(text: str) -> Command:
    """The command that a page has sent.

    Raises:
        ValueError: it is none; says why in one line.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError("a message must be a JSON object, found none") from error
    name = value.get("do") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _COMMANDS:
        raise ValueError(f"do must be one of {', '.join(_COMMANDS)}, found {name!r:.40}")
    expected = _COMMANDS[name]
    if surplus := value.keys() - expected.keys() - {"do"}:
        raise ValueError(f"{name} must have {', '.join(expected) or 'nothing else'}, found {min(surplus)!r:.40}")
    validate_state(value, expected, name)
    for (command, key), allowed in _CHOICES.items():
        if command == name and value[key] not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(map(str, allowed))}, found {value[key]!r:.40}")
    return dict(value)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def encoded_actions(actions: Sequence[int]) -> str:
    """Actions as text that may stand in a link: a byte each, in base64."""
    return base64.urlsafe_b64encode(bytes(actions)).decode().rstrip("=")


def decoded_actions(text: str) -> list[int]:
    """The actions of `encoded_actions`.

    Raises:
        ValueError: the text was not made by it.
    """
    try:
        found = list(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError("actions must be those of a copied link, found another text") from error
    if len(found) > _MAX_ACTIONS:
        raise ValueError(f"actions must be at most {_MAX_ACTIONS}, found {len(found)}")
    return found


def message(header: Mapping[str, Any], images: Sequence[UInt8[NDArray[Any], "_ _ 3"]] = ()) -> bytes:
    """A binary message: length of the header as four bytes, the header as JSON, then the images' bytes.

    The header says the images' sizes, `[height, width]` each, under `images`.
    """
    sizes = [list(image.shape[:2]) for image in images]
    text = json.dumps({**header, "images": sizes}, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *(np.ascontiguousarray(image).tobytes() for image in images)])
