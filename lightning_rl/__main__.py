"""`python -m lightning_rl`, the same program as `lightning-rl`."""

import sys


def run() -> None:
    """Console entry point."""
    from lightning_rl.cli import main  # late: actor processes import this file again, and need none of it

    sys.exit(main())


if __name__ == "__main__":
    run()
