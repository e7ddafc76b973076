"""Check that all ranks of a run start from the same checkpoint."""

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.distributed import collectives
from lightning_rl.errors import UsageError


class SameStart(Callback):
    """Refuses a run whose ranks start from different checkpoints, for instance because they see different disks.

    Args:
        start: what this process starts from, in words.
    """

    def __init__(self, start: str) -> None:
        self._start = start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the ranks once they are connected.

        Raises:
            UsageError: on all ranks; names the first that differs.
        """
        starts = collectives.all_gather(self._start)
        for rank, start in enumerate(starts):
            if start != starts[0]:
                raise UsageError(
                    f"run_dir: all ranks must start from the same checkpoint, found {starts[0]} on rank 0 and {start}"
                    f" on rank {rank}; give a folder that they share, or a checkpoint that all can read"
                )
