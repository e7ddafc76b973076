"""Paths as users give them."""

import os

from lightning_rl.errors import UsageError


def users_path(key: str, given: str | None) -> str | None:
    """A path with the user's home folder in the place of `~`, which a shell replaces in some places only.

    Raises:
        UsageError: it is empty, as where it is a shell's variable that is not set.
    """
    if given == "":
        raise UsageError(f"{key} must be a path, found an empty text")
    return None if given is None else os.path.expanduser(given)
