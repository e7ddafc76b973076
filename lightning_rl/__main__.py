"""`python -m lightning_rl`, the same program as `lightning-rl`."""

import os
import sys
from io import TextIOWrapper


def run() -> None:
    """Console entry point."""
    for stream in (sys.stdout, sys.stderr):  # a locale without dashes is no reason to end
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # before torch is imported; DDP would advise against a setting that `RLModule.setup` has a reason for
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if sys.argv[1:2] == ["doctor"]:
        from lightning_rl.cli import doctor  # it must start where what the rest imports is missing

        sys.exit(doctor.main(sys.argv[2:], os.environ))
    from lightning_rl.runs.signals import end_at_signals

    end_at_signals()  # what follows imports for seconds
    from lightning_rl.cli.program import main  # late: actor processes import this file again, and need none of it

    sys.exit(main())


if __name__ == "__main__":
    run()
