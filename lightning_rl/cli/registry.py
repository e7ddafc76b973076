"""The methods and data modules that a config may name: this package's, those of installed plug-ins, imported ones."""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from itertools import pairwise
from types import NoneType
from typing import Any, get_args

from jsonargparse import Namespace, set_parsing_settings
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger

import lightning_rl
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.errors import UsageError
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.hyper_parameters import constructor_options

PLUGINS = "lightning_rl.plugins"
"""Group of entry points, each a module whose import defines methods or data modules."""

_TRUSTED = ("torch.optim",)
"""Packages without a class that is looked for below, whose classes a config may name, too."""


for _name in lightning_rl.__all__:  # a class that is not imported is no subclass of anything
    if not _name.islower():  # functions and the version are no classes
        getattr(lightning_rl, _name)


def import_plugins(args: Sequence[str] = ()) -> None:
    """Imports the installed plug-ins, and lets configs name no classes but theirs and this package's.

    The parser accepts only classes that are imported, and would import whatever module a config names. Installed
    plug-ins are trusted, and so is what has been imported before, and what the command line itself names for the
    trainer, such as a callback of the user's own; a YAML from elsewhere is not.

    Args:
        args: the command line without the program's name.

    Raises:
        UsageError: a plug-in cannot be imported.
    """
    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()
        except Exception as error:  # whatever its code raises
            package = plugin.dist.name if plugin.dist else "a package"
            raise UsageError(
                f"the plug-in {plugin.value} of {package} cannot be imported: {type(error).__name__}: {error}; repair"
                f" or uninstall {package}"
            ) from error
    allowed = sorted({*trusted_packages(), *_named_for_trainer(args)})
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)


def _named_for_trainer(args: Sequence[str]) -> set[str]:
    """Packages of the classes that options of the trainer name."""
    packages = set()
    for arg, following in pairwise([*args, ""]):
        name, sign, value = arg.partition("=")
        if name.startswith("--trainer."):
            paths = re.findall(r"(?:^|class_path\W+)([A-Za-z_]\w*)(?:\.\w+)+", value if sign else following)
            packages |= set(paths) - {"lightning"}  # whose classes are not those of this package's Lightning
    return packages


def trusted_packages() -> list[str]:
    """Packages whose classes a config may name."""
    parents: tuple[type[Any], ...] = (RLModule, RolloutDataModule, Callback, Logger)
    known = {child.__module__.partition(".")[0] for parent in parents for child in _subclasses(parent)}
    return sorted({*known, *_TRUSTED})


def module_class(class_path: str) -> type[RLModule]:
    """The method that a config names.

    Raises:
        UsageError: there is none of this name.
    """
    found: type[RLModule] = _named("model", class_path, _subclasses(RLModule))
    return found


def data_class(class_path: str) -> type[RolloutDataModule]:
    """The data module that a config names.

    Raises:
        UsageError: there is none of this name.
    """
    found: type[RolloutDataModule] = _named("data", class_path, CLASSES["data"]())
    return found


def check_annotated(key: str, owner: type) -> None:
    """Refuses a plug-in's class with an option of no type, of which the parser would make what no checkpoint can hold.

    Raises:
        UsageError: names the option.
    """
    for name, option in constructor_options(owner).items():
        if option.annotation is inspect.Parameter.empty:
            raise UsageError(f"{key}.{name} must be annotated with its type in {owner.__name__}, found no annotation")


def check_class_options(config: Namespace) -> None:
    """Refuses null for an option that knows no such value, and a method that says no types.

    The parser refuses null within groups of options only.

    Args:
        config: what was parsed.

    Raises:
        UsageError: names the option.
    """
    check_annotated("model", module_class(config.model.class_path))
    for key, owner in {"model": module_class, "data": data_class}.items():
        known = constructor_options(owner(config[key].class_path))
        for name, value in config[key].init_args.items():
            if value is not None or name not in known or known[name].default is None:
                continue
            kind = known[name].annotation
            if not {Any, NoneType} & {kind, *get_args(kind)}:
                raise UsageError(f"{key}.{name} must not be null")


def class_paths(owner: type) -> list[str]:
    """The names by which a class can be imported, the shortest first: packages export what their modules define."""
    parts = owner.__module__.split(".")
    packages = [".".join(parts[:count]) for count in range(1, len(parts))]
    exporting = [name for name in packages if getattr(sys.modules.get(name), owner.__qualname__, None) is owner]
    return [f"{name}.{owner.__qualname__}" for name in (*exporting, owner.__module__)]


def _named(key: str, class_path: str, known: list[Any]) -> Any:
    for c in known:
        if class_path in class_paths(c):
            return c
    raise UsageError(none_of(key, class_path))


def none_of(key: str, class_path: str) -> str:
    """Says that a name is no class for a key of the config."""
    names = ", ".join(c.__name__ for c in CLASSES[key]())
    return f"{key} must be one of {names}, or a class of an installed plug-in ({PLUGINS}), found {class_path}"


def _subclasses(parent: type[Any]) -> list[Any]:
    return [child for direct in parent.__subclasses__() for child in (direct, *_subclasses(direct))]


def _usable(parent: type[Any]) -> list[Any]:
    return [child for child in _subclasses(parent) if not inspect.isabstract(child)]


# of methods those that learn: the module of an exported policy is the command's own choice
CLASSES: dict[str, Callable[[], list[Any]]] = {
    "model": lambda: [method for method in _usable(RLModule) if method.learns],
    "data": lambda: _usable(RolloutDataModule),
}
