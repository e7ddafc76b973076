"""The package's own configs, found by their names from any working folder."""

import difflib
import os
import re
from importlib.resources import files
from pathlib import Path

from lightning_rl.cli.config_files import positions
from lightning_rl.errors import UsageError

_FOR_SCHEDULERS = "cluster/"
_TEXT = re.compile(r"[\s:{]")
"""What is in the text of a config or in a URL, and in no name."""


def folder() -> Path:
    """Where they are: inside an installed package, beside it in a checkout."""
    package = Path(str(files("lightning_rl")))
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Of all of them, as `ppo` and `hardware/cpu`; overlays last."""
    found = [path.relative_to(folder()).with_suffix("").as_posix() for path in folder().rglob("*.yaml")]
    return sorted((n for n in found if not n.startswith(_FOR_SCHEDULERS)), key=lambda name: ("/" in name, name))


def with_shipped_configs(args: list[str]) -> list[str]:
    """Replaces the names of shipped configs by their paths, where there is no file of such a name.

    Raises:
        UsageError: there is neither a file nor a shipped config of a name; lists those that there are.
    """
    given = list(args)
    for index, value in positions(args, "--config", "-c"):
        if value and not _TEXT.search(value) and not _is_there(value):
            given[index] = given[index].removesuffix(value) + _shipped(value)
    return given


def _is_there(value: str) -> bool:
    path = Path(os.path.expanduser(value))
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # longer than the name of a file can be
        return True  # which the parser says better


def _shipped(value: str) -> str:
    name, known = value.removeprefix("configs/").removesuffix(".yaml"), names()
    if name in known:
        return str(folder() / f"{name}.yaml")
    if Path(os.path.expanduser(value)).is_dir():
        return value
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"config: the file {value} does not exist, and no config of this name is shipped; there are"
        f" {', '.join(known)}{hint}"
    )
