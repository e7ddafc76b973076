"""`python -m lightning_rl`, the same program as `lightning-rl`."""

import sys

from lightning_rl.cli import main


def run() -> None:
    """Console entry point."""
    sys.exit(main())


if __name__ == "__main__":
    run()
