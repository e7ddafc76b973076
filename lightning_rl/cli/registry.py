"""The methods and data modules that a config may name."""

from collections.abc import Callable
from typing import Any

from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.errors import UsageError
from lightning_rl.modules.base import RLModule


def module_class(class_path: str) -> type[RLModule]:
    """The method that a config names.

    Raises:
        UsageError: it is none of this package's.
    """
    found: type[RLModule] = _named("model", class_path, _subclasses(RLModule))
    return found


def data_class(class_path: str) -> type[RolloutDataModule]:
    """The data module that a config names.

    Raises:
        UsageError: it is none of this package's.
    """
    found: type[RolloutDataModule] = _named("data", class_path, CLASSES["data"]())
    return found


def _named(key: str, class_path: str, known: list[Any]) -> Any:
    for c in known:
        if f"{c.__module__}.{c.__qualname__}" == class_path or class_path.endswith(f"lightning_rl.{c.__name__}"):
            return c
    raise UsageError(f"{key} must be one of {', '.join(c.__name__ for c in CLASSES[key]())}, found {class_path}")


def _subclasses(parent: type[Any]) -> list[Any]:
    return [child for direct in parent.__subclasses__() for child in (direct, *_subclasses(direct))]


# of methods those that learn: the module of an exported policy is the command's own choice
CLASSES: dict[str, Callable[[], list[Any]]] = {
    "model": lambda: [method for method in _subclasses(RLModule) if method.learns],
    "data": lambda: _subclasses(RolloutDataModule),
}
