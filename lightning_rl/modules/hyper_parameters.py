"""Constructor options as plain containers, which a checkpoint can hold, and back."""

import inspect
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def constructor_options(owner: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name; where it passes others on to the class that it extends, those too."""
    constructor = inspect.getattr_static(owner, "__init__")
    own = {name: one for name, one in inspect.signature(constructor).parameters.items() if name != "self"}
    passes_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own.values())
    inherited = constructor_options(owner.__mro__[1]) if passes_on else {}
    return inherited | {name: one for name, one in own.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}


def as_plain(value: Any) -> Any:
    """An option as dicts, lists, strings and numbers; a class by its name and its own options."""
    if isinstance(value, partial):
        path = f"{value.func.__module__}.{value.func.__qualname__}"
        return {"class_path": path, "init_args": as_plain(value.keywords)}
    if is_dataclass(value):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_plain(owner: type, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a class from plain containers: dicts become the dataclasses that the annotations name.

    Args:
        owner: the class.
        options: plain, or already what the class takes.

    Raises:
        ValueError: an option that the class does not have.
    """
    known = constructor_options(owner)
    for name in options:
        if name not in known:
            raise ValueError(f"{owner.__name__} has no option {name}; it has {', '.join(known)}")
    return {name: _argument(known[name].annotation, value) for name, value in options.items()}


def _argument(annotation: Any, value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"class_path", "init_args"}:
            return partial(_imported_class(value["class_path"]), **value["init_args"])
        for kind in (annotation, *get_args(annotation)):
            if isinstance(kind, type) and is_dataclass(kind):
                return kind(**from_plain(kind, value))
    return tuple(value) if isinstance(value, list) else value


def _imported_class(class_path: str) -> Any:
    """An optimizer or a schedule by its name, among those that are imported: a checkpoint cannot make import others."""
    for kind in (*_subclasses(Optimizer), *_subclasses(LRScheduler)):
        if f"{kind.__module__}.{kind.__qualname__}" == class_path:
            return kind
    raise ValueError(f"{class_path} must be an optimizer or a schedule of torch or of an imported package")


def _subclasses(parent: type[Any]) -> list[Any]:
    return [child for direct in parent.__subclasses__() for child in (direct, *_subclasses(direct))]
