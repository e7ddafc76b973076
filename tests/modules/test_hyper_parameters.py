from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LinearLR

from lightning_rl import ImpalaModule, ImpalaVAEModule, PPODistillModule, PPOModule, SimPLeModule
from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.impala_vae import SurpriseConfig, VAEConfig
from lightning_rl.modules.ppo_distill import DistillationConfig
from lightning_rl.modules.simple.outer_loop import OuterLoopConfig
from lightning_rl.modules.simple.world_model import WorldModelConfig
from lightning_rl.networks.world_model.latent import LatentConfig
from tests.support.runs import differences
from tests.support.worlds import NUM_ACTIONS, OBS_SHAPE, make_trainer

SIZES: dict[str, Any] = {"num_actions": NUM_ACTIONS, "obs_shape": OBS_SHAPE, "greedy": True}
WORLD_MODEL = WorldModelConfig(
    hidden=8,
    compress_steps=2,
    recurrent_size=4,
    latent=LatentConfig(num_bits=16, channels=2, prior_size=4),
    learning_rate=0.5,
)
MODULES: dict[type[RLModule], dict[str, Any]] = {
    PPOModule: {"gamma": 0.5, "width": 2, "pooling": "average", "micro_batches": MicroBatchConfig(size=3)},
    PPODistillModule: {"epochs": 2, "distillation": DistillationConfig(num_outputs=4, episodic=False)},
    ImpalaModule: {"max_rho": None, "entropy_weight": 0.5},
    ImpalaVAEModule: {"vae": VAEConfig(latent_size=5, feed="mean"), "surprise": SurpriseConfig(weight=0.5)},
    SimPLeModule: {
        "obs_shape": (16, 16, 12),
        "reward_values": (0.0, 0.5),
        "world_model": WORLD_MODEL,
        "outer_loop": OuterLoopConfig(imagined_steps=64, imagined_passes={2: 3}),
        "num_imagined_envs": 2,
        "minibatch_size": 4,
    },
}


def saved(module: RLModule, path: Path) -> Path:
    trainer = make_trainer()
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_is_loaded_with_the_options_and_weights_that_it_had(kind: type[RLModule], tmp_path: Path) -> None:
    options = SIZES | MODULES[kind]
    module = kind(**options)

    loaded = kind.load_from_checkpoint(saved(module, tmp_path / "a.ckpt"))

    assert {name: loaded.hparams[name] for name in options} == options
    assert differences(module.state_dict(), loaded.state_dict()) == []
    assert loaded.micro_batches == module.micro_batches
    assert not loaded._autocast


def test_options_can_be_replaced(tmp_path: Path) -> None:
    path = saved(PPOModule(gamma=0.5, **SIZES), tmp_path / "a.ckpt")

    loaded = PPOModule.load_from_checkpoint(path, lambda_=0.25)

    assert (loaded.gamma, loaded.lambda_) == (0.5, 0.25)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    path = saved(PPOModule(**SIZES), tmp_path / "a.ckpt")

    with pytest.raises(ValueError, match=r"is of method ppo, ImpalaModule of impala$"):
        ImpalaModule.load_from_checkpoint(path)


def test_an_older_checkpoint_is_refused_and_never_given_defaults(tmp_path: Path) -> None:
    path = saved(PPOModule(**SIZES), tmp_path / "a.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["hyper_parameters"]
    torch.save(checkpoint, path)

    with pytest.raises(ValueError, match=r"a\.ckpt holds no options of its module"):
        PPOModule.load_from_checkpoint(path)


def test_code_and_other_files_of_options_are_refused(tmp_path: Path) -> None:
    path = saved(PPOModule(**SIZES), tmp_path / "a.ckpt")

    for refused in ({"weights_only": False}, {"hparams_file": "a.yaml"}):
        with pytest.raises(ValueError, match="never executes code"):
            PPOModule.load_from_checkpoint(path, **refused)


def test_classes_of_optimizer_and_schedule_are_kept_by_name(tmp_path: Path) -> None:
    given: dict[str, Any] = {"optimizer": partial(SGD, momentum=0.5), "scheduler": partial(LinearLR, total_iters=7)}
    path = saved(PPOModule(**SIZES, **given), tmp_path / "a.ckpt")

    loaded = PPOModule.load_from_checkpoint(path)

    options = torch.load(path, weights_only=True)["hyper_parameters"]
    assert options["optimizer"] == {"class_path": "torch.optim.sgd.SGD", "init_args": {"momentum": 0.5}}
    assert loaded.optimizer is not None
    assert loaded.scheduler is not None
    for factory, expected in zip((loaded.optimizer, loaded.scheduler), given.values(), strict=True):
        assert (factory.func, factory.keywords) == (expected.func, expected.keywords)


def test_a_checkpoint_cannot_name_another_class(tmp_path: Path) -> None:
    path = saved(PPOModule(**SIZES), tmp_path / "a.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["optimizer"] = {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}
    torch.save(checkpoint, path)

    with pytest.raises(ValueError, match=r"subprocess\.Popen must be an optimizer or a schedule"):
        PPOModule.load_from_checkpoint(path)
