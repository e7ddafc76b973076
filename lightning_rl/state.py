"""Saved state, declared once: a dataclass says what its owner saves, and saving, checking and loading derive from it.

`to_plain` makes of a state what a checkpoint holds: tensors, numbers, strings, and lists and dicts of them.
`from_plain` refuses what is not as declared and makes a state of the rest. Both copy every array.

    declared                                       saved as
    int                                            itself; from 0 to 2⁶³ − 1
    float, str, bool, None                         itself
    Float32[Tensor, "B 3"], Int64[NDArray, "E"]    a tensor of this type and shape
    bytes                                          a uint8 tensor
    torch.Generator                                its state
    list[A], Annotated[list[A], "B"]               a list, of length B
    tuple[A, C], a NamedTuple                      a list of these
    dict[A, C]                                     a dict
    a dataclass                                    a dict of its fields; None is left out where it is the default
    A | C                                          one of them
    Tensor, dict, Any                              itself, whatever it holds

A name in a shape or of a length, as B and E are, stands for one size throughout a state. What types cannot say, a
dataclass refuses in its `__post_init__`, with a ValueError that begins with the name of the field.
"""

from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import jaxtyping
import numpy as np
import torch
from torch import Tensor

Declared = Any
"""What a value must be: a type of the table above, or what it holds.

A dict stands for one that has these keys, and maybe others, a tuple for a list of these.
"""

Sizes = dict[str, int]
T = TypeVar("T")


def to_plain(state: Any) -> dict[str, Any]:
    """What a checkpoint holds of a state."""
    items = ((field, getattr(state, field.name)) for field in fields(state))
    return {field.name: _plain(item) for field, item in items if item is not None or field.default is not None}


def from_plain(declared: type[T], value: Any, key: str, **sizes: int) -> T:
    """The state that a checkpoint holds.

    Args:
        declared: the dataclass of the state.
        value: what the checkpoint holds; keys that no field has are ignored.
        key: its place there, or its owner, for messages.
        sizes: those that are known before, by their names in shapes.

    Raises:
        ValueError: something is not as declared; names its key, what it must be, and what was found.
    """
    return cast(T, _restored(value, declared, key, sizes))


def validate_state(value: Any, declared: Declared, key: str = "") -> None:
    """Refuses what is not as declared.

    Raises:
        ValueError: names the key, what it must be, and what was found.
    """
    _restored(value, declared, key, {})


def like(example: Any) -> Declared:
    """What differs from `example` by numbers and strings only; all floating-point types are alike."""
    match example:
        case dict():
            return {key: like(value) for key, value in example.items()}
        case list() | tuple():
            return tuple(like(value) for value in example)
        case Tensor():
            exact = {torch.int64: jaxtyping.Int64, torch.uint8: jaxtyping.UInt8, torch.bool: jaxtyping.Bool}
            kind = jaxtyping.Float if example.is_floating_point() else exact.get(example.dtype, jaxtyping.Shaped)
            return kind[Tensor, " ".join(map(str, example.shape))]
    return int | float if type(example) is float else type(example)


def _plain(value: Any) -> Any:
    match value:
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in value.items()}
    return to_plain(value) if is_dataclass(value) else _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    match value:
        case Tensor():
            return value.clone()
        case np.ndarray():
            return torch.from_numpy(value.copy())
        case bytes():
            return torch.frombuffer(bytearray(value), dtype=torch.uint8)
        case torch.Generator():
            return value.get_state()
    return value


def _restored(value: Any, declared: Declared, key: str, sizes: Sizes) -> Any:
    """What was saved as `value`; `sizes` takes those that are found."""
    options = get_args(declared) if _origin(declared) in (UnionType, Union) else (declared,)
    for option in options:
        restored = _as(option, value, key, sizes)
        if restored is not MISSING:
            return restored
    allowed = " or ".join(_named(option, sizes) for option in options)
    raise ValueError(f"{key or 'it'} must be {allowed}, found {_shown(value)}")


def _as(declared: Declared, value: Any, key: str, sizes: Sizes) -> Any:
    """What was saved as `value`, or MISSING where it is not of the declared kind."""
    if declared in (Any, dict, Tensor):
        return value if declared is Any or isinstance(value, declared) else MISSING
    match value:
        case dict():
            return _from_dict(value, declared, key, sizes)
        case list() | tuple():
            return _from_list(value, declared, key, sizes)
        case Tensor():
            return _from_tensor(value, declared, sizes)
    return value if type(value) is declared and (declared is not int or 0 <= value < 2**63) else MISSING


