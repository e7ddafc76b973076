"""The command line: the program, its run folders, its error messages, and `doctor`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_rl.cli.program import main

__all__ = ["main"]

if not TYPE_CHECKING:  # imported when asked for: `doctor` must start where Lightning is missing

    def __getattr__(name: str) -> Any:
        if name != "main":
            raise AttributeError(f"module {__name__} has no attribute {name}")
        return import_module("lightning_rl.cli.program").main
