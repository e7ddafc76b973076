"""The program behind `lightning-rl`: runs the command, and turns what went wrong into one line and an exit status."""

import errno
import os
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities import rank_zero_only

from lightning_rl.cli import bench, export, replay
from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.config_files import with_run_config
from lightning_rl.cli.error_messages import say, short_message
from lightning_rl.cli.registry import import_plugins
from lightning_rl.cli.run_location import launchers_run_dir
from lightning_rl.cli.seeds import end_with_others, is_asked_for, run_seeds, this_program
from lightning_rl.cli.standard_streams import keep_open
from lightning_rl.cpu import allocator
from lightning_rl.errors import ActorError, BusyError, ReplayError, UnsavedError, UsageError
from lightning_rl.report import command as report
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.signals import INTERRUPTED, SIGNALS, Interrupted, SignalWatcher, end_at_signals, end_with

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(args: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: the command line without the program's name; the process's own by default.

    Returns:
        The exit status: 0 done; 1 a failure during the run; 2 wrong input; 130 stopped by Ctrl-C; 143 stopped by a
            signal after saving. Failures, wrong input and Ctrl-C are told in one line on stderr.
    """
    keep_open()
    allocator.keep_freed_memory()
    if launchers_run_dir() is not None:
        end_with(os.getppid())
    end_with_others()
    os.environ.setdefault("WANDB_SILENT", "true")  # W&B would print six lines about the run folder
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning uses it, users cannot help it
    given = sys.argv[1:] if args is None else args
    if is_asked_for(given):
        return run_seeds(given, this_program(args))
    with _signals_answered() as signal_watcher:
        try:
            return _answered(given, signal_watcher)
        except Interrupted:
            signal_watcher.tell_interrupted()
            return INTERRUPTED


def _play(args: list[str]) -> int:
    from lightning_rl.cli import play  # late: no other command needs a server

    return play.main(args)


_OTHERS = {"export": export.main, "bench": bench.main, "report": report.main, "play": _play}
"""Commands beside Lightning's subcommands."""
_COMMANDS = ("fit", "validate", "test", "predict", *_OTHERS, "doctor")


def _check_command(given: list[str]) -> None:
    named = given[0] if given else "none"
    if not given or (named not in _COMMANDS and not named.startswith("-")):
        raise UsageError(f"subcommand must be one of {', '.join(_COMMANDS)}, found {named}; see lightning-rl --help")


def _answered(given: list[str], signal_watcher: SignalWatcher) -> int:
    try:
        _check_command(given)
        import_plugins()
        if given[0] in _OTHERS:
            return _OTHERS[given[0]](given[1:])
        if replay.is_asked_for(given):
            return replay.main(given)
        cli = RunCLI(with_run_config(given), signal_watcher=signal_watcher)
    except (UsageError, ValueError, TypeError, OSError, ImportError, MisconfigurationException) as error:
        say(short_message(str(error), given))
        return 1 if isinstance(error, OSError) and error.errno in _NO_ROOM else 2
    except (MemoryError, OverflowError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and re.search("alloc|overflow|dimension", str(error)) is None:
            raise
        say(f"model and data must be of a size that this machine can hold, found more: {error}")
        return 2
    if cli.saves:
        signal_watcher.remedy = f"; nothing since the last boundary is saved; to continue: {_continuing(cli)}"
    return _status_of(cli)


def _status_of(cli: RunCLI) -> int:
    """Runs the command that was built, and returns its exit status."""
    try:
        cli.run()
    except (UsageError, MisconfigurationException, ModuleNotFoundError) as error:  # found only once it has begun
        say(str(error))
        return 2
    except (ActorError, FloatingPointError, ReplayError, UnsavedError) as error:
        saved = (cli.run_dir / checkpoint_files.LAST).exists()
        on = f"to continue from the last boundary: {_continuing(cli)}"
        say(f"{error}; {on if saved else 'nothing is saved: start again with another --run_dir'}")
        return 1
    except (BusyError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_ROOM:
            raise
        say(f"{error}" + ("; make room and give the same command again" if isinstance(error, OSError) else ""))
        return 1
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):  # Lightning has no class for it
            raise
        say(str(error))
        return 2
    return cli.stopped_status


def _continuing(cli: RunCLI) -> str:
    return f"--run_dir {shlex.quote(str(cli.run_dir))} --ckpt_path last"


def _say_on_rank_zero(message: str) -> None:
    if getattr(rank_zero_only, "rank", 0) == 0:
        say(message)


@contextmanager
def _signals_answered() -> Iterator[SignalWatcher]:
    """Lets signals end the process while there is nothing to save; restores the handlers afterwards."""
    signal_watcher = SignalWatcher(_say_on_rank_zero)
    if threading.current_thread() is not threading.main_thread():
        yield signal_watcher
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    end_at_signals()
    signal_watcher.start()
    try:
        yield signal_watcher
    finally:
        signal_watcher.close()
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