def _from_dict(value: dict[Any, Any], declared: Declared, key: str, sizes: Sizes) -> Any:
    if is_dataclass(declared):
        known = {field.name: field for field in fields(declared)}
        items = {name: field.default for name, field in known.items()} | value
        parts = _parts(items, {name: field.type for name, field in known.items()}, key, sizes)
        try:
            return cast(Any, declared)(**parts)
        except ValueError as error:
            raise ValueError(f"{key}.{error}") from error
    if isinstance(declared, dict):
        return _parts(value, declared, key, sizes)
    if _origin(declared) is not dict:
        return MISSING
    name_type, item_type = get_args(declared)
    for name in value:
        validate_state(name, name_type, f"the key {name} of {key}")
    return _parts(value, dict.fromkeys(value, item_type), key, sizes)


def _origin(declared: Declared) -> Any:
    return get_origin(declared) or declared


def _from_list(value: list[Any] | tuple[Any, ...], declared: Declared, key: str, sizes: Sizes) -> Any:
    items = _items(declared, len(value), sizes)
    if items is None or len(items) != len(value):
        return MISSING
    parts = _parts(dict(enumerate(value)), dict(enumerate(items)), key, sizes).values()
    if hasattr(declared, "_fields"):
        return declared(*parts)
    return tuple(parts) if _origin(declared) is tuple else list(parts)


def _items(declared: Declared, length: int, sizes: Sizes) -> tuple[Declared, ...] | None:
    """What the items of a list of some length must be; None where it is to be no list."""
    if isinstance(declared, tuple):
        return declared
    if hasattr(declared, "_fields"):  # a NamedTuple
        return tuple(declared.__annotations__.values())
    if _origin(declared) is Annotated:
        inner, name = get_args(declared)
        return _items(inner, sizes.setdefault(name, length), sizes)
    if _origin(declared) is list:
        return get_args(declared) * length
    return get_args(declared) if _origin(declared) is tuple else None


def _parts(items: dict[Any, Any], declared: dict[Any, Declared], key: str, sizes: Sizes) -> dict[Any, Any]:
    prefix = f"{key}." if key else ""
    return {name: _restored(items.get(name, MISSING), d, f"{prefix}{name}", sizes) for name, d in declared.items()}


def _from_tensor(value: Tensor, declared: Declared, sizes: Sizes) -> Any:
    saved_as = _tensor_type(declared, sizes)
    if saved_as is None or not isinstance(value, saved_as):
        return MISSING
    saved = value.cpu()
    if declared is bytes:
        return saved.numpy().tobytes()
    if declared is torch.Generator:
        return _generator(saved)
    names = zip(declared.dim_str.split(), value.shape, strict=False)
    sizes |= {name: size for name, size in names if name.isidentifier() and name != "_"}
    return saved.clone() if declared.array_type is Tensor else saved.numpy().copy()


def _tensor_type(declared: Declared, sizes: Sizes) -> Any:
    """The type of the tensor that it is saved as, with the sizes that are known; None where it is not."""
    if declared in (bytes, torch.Generator):
        return jaxtyping.UInt8[Tensor, "_"]
    if not (isinstance(declared, type) and issubclass(declared, jaxtyping.AbstractArray)):
        return None
    return declared.dtype[Tensor, " ".join(str(sizes.get(dim, dim)) for dim in declared.dim_str.split())]


def _generator(state: Tensor) -> Any:
    try:
        return torch.Generator().set_state(state)
    except RuntimeError:
        return MISSING


def _named(declared: Declared, sizes: Sizes) -> str:
    names = {
        int: "an int from 0 on",
        NoneType: "None",
        Any: "anything",
        Tensor: "a tensor",
        torch.Generator: "the state of a generator",
    }
    kind, items, tensor = _origin(declared), _items(declared, 0, dict(sizes)), _tensor_type(declared, sizes)
    if isinstance(kind, dict) or is_dataclass(kind):
        return "a dict"
    if items is not None:
        return "a list" if kind is list or (kind is Annotated and not items) else f"a list of {len(items)}"
    if kind in names:
        return names[kind]
    if tensor is not None:
        return _tensor_named(tensor.dtype.__name__.lower(), tensor.dim_str.split())
    return f"a {kind.__name__}"


def _tensor_named(dtype: str, dims: Iterable[str]) -> str:
    kind = {"shaped": "a tensor"}.get(dtype, f"an {dtype} tensor" if dtype[0] == "i" else f"a {dtype} tensor")
    return f"{kind} of shape ({', '.join(dims)})"


def _shown(value: Any) -> str:
    match value:
        case Tensor():
            return _tensor_named(str(value.dtype).removeprefix("torch."), map(str, value.shape))
        case bool() | int() | float() | None:
            return f"{value:.3g}" if isinstance(value, int) and abs(value) >= 2**63 else str(value)
        case list() | tuple():
            return f"a list of {len(value)}"
    return "nothing" if value is MISSING else f"a {type(value).__name__}"
