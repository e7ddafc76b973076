"""Which keys of a keyboard stand for which action."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ARROWS = {"left": "ArrowLeft", "right": "ArrowRight", "up": "ArrowUp", "down": "ArrowDown"}
_FIRE = "Space"
_WORDS = re.compile(r"(?:left|right|up|down|fire|noop|none|\+)*")
_WORD = re.compile(r"left|right|up|down|fire")
_SPARE = "1234567890QWERTYUIOPASDFGHJKLZXCVBNM"


@dataclass(frozen=True)
class ActionKeys:
    """An action, and the keys that are held for it at once.

    Args:
        name: of the action, as the game calls it.
        keys: `code`s of browsers' keyboard events; empty for the action that does nothing.
    """

    name: str
    keys: tuple[str, ...]


def action_keys(meanings: Sequence[str], num_actions: int) -> list[ActionKeys]:
    """The keys of each action: arrows, the space bar and letters where the names say so, else digits and letters.

    Args:
        meanings: names of the actions, as `left+up`, `upfire` or `D`; empty where the games have none.
        num_actions: their number.
    """
    names = [*meanings] or [f"action {number}" for number in range(num_actions)]
    known = [_named(name) for name in names]
    taken = {key for keys in known if keys is not None for key in keys}
    spare = (code for code in map(_code, _SPARE) if code not in taken)
    return [
        ActionKeys(name, (next(spare, "Unidentified"),) if keys is None else keys)
        for name, keys in zip(names, known, strict=True)
    ]


def idle_action(actions: Sequence[ActionKeys]) -> int:
    """The action that is taken while no key is held; the first one where none does nothing."""
    return next((number for number, action in enumerate(actions) if not action.keys), 0)


def _code(key: str) -> str:
    return f"Digit{key}" if key.isdigit() else f"Key{key.upper()}"


def _named(name: str) -> tuple[str, ...] | None:
    lower = name.lower()
    if _WORDS.fullmatch(lower):
        return tuple(_FIRE if word == "fire" else _ARROWS[word] for word in _WORD.findall(lower))
    return (_code(name),) if re.fullmatch(r"[A-Za-z0-9]", name) else None
