import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

# Workers share the cores, and operators on a few small frames are not worth sharing; what tests start inherits this.
# A second thread that a test does ask for sleeps while it waits: turning in circles, it takes the core of another.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

# Shells let what they start in the background ignore Ctrl-C, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

if TYPE_CHECKING:
    from tests.support.shared_runs import SharedRuns

_MOST_WORKERS = 4  # each imports torch and keeps a gigabyte


def pytest_xdist_auto_num_workers() -> int:
    """Of the cores that this process may use; two on a single one, since some tests wait for processes."""
    return min(_MOST_WORKERS, max(2, len(os.sched_getaffinity(0))))


def pytest_collectstart() -> None:
    """Imports Lightning before anything of the package: what a module imports under jaxtyping's eyes is compiled anew.

    Not above, since the process that hands the tests to the workers needs neither.
    """
    import pytorch_lightning.cli  # noqa: F401


@pytest.fixture(autouse=True)
def _same_random_numbers_and_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.manual_seed(0)
    os.environ.pop("PL_GLOBAL_SEED", None)  # which commands of earlier tests have left, and data modules take
    yield
    torch.set_num_threads(num_threads)  # modules that cut minibatches set their own


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SharedRuns"]:
    """Finished runs that tests read and copy; the workers share them."""
    from tests.support.shared_runs import SharedRuns

    base = tmp_path_factory.getbasetemp()
    shared = SharedRuns((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runs")
    yield shared
    shared.check_untouched()
