"""A line of what `lightning-rl doctor` reports."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One line of the report."""

    verdict: Literal["ok", "note", "bad"]
    """`bad` will break a command; `note` costs something, or is worth knowing."""
    subject: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        verdict = "BAD" if self.verdict == "bad" else self.verdict
        line = f"{verdict:<5}{self.subject:<26} {self.found}"
        return f"{line}: {self.advice}" if self.advice else line
