"""Failures that a user is told of in one line, and the refusal of an option."""


class UsageError(Exception):
    """Wrong input, told in one line: what it names, what was found, what is allowed."""


class ActorError(RuntimeError):
    """An actor process died, hangs or raised, told in one line: which one, what happened, its exit code."""


class ReplayError(RuntimeError):
    """Real steps could not be kept, told in one line: which file, what happened, what to do."""


class BusyError(RuntimeError):
    """Another process trains in the run folder, told in one line."""


class UnsavedError(RuntimeError):
    """A run has ended and its end is not on the disk, told in one line: which file is older."""


def check_option(key: str, value: object, valid: bool, allowed: str) -> None:
    """Refuses an option by its key in the config.

    Args:
        key: for example `model.gamma`.
        value: as found.
        valid: whether it is allowed.
        allowed: what is, in words that follow "must be".

    Raises:
        ValueError: names the key, what is allowed and what was found.
    """
    if not valid:
        raise ValueError(f"{key} must be {allowed}, found {value}")
