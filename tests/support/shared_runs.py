"""Finished runs that many tests need: each is made once, by whichever worker asks first, and nobody changes it."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.support.runs import fit

Contents = dict[str, tuple[int, int]]


class SharedRuns:
    """Tiny runs by what they were asked for.

    Args:
        folder: where they are kept; the same for all workers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[Path, Contents] = {}

    def finished(self, config: str, *, iterations: int = 2, **options: Any) -> Path:
        """The folder of a finished run, for reading only."""
        asked = repr((config, iterations, sorted(options.items())))
        place = self._folder / f"{config}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
        place.mkdir(parents=True, exist_ok=True)
        run_dir, done = place / "run", place / "done"
        with _locked(place / "lock"):
            if not done.exists():
                shutil.rmtree(run_dir, ignore_errors=True)  # of a test that failed midway
                num_threads = torch.get_num_threads()
                fit(run_dir, config=config, iterations=iterations, **options)
                torch.set_num_threads(num_threads)
                done.touch()
        self._found.setdefault(run_dir, _contents(run_dir))
        return run_dir

    def copied(self, to: Path, config: str, *, iterations: int = 2, **options: Any) -> Path:
        """A copy of it that may be changed."""
        return Path(shutil.copytree(self.finished(config, iterations=iterations, **options), to, symlinks=True))

    def check_untouched(self) -> None:
        """Raises where a test has changed what others read."""
        changed = {
            path
            for run_dir, before in self._found.items()
            for path, _ in before.items() ^ _contents(run_dir).items()  # of either, where they differ
        }
        if changed:
            raise AssertionError(f"tests must copy what they change, but changed {', '.join(sorted(changed))}")


def _contents(folder: Path) -> Contents:
    """Its files' times and sizes, but for the logs of W&B's own process, which may outlive the run."""
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".log")
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One worker at a time; a lock ends with its process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
