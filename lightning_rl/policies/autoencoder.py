"""The autoencoder that an exported policy of IMPALA with a VAE may bring."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_rl.networks.vae import VAE
from lightning_rl.policies.folder import AUTOENCODER, read_extra, read_policy

_ENCODER = "encoder."


def own_weights(vae: VAE) -> dict[str, Tensor]:
    """What the file of the autoencoder holds: the decoder, since the policy sees through the encoder and brings it."""
    return {name: tensor for name, tensor in vae.state_dict().items() if not name.startswith(_ENCODER)}


def load_autoencoder(folder: Path) -> VAE | None:
    """The autoencoder of a policy folder, on the CPU; None where it holds none.

    Raises:
        ValueError: in one line, what is wrong with the folder.
    """
    config, weights = read_policy(folder)
    if config.autoencoder is None:
        return None
    build = partial(_built, folder, config.obs_shape, config.autoencoder)
    with torch.device("meta"):  # so that sizes are compared before any memory is taken
        described = build().state_dict()
    encoders = [name for name in described if name.startswith(_ENCODER)]  # which earlier exports hold here, too
    decoder = read_extra(folder, AUTOENCODER, config, described, optional=encoders)
    encoder = {name.removeprefix("vae."): tensor for name, tensor in weights.items() if name.startswith("vae.")}
    with torch.random.fork_rng(devices=[]):
        vae = build()
    try:
        vae.load_state_dict(decoder | encoder)
    except RuntimeError as error:
        raise ValueError(f"{folder} has an autoencoder of another size than its policy's encoder") from error
    return vae.eval()


def _built(folder: Path, obs_shape: tuple[int, int, int], options: dict[str, Any]) -> VAE:
    try:
        return VAE(obs_shape, **options)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{folder} has a config.json that describes no autoencoder: {reason}") from error
