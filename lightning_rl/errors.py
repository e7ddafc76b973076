"""Failures that a user is told of in one line."""


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
