"""One row for each config with what the suites need to know of it: a new method is in all of them by its row."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from _pytest.mark.structures import ParameterSet

from lightning_rl.cli.registry import module_class
from lightning_rl.modules.base import RLModule
from tests.support.teachers import shared_teacher

CONFIGS = Path(__file__).parents[2] / "configs"

Options = dict[str, Any]
"""Options of the command by their names, dots included."""

TINY: Options = {
    "data.game": "dodgeball",
    "seed_everything": 6,  # the first episodes of evaluation are short
    "data.num_envs": 2,
    "data.num_steps": 16,
    "data.validation_episodes": 2,
    "data.test_episodes": 2,
    "data.predict_episodes": 1,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.logger": "false",
    "trainer.enable_progress_bar": "false",
}
"""What makes every run small enough for tests."""


class Variant(NamedTuple):
    """A run of a config with more options.

    Args:
        name: what is special about it.
        options: beside those of a tiny run.
        slow: only slow tests take it.
    """

    name: str
    options: Options
    slow: bool = False


AS_IT_IS = Variant("fp32", {})  # as `TINY` has it


@dataclass(frozen=True, kw_only=True)
class Row:
    """A config as the suites take it.

    Args:
        tiny: what makes its runs small, beside `TINY`.
        of: the row that stands for the same method; this one is another setting, which only trains and resumes.
        overlay: config that it is trained with besides, where none of the variants is trained.
        slow: it trains in slow tests only, since another row has all its parts.
        resumed: runs that are stopped and resumed.
        ranks: with these options two ranks learn what one process would from the games of both; taken of a row of
            another only where it names some.
        disturbed: runs that are killed and stopped at random moments.
        disturbed_iterations: their length for each disturbance.
        enduring: options of a run of 2000 iterations; none where another row's does the same.
        on_gpu: runs that are stopped and resumed on a GPU. Kernels that add in any order show it in images and batches
            of real size only.
        like_cpu: with these options a GPU's losses are the CPU's up to rounding.
    """

    tiny: Options = field(default_factory=dict)
    of: str | None = None
    overlay: str | None = None
    slow: bool = False
    resumed: tuple[Variant, ...] = (AS_IT_IS,)
    ranks: Variant = AS_IT_IS
    disturbed: Options = field(default_factory=dict)
    disturbed_iterations: int = 4
    enduring: Options | None = field(default_factory=dict)
    on_gpu: tuple[Variant, ...] = ()
    like_cpu: Options | None = field(default_factory=dict)


_FP32 = {"trainer.precision": "32-true"}
_MICRO = {"model.micro_batches.size": 8}
_ONE_THREAD = _MICRO | {"model.micro_batches.num_threads": 1}
_BF16_MICRO = {"trainer.precision": "bf16-mixed"} | _MICRO

_TINY_PPO: Options = {"model.epochs": 1, "model.minibatch_size": 16}
RUNNING_STD: Options = {"model.distillation.normalization": "running_std", "model.distillation.num_outputs": 4}
ANNEALED: Options = {
    "model.optimizer": "torch.optim.RMSprop",
    "model.optimizer.momentum": 0.5,
    "model.scheduler": "torch.optim.lr_scheduler.LinearLR",
    "model.scheduler.total_iters": 3,
}
_PPO_ON_GPU = {
    "data.num_envs": 64,
    "data.num_steps": 64,
    "data.total_env_steps": 8192,
    "model.minibatch_size": 1024,
}
_MANY_OF_PPO = {"data.num_steps": 4, "data.iterations_per_epoch": 10, "model.minibatch_size": 8}

_TINY_STUDENT: Options = _TINY_PPO | {"model.teacher": shared_teacher(), "data.iterations_per_epoch": 1}
SEVERAL_GAMES: Options = {"data.game": "[dodgeball, starpilot]"}
_TEACHERS = ", ".join(f"{game}: {shared_teacher(game)}" for game in ("starpilot", "dodgeball"))  # in any order
SEVERAL_TEACHERS: Options = SEVERAL_GAMES | {
    "model.teacher": None,
    "model.teachers": f"{{{_TEACHERS}}}",
    "data.num_levels": 200,  # for which the file has all
}
_PROXIMAL = {"model.loss": "proximal", "model.fading_steps": 100, "model.teacher_share": 0.5}

_TINY_ATARI: Options = {"data.game": "Breakout", "data.max_episode_steps": 12}
_STICKY = {"data.sticky_actions": True}

_TINY_IMPALA: Options = {"model.learning_rate": 1e-3, "data.iterations_per_epoch": 1, "data.num_actors": 0}
_IMPALA_ON_GPU = {"data.num_envs": 32, "data.num_steps": 32, "data.total_env_steps": 2048}
_MANY_OF_IMPALA = {"data.num_steps": 4, "data.iterations_per_epoch": 10}

_TINY_SIMPLE: Options = {
    "model.world_model.hidden": 8,
    "model.world_model.compress_steps": 2,
    "model.world_model.num_targets": 2,
    "model.world_model.batch_size": 2,
    "model.world_model.warm_up": 1,
    "model.world_model.ramp": 2,
    "model.outer_loop.first_world_model_updates": 4,
    "model.outer_loop.world_model_updates": 4,
    "model.outer_loop.world_model_slice": 2,
    "model.outer_loop.imagined_steps": 20,
    "model.outer_loop.policy_slice": 1,
    "model.num_imagined_envs": 2,
    "model.imagined_length": 5,
    "model.epochs": 1,
    "model.minibatch_size": 4,
}
_TINY_LATENT: Options = {
    "model.world_model.recurrent_size": 4,
    "model.world_model.latent.num_bits": 16,
    "model.world_model.latent.channels": 2,
    "model.world_model.latent.prior_size": 4,
}
_SIMPLE_ON_GPU = {
    "data.num_envs": 12,  # the eleventh is held out, for the world model's metrics
    "data.num_steps": 64,
    "data.total_env_steps": 1536,
    "model.world_model.hidden": 64,
    "model.world_model.compress_steps": 5,
    "model.world_model.batch_size": 8,
    "model.num_imagined_envs": 8,
    "model.imagined_length": 10,
    "model.outer_loop.imagined_steps": 160,
    "model.minibatch_size": 40,
}

_MANY_OF_SIMPLE = {
    # a dozen passes, at whose ends the world model is measured and drawn; the eleventh trajectory is held out for that,
    # so that with eleven environments it happens from the first pass on
    "data.num_envs": 11,
    "data.num_steps": 72,
    "model.outer_loop.first_world_model_updates": 160,
    "model.outer_loop.world_model_updates": 160,
    "model.outer_loop.imagined_steps": 800,
}
_ONE_UPDATE = {
    "model.micro_batches": "null",
    "model.world_model.dropout": 0,  # a GPU draws other masks,
    "model.world_model.residual_dropout": 0,
    "model.world_model.num_targets": 1,  # and lets other frames be the model's own
    "model.outer_loop.first_world_model_updates": 1,  # Adam's first step turns rounding into whole learning rates
    "model.outer_loop.world_model_slice": 1,
    "trainer.max_epochs": 1,
}

ROWS = {
    "ppo": Row(
        tiny=_TINY_PPO,
        resumed=(
            Variant("fp32", {}),
            Variant("bf16-micro_batches", _BF16_MICRO, slow=True),  # SimPLe's policy learns so, too
            Variant("rmsprop-annealed", ANNEALED, slow=True),
            Variant("games-fp32", SEVERAL_GAMES, slow=True),
        ),
        ranks=Variant("micro_batches", _ONE_THREAD, slow=True),
        enduring=None,
        on_gpu=(
            Variant("bf16", _PPO_ON_GPU),
            Variant("fp32", _PPO_ON_GPU | _FP32),
            Variant("fp16", _PPO_ON_GPU | {"trainer.precision": "16-mixed"}),
        ),
    ),
    "ppo_distill": Row(
        tiny=_TINY_PPO,
        resumed=(Variant("scale-bf16-micro_batches", _BF16_MICRO, slow=True), Variant("running_std-fp32", RUNNING_STD)),
        ranks=Variant(
            "running_std",
            RUNNING_STD
            | {"model.normalize_advantages": "minibatch", "model.distillation.dropout": 0.0, "model.dropout": 0.0},
            slow=True,
        ),
        enduring=_MANY_OF_PPO,
        on_gpu=(Variant("scale-bf16", _PPO_ON_GPU), Variant("running_std-bf16", _PPO_ON_GPU | RUNNING_STD)),
        like_cpu={"model.dropout": 0, "model.distillation.dropout": 0},
    ),
    "policy_distill": Row(
        tiny=_TINY_STUDENT,
        resumed=(
            Variant("proximal-fp32", _PROXIMAL | {"model.teacher_share_steps": 80}),
            Variant("games-fp32", SEVERAL_TEACHERS, slow=True),
        ),
        ranks=Variant("games-values", SEVERAL_TEACHERS | {"model.regress_values": True}, slow=True),
        enduring=None,
        on_gpu=(Variant("bf16", _PPO_ON_GPU),),
    ),
    "policy_distill_lstm": Row(
        of="policy_distill",
        slow=True,
        resumed=(Variant("values-fp32", {"model.regress_values": True}, slow=True),),
        ranks=Variant("values", {"model.regress_values": True}, slow=True),
    ),
    "ppo_distill_rnd": Row(of="ppo_distill", slow=True, resumed=()),
    "quickstart": Row(of="ppo", slow=True, resumed=()),
    "ppo_atari": Row(
        of="ppo",
        tiny=_TINY_ATARI | {"data.iterations_per_epoch": 1},
        resumed=(Variant("sticky-fp32", _STICKY),),
        on_gpu=(
            Variant(
                "bf16",
                {"data.num_envs": 8, "data.num_steps": 64, "data.total_env_steps": 1024, "model.minibatch_size": 256},
            ),
        ),
    ),
    "impala": Row(
        tiny=_TINY_IMPALA,
        resumed=(Variant("fp32", {}, slow=True),),
        ranks=Variant("fp32", {}, slow=True),
        enduring=None,
        on_gpu=(Variant("bf16", _IMPALA_ON_GPU),),
    ),
    "impala_cpu": Row(of="impala", slow=True, resumed=()),
    "impala_vae": Row(
        tiny=_TINY_IMPALA,
        slow=True,
        resumed=(
            Variant("surprise-bf16-micro_batches", _BF16_MICRO | {"model.surprise.weight": 1e-3}),
            Variant("minibatches-fp32", {"model.vae.minibatch_size": 8}, slow=True),
        ),
        ranks=Variant("micro_batches", _ONE_THREAD | {"model.vae.update_interval": 2}, slow=True),
        disturbed={"data.num_actors": 2},  # processes that must not survive
        enduring=_MANY_OF_IMPALA,
        on_gpu=(Variant("bf16", _IMPALA_ON_GPU), Variant("actors", _IMPALA_ON_GPU | {"data.num_actors": 2})),
    ),
    "impala_vae_cpu": Row(of="impala_vae", tiny={"model.vae.minibatch_size": 8}, overlay="hardware/cpu", resumed=()),
    "impala_vae_sm": Row(of="impala_vae", slow=True, resumed=(), on_gpu=(Variant("fp32", _IMPALA_ON_GPU | _FP32),)),
    "simple_cpu": Row(
        tiny=_TINY_SIMPLE,
        resumed=(Variant("bf16-micro_batches", _BF16_MICRO),),
        ranks=Variant("undropped", {"model.world_model.residual_dropout": 0.0, "model.world_model.ramp": 10**9}),
        disturbed_iterations=1,  # of several epochs each
        enduring=_MANY_OF_SIMPLE,
        on_gpu=(Variant("deterministic-bf16", _SIMPLE_ON_GPU | {"model.micro_batches": "null"}),),
        like_cpu=_ONE_UPDATE,
    ),
    "simple": Row(
        of="simple_cpu",
        tiny=_TINY_LATENT,
        slow=True,
        resumed=(Variant("real-fp32", {"model.learn_from_real": True}, slow=True),),
        on_gpu=(
            Variant("stochastic-bf16", _SIMPLE_ON_GPU),
            Variant("stochastic-not-captured", _SIMPLE_ON_GPU | {"model.captured_acting": False}),
            Variant("stochastic-fp32", _SIMPLE_ON_GPU | _FP32),
        ),
    ),
    "simple_atari": Row(
        of="simple_cpu",
        tiny=_TINY_LATENT | _TINY_ATARI,
        slow=True,
        resumed=(Variant("sticky-fp32", _STICKY, slow=True),),
    ),
    "simple_atari_cpu": Row(of="simple_cpu", tiny=_TINY_ATARI, slow=True, overlay="hardware/cpu", resumed=()),
}

METHODS = {config: row for config, row in ROWS.items() if row.of is None}
"""Those that stand for a method."""


def variants(of: Callable[[Row], Iterable[Variant]], *, module: type[RLModule] | None = None) -> list[ParameterSet]:
    """Parameters `config` and `options` of a test that takes some of the rows' variants; all classes' or one's."""
    return [
        pytest.param(config, variant.options, id=f"{config}-{variant.name}", marks=[pytest.mark.slow] * variant.slow)
        for config, row in ROWS.items()
        if module is None or module_of(config) is module
        for variant in of(row)
    ]


def tiny(config: str) -> Options:
    """Options of a tiny run."""
    row = ROWS[config]
    return (TINY if row.of is None else tiny(row.of)) | row.tiny


def module_of(config: str) -> type[RLModule]:
    """The class that the config names."""
    named = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["model"]["class_path"]
    return module_class(named)
