"""Where a run lives and which checkpoint it continues, decided before anything is built or written."""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_rl.distributed import collectives
from lightning_rl.errors import BusyError, UsageError
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.folder_lock import folder_lock
from lightning_rl.runs.metrics_csv import read_metrics
from lightning_rl.runs.signals import LAUNCHER_VARIABLE, launcher_of_this_process

_FILES_OF_A_RUN = (
    checkpoint_files.LAST,
    checkpoint_files.PREVIOUS,
    checkpoint_files.BEST,
    "metrics.csv",
    "replay",
    "config.yaml",
)
TEST_REPORT = "test.json"
"""What `test` leaves; `report` and model cards take it for the returns of the run beside it."""


@dataclass(frozen=True, kw_only=True)
class RunLocation:
    """The run folder and the checkpoint that a command works with.

    Attributes:
        run_dir: everything that the run writes goes there.
        checkpoint: the file that is continued or judged; None for a new run.
        saved: contents of the checkpoint.
        run_id: id of the W&B run.
        trained_by: id of the run that trains, or has left the checkpoint that is judged.
        last_seen: inode and modification time of `last.ckpt` when it was read; tells whether another process has saved.
        remarks: what the user should be told once the command is known to be right.
    """

    run_dir: Path
    checkpoint: Path | None
    saved: dict[str, Any] | None
    run_id: str
    trained_by: str
    last_seen: tuple[int, int] | None
    remarks: tuple[str, ...]

    @classmethod
    def find(
        cls, subcommand: str, *, run_dir: str | None, ckpt_path: str | None, method: str, game: str
    ) -> "RunLocation":
        """Decides on the run folder and reads the checkpoint.

        Args:
            subcommand: fit, validate, test or predict.
            run_dir: as given on the command line.
            ckpt_path: as given: a file, a run folder, `last`, `best` or nothing.
            method: part of a new run's path.
            game: likewise.

        Raises:
            UsageError: the folder cannot be used, or holds another run.
            ValueError: the checkpoint cannot be read.
        """
        given = None if run_dir is None else _folder(run_dir)
        checkpoint, remarks = _checkpoint(subcommand, ckpt_path, given)
        if subcommand == "fit":
            folder = given or launchers_run_dir() or _new_run_dir(method, game)
            _refuse_to_overwrite(folder, checkpoint, anew_or_on=ckpt_path == "last")
        elif checkpoint is None:
            raise UsageError(f"ckpt_path: {subcommand} needs a checkpoint, found none; give --ckpt_path FILE")
        else:
            folder = given or checkpoint.parent
        _check_writable(folder)
        last_seen = _identity(folder / checkpoint_files.LAST)
        saved = None if checkpoint is None else checkpoint_files.read(checkpoint)
        run_id = _run_id(folder, checkpoint, saved, named=given is not None)
        judged = None if subcommand == "fit" else saved
        return cls(
            run_dir=folder,
            checkpoint=checkpoint,
            saved=saved,
            run_id=run_id,
            trained_by=run_id if judged is None else str(judged[checkpoint_files.METADATA]["run_id"]),
            last_seen=last_seen,
            remarks=remarks,
        )

    @classmethod
    def of_policy(cls, folder: Path, name: str, *, run_dir: str | None) -> "RunLocation":
        """Where the results of judging an exported policy go, which is never its own folder.

        Args:
            folder: the policy folder.
            name: of the policy, told from others of its name; part of the default path.
            run_dir: as given on the command line.

        Raises:
            UsageError: the folder cannot be used, or is the policy's.
        """
        results = judged_folder(name) if run_dir is None else _folder(run_dir)
        if folder.resolve() in (results.resolve(), *results.resolve().parents):
            raise UsageError(f"run_dir must not be within {folder}, whose policy is judged, found {results}")
        _check_writable(results)
        return cls(
            run_dir=results, checkpoint=folder, saved=None, run_id=name, trained_by=name, last_seen=None, remarks=()
        )

    def check_results(self, subcommand: str) -> None:
        """Refuses to judge into a folder that holds another run, or its test.json, for whose returns these would pass.

        Args:
            subcommand: validate, test or predict; what `fit` writes to is checked by `find`.

        Raises:
            UsageError: it does.
        """
        folder = self.run_dir
        if subcommand == "fit" or self.checkpoint is None:
            return
        if self.saved is not None and self.checkpoint.parent.resolve() == folder.resolve():
            return
        names = (*_FILES_OF_A_RUN, TEST_REPORT) if subcommand == "test" else _FILES_OF_A_RUN
        found = [name for name in names if os.path.lexists(folder / name)]
        if found and not _is_of(folder, found, self.trained_by):
            raise UsageError(
                f"run_dir: {folder} holds {found[0]} of another run than {self.checkpoint}; give another folder"
            )

    @contextmanager
    def held_alone(self) -> Iterator[None]:
        """Keeps other processes from training in the folder as long as this one does.

        Raises:
            BusyError: another one does, or has saved there since the checkpoint was read.
        """
        with folder_lock(self.run_dir) as alone:
            if not alone:
                raise BusyError(f"run_dir: another process trains in {self.run_dir}; let it end, or give another one")
            if _identity(self.run_dir / checkpoint_files.LAST) != self.last_seen:
                raise BusyError(f"run_dir: another process has just saved in {self.run_dir}; give the command again")
            _set_damaged_aside(self.run_dir, self.checkpoint)
            yield

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Tells processes that Lightning starts meanwhile where the run lives."""
        os.environ[LAUNCHER_VARIABLE] = f"{os.getpid()}:{self.run_dir}"
        try:
            yield
        finally:
            del os.environ[LAUNCHER_VARIABLE]


def judged_folder(name: str) -> Path:
    """Where the results of judging an exported policy of this name go, unless another folder is given."""
    return Path("checkpoints", "judged", name)


def _is_of(folder: Path, found: list[str], run_id: str) -> bool:
    """Whether these files in a folder are of a run; a report without an id, as older ones are, may be of any."""
    if found == [TEST_REPORT]:
        with suppress(OSError, ValueError, AttributeError):
            report = json.loads((folder / TEST_REPORT).read_text(encoding="utf-8"))
            return report.get("run_id") in (None, "", run_id)
        return False
    last = folder / checkpoint_files.LAST
    if not run_id or not checkpoint_files.is_readable(last):
        return False
    return bool(checkpoint_files.read(last)[checkpoint_files.METADATA]["run_id"] == run_id)


def launchers_run_dir() -> Path | None:
    """The run folder of the process that has started this one, where that is another rank of the run."""
    launcher = launcher_of_this_process()
    return None if launcher is None else Path(launcher[1])


def _checkpoint(subcommand: str, given: str | None, run_dir: Path | None) -> tuple[Path | None, tuple[str, ...]]:
    """The file that `--ckpt_path` means, and what to tell the user about the choice."""
    if given is None:
        return None, ()
    if given in ("last", "best"):
        if run_dir is None:
            raise UsageError(f"ckpt_path: {given} needs --run_dir, the folder to continue from")
        return _last_of(subcommand, run_dir) if given == "last" else (run_dir / checkpoint_files.BEST, ())
    if "://" in given:
        raise UsageError(f"ckpt_path must be a file of this machine, found {given}")
    return checkpoint_at(Path(given))


def checkpoint_at(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file itself or the newest good one of a run folder, and what to tell the user about the choice."""
    return _newest_in(path) if path.is_dir() else (path, ())


