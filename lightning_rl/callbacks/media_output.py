"""Writing of pictures and videos that a run can do without."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn


@contextmanager
def going_on_without(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a warning, so that a full disk costs a picture but not the run.

    Args:
        path: the file that the block writes.
    """
    try:
        yield
    except OSError as error:
        rank_zero_warn(f"{path} was not written ({error}); the run goes on without it")
