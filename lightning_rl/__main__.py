"""`python -m lightning_rl`, the same program as `lightning-rl`."""

import os
import sys

from lightning_rl.cli.standard_streams import keep_open
from lightning_rl.runs.signals import end_at_interrupts, end_at_signals


def run() -> None:
    """Console entry point."""
    keep_open()
    end_at_interrupts()  # the imports that follow take seconds
    end_at_signals()
    # both must be set before torch is imported; the first silences DDP's advice against find_unused_parameters
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Threads of an operator that wait for each other sleep: spinning, they take the core from the thread that they wait
    # for where another process is busy, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.argv[1:2] == ["doctor"]:
        from lightning_rl.cli import doctor  # must start where the other modules' imports fail

        sys.exit(doctor.main(sys.argv[2:], os.environ))
    if sys.argv[1:2] == ["report"]:
        from lightning_rl.report import command  # needs no torch, whose import takes longer than a report

        sys.exit(command.main(sys.argv[2:]))
    from lightning_rl.cli import main  # late: actor processes import this file, too, but need none of it

    sys.exit(main())


if __name__ == "__main__":
    run()
