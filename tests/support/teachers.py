"""Small untrained teachers on disk, for runs of policy distillation."""

import os
import tempfile
from functools import cache
from pathlib import Path

import torch

from lightning_rl.policies import folder
from lightning_rl.policies.config import FORMAT_VERSION, DataConfig, NetworkConfig, PolicyConfig
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.version import __version__

_SMALL = NetworkConfig(name="three_stack", channels=[2, 3], hidden=5, pooling="average")


def make_teacher(
    *,
    obs_shape: tuple[int, int, int] = (64, 64, 3),
    num_actions: int = 15,
    network: NetworkConfig = _SMALL,
    game: str = "dodgeball",
) -> ExportedPolicy:
    """The same weights at every call for the same game, with actions that differ in how likely they are."""
    config = PolicyConfig(
        format_version=FORMAT_VERSION,
        lightning_rl_version=__version__,
        method="ppo",
        game=game,
        network=network,
        recurrent=network.name == "recurrent",
        obs_shape=obs_shape,
        num_actions=num_actions,
        action_meanings=[str(action) for action in range(num_actions)],
        data=DataConfig(class_path="lightning_rl.ProcgenDataModule"),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(3 if game == "dodgeball" else len(game))
        policy = ExportedPolicy(config)
        torch.nn.init.normal_(policy.get_parameter("network.actor.bias"))
    return policy


def write_teacher(path: Path, policy: ExportedPolicy) -> Path:
    """Writes a policy folder without video and card."""
    path.mkdir(parents=True, exist_ok=True)
    folder.write_tensors(path / folder.WEIGHTS, policy.state_dict(), "float32")
    folder.write_config(path / folder.CONFIG, policy.config)
    return path


@cache
def shared_teacher(game: str = "dodgeball") -> str:
    """A policy folder that every test process finds at the same path; whoever asks first writes it."""
    path = Path(tempfile.gettempdir()) / f"lightning_rl-teacher-{game}-{os.getuid()}"
    if not folder.is_policy_folder(path):
        own = write_teacher(path.with_name(f"{path.name}-{os.getpid()}"), make_teacher(game=game))
        try:
            own.rename(path)
        except OSError:  # another process was first
            for file in own.iterdir():
                file.unlink()
            own.rmdir()
    return str(path)
