"""Lightning's notices, which would stand between the command's own lines."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def notices_held_back() -> Iterator[None]:
    """Suppresses Lightning's notices about hardware, and delays warnings until the block has succeeded."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings(record=True) as held:
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    for warning in held:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
