"""The time that one start of a run may take."""

from datetime import timedelta
from typing import Any

from pytorch_lightning.callbacks import Timer


class TimeLimit(Timer):
    """Ends a run at the first boundary after so long; each start has the whole time.

    Lightning's own timer saves the time that has passed, so that a second job, which gets the same time from its
    scheduler, would stop at once.

    Args:
        duration: as Lightning's `trainer.max_time` has it.
    """

    def __init__(self, duration: str | timedelta | dict[str, int]) -> None:
        super().__init__(duration, interval="epoch")  # Lightning's default would stop within an iteration

    @property
    def state_key(self) -> str:
        """That of Lightning's timer, whose state older checkpoints hold."""
        return Timer.__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""

    @property
    def is_reached(self) -> bool:
        """Whether it has ended the run."""
        remaining = self.time_remaining()
        return remaining is not None and remaining <= 0
