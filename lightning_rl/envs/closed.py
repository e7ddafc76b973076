"""Refusal of environments that were closed."""

from typing import Any

from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import VectorEnv


def check_open(env: VectorEnv[Any, Any, Any]) -> None:
    """Refuses to use a closed environment, whose games may belong to another one by now.

    Raises:
        ClosedEnvironmentError: it is closed, as gymnasium's own environments say.
    """
    if env.closed:
        raise ClosedEnvironmentError(f"{type(env).__name__} is closed; build another one to play on")
