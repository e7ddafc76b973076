"""What command lines mean, without building anything that they ask for, and how they are refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from tests.support.methods import CONFIGS


class _Parsed(RunCLI):
    """The command, up to its resolved options."""

    def before_instantiate_classes(self) -> None:
        """Nothing: it would look for the run folder and the checkpoint."""

    def instantiate_classes(self) -> None:
        """Nothing: building takes most of the time."""


def parsed(args: list[str]) -> Namespace:
    """The resolved options of a command line without the program's name."""
    cli = _Parsed(args)
    options: Namespace = cli.config[cli.subcommand]
    return options


def resolved(*configs: str | Path, **options: str) -> dict[str, Any]:
    """What config files, one over the other, and options make of `fit`.

    Args:
        configs: paths, or names below configs/ without the ending.
        options: named with `__` for a dot.
    """
    paths = [config if isinstance(config, Path) else CONFIGS / f"{config}.yaml" for config in configs]
    flags = [text for key, value in options.items() for text in (f"--{key.replace('__', '.')}", value)]
    found = parsed(["fit", *(text for path in paths for text in ("--config", str(path))), *flags]).as_dict()
    del found["config"]  # where the options were read
    return found


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command refuses `args`."""
    capsys.readouterr()
    status = main(args)
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert re.fullmatch(r"lightning-rl: [^\n]+\n", captured.err)
    return captured.err
