"""All ranks of a run begin with the same."""

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.distributed import collectives
from lightning_rl.errors import UsageError


class SameStart(Callback):
    """Ends a run whose processes begin with different things; each looked for itself, maybe on a disk of its own.

    Args:
        start: what this process begins with.
    """

    def __init__(self, start: str) -> None:
        self._start = start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares, once the processes have found each other.

        Raises:
            UsageError: on all of them; it names the first that differs.
        """
        starts = collectives.all_gather(self._start)
        for rank, start in enumerate(starts):
            if start != starts[0]:
                raise UsageError(
                    f"run_dir: all ranks must begin with the same, found {starts[0]} on rank 0 and {start} on rank"
                    f" {rank}; give a folder that they share, or a checkpoint that all can read"
                )
