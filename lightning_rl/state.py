"""What saved data must look like before anything is made of it: nested containers, compared with types by key."""

from types import NoneType, UnionType
from typing import Any, get_args

from torch import Tensor

Schema = Any
"""What a value must be.

A type, or a union of types: a value of exactly one of them; an `int` from 0 on, below 2⁶³. A tensor: one of its shape
and kind of numbers. A dict: one with all of its keys, and maybe others; with a type for its only key, one that has
only such keys. A list of one: a list of any length. A tuple: a list or a tuple of its length. None: anything.
"""

_INT64 = 2**63
_ARTICLES = {int: "an int from 0 on", NoneType: "None"}


def like(example: Any) -> Schema:
    """The schema of what differs from `example` by numbers and strings only."""
    match example:
        case dict():
            return {key: like(value) for key, value in example.items()}
        case list() | tuple():
            return tuple(like(value) for value in example)
        case None | Tensor():
            return example
    return int | float if type(example) is float else type(example)


def mismatch(value: Any, schema: Schema, key: str = "") -> str | None:
    """Where `value` is not what the schema says, by its key in the outermost container; None where it is."""
    if schema is None or _fits(value, schema):
        return next((found for part in _parts(value, schema, key) if (found := mismatch(*part)) is not None), None)
    return f"{key or 'it'} must be {_named(schema)}, found {_shown(value)}"


def validate_state(value: Any, schema: Schema, key: str = "") -> None:
    """Refuses what the schema does not allow; `key` is the value's own.

    Raises:
        ValueError: names the key, what it must be, and what was found.
    """
    if (wrong := mismatch(value, schema, key)) is not None:
        raise ValueError(wrong)


def _alike(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype or (first.is_floating_point() and second.is_floating_point())


def _fits(value: Any, schema: Schema) -> bool:
    match schema:
        case dict():
            return isinstance(value, dict)
        case list():
            return isinstance(value, list)
        case tuple():
            return isinstance(value, list | tuple) and len(value) == len(schema)
        case Tensor():
            return isinstance(value, Tensor) and value.shape == schema.shape and _alike(value, schema)
    if schema is Tensor:
        return isinstance(value, Tensor)
    types = get_args(schema) if isinstance(schema, UnionType) else (schema,)
    return type(value) in types and (type(value) is not int or 0 <= value < _INT64)


def _parts(value: Any, schema: Schema, key: str) -> list[tuple[Any, Schema, str]]:
    """What the value holds, what that must be, and its key."""
    match schema:
        case dict() if len(schema) == 1 and isinstance(only := next(iter(schema)), type):
            inner = schema[only]
            names = [(name, only, f"the key {name} of {key or 'it'}") for name in value if type(name) is not only]
            return names or [(item, inner, f"{key}.{name}".lstrip(".")) for name, item in value.items()]
        case dict():
            return [(value.get(name, _MISSING), inner, f"{key}.{name}".lstrip(".")) for name, inner in schema.items()]
        case list():
            return [(item, schema[0], f"{key}.{index}".lstrip(".")) for index, item in enumerate(value)]
        case tuple():
            pairs = enumerate(zip(value, schema, strict=True))
            return [(item, inner, f"{key}.{index}".lstrip(".")) for index, (item, inner) in pairs]
    return []


class _Missing:
    """Stands where a key is not there."""


_MISSING = _Missing()


def _named(schema: Schema) -> str:
    match schema:
        case tuple():
            return f"a list of {len(schema)}"
        case dict() | list():
            return f"a {type(schema).__name__}"
        case Tensor():
            return f"a {schema.dtype} tensor of shape {tuple(schema.shape)}"
    types = get_args(schema) if isinstance(schema, UnionType) else (schema,)
    return " or ".join(_ARTICLES.get(one, f"a {one.__name__}") for one in types)


def _shown(value: Any) -> str:
    match value:
        case _Missing():
            return "none"
        case Tensor():
            return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
        case bool() | int() | float():
            return f"{value:.3g}" if isinstance(value, int) and abs(value) >= _INT64 else str(value)
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple) else "")