def _last_of(subcommand: str, run_dir: Path) -> tuple[Path | None, tuple[str, ...]]:
    if subcommand == "fit" and not any(os.path.lexists(run_dir / name) for name in _FILES_OF_A_RUN[:2]):
        best = run_dir / checkpoint_files.BEST
        if best.exists() and checkpoint_files.is_readable(best) and checkpoint_files.read(best).get("epoch", 0) > 0:
            raise UsageError(
                f"run_dir: {run_dir} holds {best.name} of a run and no {checkpoint_files.LAST}; give --ckpt_path best"
                " to go on from there, or another folder"
            )
        _check_curve(run_dir / "metrics.csv")
        return None, (f"{run_dir} holds no checkpoint yet: a new run starts",)
    return _newest_in(run_dir)


def _check_curve(path: Path) -> None:
    """Refuses to start anew over the curve of a run that has saved; one killed before its first save has a row."""
    with suppress(ValueError):  # what no run has written is told where it would be written to
        if path.exists() and (rows := len(read_metrics(path))) > 1:
            raise UsageError(
                f"run_dir: {path.parent} holds {rows} rows of a run and no {checkpoint_files.LAST}, without which it"
                " cannot go on; bring that back, or give another folder"
            )


def _newest_in(run_dir: Path) -> tuple[Path, tuple[str, ...]]:
    last, previous = run_dir / checkpoint_files.LAST, run_dir / checkpoint_files.PREVIOUS
    _check_reachable(last)
    if checkpoint_files.is_readable(last):
        return last, ()
    _check_reachable(previous)
    if not checkpoint_files.is_readable(previous):
        return last, ()
    state = "damaged" if last.exists() else "not there"
    return previous, (f"{last} is {state}: {previous} is taken instead",)


