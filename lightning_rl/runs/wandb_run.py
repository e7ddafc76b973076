"""The Weights & Biases run: its x-axis, its media, its end, and training that goes on without it."""

import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from lightning_rl.runs.lightning_private import drop_wandb_option


def drop_obsolete_settings(logger: WandbLogger) -> None:
    """Spares the user W&B's warning of a setting that Lightning always passes; call it before the run is started."""
    drop_wandb_option(logger, "anonymous")


def silent_server(*, seconds: float = 10.0) -> str | None:
    """The address of W&B's server if it does not answer, directly or by the proxy of the environment.

    W&B itself would try for a minute and a half, and then end the run.

    Args:
        seconds: to wait for an answer.
    """
    import wandb

    server: str = wandb.setup().settings.base_url
    try:
        with urllib.request.urlopen(server, timeout=seconds):
            return None
    except urllib.error.HTTPError:  # an answer, too
        return None
    except (OSError, ValueError):
        wandb.teardown()  # it would remember that it was to go online
        return server


def outlive(logger: WandbLogger) -> None:
    """Lets training go on without W&B once W&B's own process is gone.

    Schedulers send SIGTERM to all processes of a job; that one ends at once, before the last epoch is logged.

    Args:
        logger: Lightning's own.
    """
    log_metrics = logger.log_metrics

    def log_metrics_if_there(metrics: Mapping[str, float], step: int | None = None) -> None:
        with _if_there():
            log_metrics(metrics, step)

    cast(Any, logger).log_metrics = log_metrics_if_there  # rather than a subclass: the config names the logger's class


@rank_zero_only
def end_run(logger: WandbLogger, *, preempted: bool) -> None:
    """Ends the W&B run; the next run of this process has its own.

    Args:
        logger: Lightning's own.
        preempted: it was stopped by a signal; a sweep puts such a run back into its queue.
    """
    with _if_there():
        if preempted:
            logger.experiment.mark_preempting()
        logger.experiment.finish(exit_code=143 if preempted else 0)


@contextmanager
def _if_there() -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        rank_zero_warn("W&B's process is gone: the W&B run ends here, metrics.csv goes on")
    except OSError as error:
        rank_zero_warn(f"W&B could not write ({error}); metrics.csv goes on")


@rank_zero_only
def use_env_steps_axis(logger: WandbLogger) -> None:
    """Plots everything that `logger` receives against `env_steps` instead of Lightning's `trainer/global_step`.

    Starts the W&B run if it is not started yet; call it before the first metric is logged.

    Args:
        logger: Lightning's own.
    """
    logger.experiment.define_metric("env_steps")
    logger.experiment.define_metric("*", step_metric="env_steps")


def log_media(logger: WandbLogger, *, env_steps: int, videos: Iterable[Path], pictures: Iterable[Path]) -> None:
    """Puts files of `media/` into the W&B run, each under its name, at their place on the axis.

    Lightning's own `log_video` and `log_image` would leave out the axis.

    Args:
        logger: Lightning's own.
        env_steps: when they were made.
        videos: encoded files, mp4.
        pictures: png files.
    """
    import wandb  # slow, and needed by nobody who switched W&B off

    media: dict[str, Any] = {f"media/{path.stem}": wandb.Video(str(path), format="mp4") for path in videos}
    media |= {f"media/{path.stem}": wandb.Image(str(path)) for path in pictures}
    if media:
        with _if_there():
            logger.experiment.log({**media, "env_steps": env_steps})
