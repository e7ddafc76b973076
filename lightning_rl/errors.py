"""Exceptions that the command reports in one line, and what raises them: the check of an option, a parser."""

import argparse
import difflib
from collections.abc import Collection
from typing import NoReturn


class UsageError(Exception):
    """Invalid input; the message names the option or file, what was found and what is allowed."""


class ActorError(RuntimeError):
    """An actor process died, hung or raised; the message names the actor, what happened and its exit code."""


class ReplayError(RuntimeError):
    """A rollout could not be added to the replay buffer; the message names the file, the cause and the remedy."""


class BusyError(RuntimeError):
    """Another process trains in the run folder."""


class UnsavedError(RuntimeError):
    """Training ended without saving its last state; the message names the outdated checkpoint."""


def check_option(key: str, value: object, valid: bool, allowed: str) -> None:
    """Raises if an option's value is not allowed.

    Args:
        key: the option's full name in the config, such as `model.gamma`.
        value: the value found.
        valid: whether the value is allowed.
        allowed: the allowed values, worded to follow "must be".

    Raises:
        ValueError: `valid` is false; the message names the key, the allowed values and the value found.
    """
    if not valid:
        raise ValueError(f"{key} must be {allowed}, found {value}")


def did_you_mean(found: str, allowed: Collection[str]) -> str:
    """A hint for a message about a name that is not allowed: similar ones, or all of them."""
    near = difflib.get_close_matches(found, allowed)
    return f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(allowed)}"


class UsageParser(argparse.ArgumentParser):
    """A parser of a command line that raises `UsageError` instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raises.

        Raises:
            UsageError: always; `message` says what is wrong.
        """
        raise UsageError(message)
