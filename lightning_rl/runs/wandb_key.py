"""Whether Weights & Biases can log in. Without W&B or Lightning, so that `doctor` can ask when these are broken."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def has_key(environ: Mapping[str, str]) -> bool:
    """Whether W&B can log in without a question: by the environment, or by what `wandb login` has written.

    Args:
        environ: the environment variables.
    """
    if "WANDB_API_KEY" in environ or "WANDB_IDENTITY_TOKEN_FILE" in environ:
        return True
    return (Path(environ["NETRC"]) if "NETRC" in environ else Path.home() / ".netrc").exists()


def can_log_in() -> bool:
    """Whether W&B has a key or a terminal to ask for one; without both it would end the run with a traceback."""
    return has_key(os.environ) or (sys.stdin is not None and sys.stdin.isatty())