def _check_reachable(path: Path) -> None:
    """Refuses a checkpoint on a disk that is not there now, which is no reason to go on from an older one."""
    if path.is_symlink() and not path.exists():
        raise UsageError(f"ckpt_path: {path} leads to {os.readlink(path)}, which is not there; is the disk mounted?")


def _new_run_dir(method: str, game: str) -> Path:
    processes = collectives.num_launched_processes()
    if processes > 1:
        raise UsageError(f"run_dir: {processes} processes that train together need --run_dir DIR, found none")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Path("checkpoints", method, game, name)


def _run_id(run_dir: Path, checkpoint: Path | None, saved: dict[str, Any] | None, *, named: bool) -> str:
    """The id that the run goes on under; a new one for a new run and for a branch into another folder."""
    sweeps = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    if sweeps:  # W&B would log a sweep's run under no other
        return sweeps
    new = re.sub(r"[^A-Za-z0-9_-]", "-", run_dir.name) + (f"-{secrets.token_hex(2)}" if named else "")
    if checkpoint is None or saved is None or checkpoint.parent.resolve() != run_dir.resolve():
        return new
    return str(saved[checkpoint_files.METADATA].get("run_id") or new)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one under its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _set_damaged_aside(run_dir: Path, checkpoint: Path | None) -> None:
    """Renames a damaged `last.ckpt`, which would else become the `previous.ckpt` at the first save."""
    last = run_dir / checkpoint_files.LAST
    other = checkpoint is not None and checkpoint.resolve() != last.resolve()
    if other and last.exists() and not checkpoint_files.is_readable(last):
        last.replace(last.with_name("damaged.ckpt"))


def _refuse_to_overwrite(run_dir: Path, checkpoint: Path | None, *, anew_or_on: bool) -> None:
    """Refuses a folder whose files this run would replace: of another run, or of this one from later on.

    Args:
        run_dir: the folder.
        checkpoint: what is continued; None starts anew.
        anew_or_on: the command serves first start and restart; a start that was killed before it saved leaves files
            that are then replaced.
    """
    names = _FILES_OF_A_RUN[:2] if anew_or_on else _FILES_OF_A_RUN
    found = [name for name in names if (run_dir / name).exists()]
    is_branch = checkpoint is None or checkpoint.parent.resolve() != run_dir.resolve()
    if checkpoint is not None and found == ["config.yaml"]:
        found = []  # of a branch that was killed before its first row: the same command may begin it again
    if found and is_branch:
        continued = ", or --ckpt_path last to continue that one" if found[0] in _FILES_OF_A_RUN[:2] else ""
        raise UsageError(f"run_dir: {run_dir} holds a run already ({found[0]}); give another folder{continued}")
    later = _FILES_OF_A_RUN[: 1 if checkpoint is not None and checkpoint.name == checkpoint_files.PREVIOUS else 2]
    goes_on = [run_dir / name for name in later if checkpoint_files.is_readable(run_dir / name)]
    if checkpoint is not None and checkpoint.name != checkpoint_files.LAST and goes_on:
        raise UsageError(
            f"run_dir: {run_dir} goes on until {goes_on[0]}, which a run from {checkpoint} would replace; give another"
            " --run_dir to branch off there, or --ckpt_path last"
        )


def _folder(given: str) -> Path:
    try:
        os.stat(given)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is made, or `_check_writable` says why not
    except (OSError, ValueError) as error:
        raise UsageError(f"run_dir: {given} cannot be a folder ({error}); give another one") from error
    return Path(given)


def _check_writable(run_dir: Path) -> None:
    existing = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"run_dir: {run_dir} cannot be written; give a folder that you may write to")
