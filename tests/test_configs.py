"""Every config file: it parses, builds and trains, says nothing twice, and holds the papers' numbers."""

import math
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.optim.lr_scheduler import LinearLR

from lightning_rl.cli.command import RunCLI
from lightning_rl.runs.metrics_csv import read_metrics
from tests.support.command_lines import resolved
from tests.support.methods import CONFIGS, ROWS, Row
from tests.support.runs import ENV_STEPS, fit_args, load
from tests.support.shared_runs import SharedRuns

METHODS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
OVERLAYS: dict[str, list[tuple[str, ...]]] = {
    "hardware/cpu": [("ppo",)],
    "hardware/gpu": [("ppo",)],
    "scale/hard": [("ppo",)],
    "scale/impala_cpu": [("impala",)],
    "scale/impala_vae_cpu": [("impala_vae", "scale/impala_cpu")],
    "scale/quickstart": [("ppo",)],
    "scale/simple_cpu": [("simple",), ("simple_atari",)],
    "scale/simple_stochastic_cpu": [("simple",)],
    "scale/simple_atari_cpu": [("simple_atari", "scale/simple_cpu")],
    "variants/annealed": [("ppo_atari",)],
    "variants/rnd": [("ppo",), ("ppo_distill",)],
    "variants/impoola": [("ppo",), ("impala",)],
    "variants/surprise": [("impala_vae",)],
}
"""Each overlay, and what it is given over."""

COMPOSED: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "impala_cpu": (("impala", "scale/impala_cpu"), {}),
    "impala_vae_cpu": (("impala_vae", "scale/impala_cpu", "scale/impala_vae_cpu"), {}),
    "impala_vae_sm": (("impala_vae", "variants/surprise"), {}),
    "ppo_distill_rnd": (("ppo", "variants/rnd"), {}),
    "quickstart": (("ppo", "scale/quickstart"), {}),
    "simple_cpu": (("simple", "scale/simple_cpu"), {"data__game": "chaser"}),
    "simple_atari_cpu": (("simple_atari", "scale/simple_cpu", "scale/simple_atari_cpu"), {"data__game": "ms_pacman"}),
}
"""Configs that others make too, one over the other. Their names are a contract, and a file cannot include another."""


def build(*configs: str, options: tuple[str, ...] = ()) -> RunCLI:
    args = [text for config in configs for text in ("--config", str(CONFIGS / config))]
    return RunCLI(["fit", *args, "--run_dir", "absent", *options])


def test_every_config_has_a_row() -> None:
    assert sorted(ROWS) == METHODS


@pytest.mark.parametrize(
    ("config", "row"),
    [pytest.param(*item, id=item[0], marks=[pytest.mark.slow] * item[1].slow) for item in ROWS.items()],
)
def test_it_trains_two_iterations(config: str, row: Row, tmp_path: Path, runs: SharedRuns) -> None:
    as_it_is = {"overlay": row.overlay, "trainer__precision": None, "model__epochs": None}
    options: dict[str, Any] = row.resumed[0].options if row.resumed else as_it_is  # those are trained anyway
    cli = RunCLI(fit_args(tmp_path / "run", config=config, **options))
    learning = {name for name, parameter in cli.model.named_parameters() if parameter.requires_grad}
    before = {key: value for key, value in cli.model.state_dict().items() if key in learning}

    run = runs.finished(config, **options)

    checkpoint = load(run)

    after = {key: checkpoint["state_dict"][key] for key in before}
    assert checkpoint[type(cli.datamodule).__qualname__]["env_steps"] == 2 * ENV_STEPS
    assert [key for key in before if torch.equal(before[key], after[key])] == []
    assert all(tensor.isfinite().all() for tensor in after.values())
    explained = re.findall(r"`([^`\n]+)`", (CONFIGS / "README.md").read_text())
    assert [key for key in read_metrics(run / "metrics.csv")[-1] if key not in explained] == []


def leaves(config: dict[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of nested dictionaries, by their keys; an empty dictionary is a value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, *above, key)
        else:
            yield (*above, key), value


def bare(config: dict[str, Any]) -> dict[str, Any]:
    """A config that names the same classes and groups, and gives no values."""
    groups = {key: bare(value) for key, value in config.items() if isinstance(value, dict) and value}
    return groups | {key: value for key, value in config.items() if key == "class_path"}


def test_every_overlay_is_known() -> None:
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("*/*.yaml")}
    assert {name for name in files if not name.startswith("cluster/")} == OVERLAYS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, *OVERLAYS])
def test_each_of_its_keys_changes_something(name: str, tmp_path: Path) -> None:
    given: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    without = tmp_path / "without.yaml"
    without.write_text(yaml.safe_dump(bare(given)))

    below = [resolved(*base, without) for base in OVERLAYS.get(name, [()])]

    said = ("class_path", "game")  # what a run is about may be said
    values = {keys: value for keys, value in leaves(given) if keys[-1] not in said}
    idle = [
        ".".join(keys)
        for keys, value in values.items()
        if all(reduce(dict.__getitem__, keys, config) == value for config in below)
    ]
    assert idle == []


@pytest.mark.parametrize("name", COMPOSED)
def test_it_is_what_others_make_one_over_the_other(name: str) -> None:
    configs, options = COMPOSED[name]

    assert resolved(name) == resolved(*configs, **options)


def test_impala_plays_the_same_games_with_and_without_an_autoencoder() -> None:
    assert resolved("impala")["data"] == resolved("impala_vae")["data"]


def test_the_hard_setting_is_the_benchmarks() -> None:
    easy, hard = resolved("ppo"), resolved("ppo", "scale/hard")
    games = hard["data"]["init_args"]
    assert (games["distribution_mode"], games["num_levels"], games["start_level"]) == ("hard", 500, 0)
    assert games["total_env_steps"] == 200_000_000
    assert hard["model"] == easy["model"]


def test_overlays_combine_to_what_no_file_has() -> None:
    cli = build("impala_vae_cpu.yaml", "variants/surprise.yaml")
    assert (cli.method, cli.model.surprise.weight, cli.datamodule.num_steps) == ("impala_vae_sm", 3e-5, 16)


def test_ppo_is_openais_baseline() -> None:
    cli = build("ppo.yaml")
    model, data = cli.model, cli.datamodule
    assert (model.learning_rate, model.adam_epsilon, model.gamma, model.lambda_) == (5e-4, 1e-5, 0.999, 0.95)
    assert (data.num_steps, data.num_envs, model.minibatch_size, model.epochs) == (256, 64, 2048, 3)
    assert model.batches_per_iteration(data.num_steps, data.num_envs) == 24
    assert (model.epsilon, model.value_epsilon, model.max_grad_norm) == (0.2, 0.2, 0.5)
    assert model.loss_weights == {"policy": 1.0, "value": 0.5, "entropy": 0.01}
    assert model.normalize_advantages == "minibatch"
    assert cli.method == "ppo"
    assert (data.distribution_mode, data.num_levels, data.start_level) == ("easy", 200, 0)
    assert data.total_env_steps == 25_000_000
    scaling = cli.config.fit.data.init_args
    assert (scaling.return_scaling, scaling.return_scaling_gamma) == (True, 0.99)
    optimizer = model.configure_optimizers()
    assert [(group["lr"], group["eps"]) for group in optimizer.param_groups] == [(5e-4, 1e-5)]


def test_ppo_atari_is_table_5_of_schulman() -> None:
    cli = build("ppo_atari.yaml")
    model, data = cli.model, cli.datamodule
    assert (model.learning_rate, model.gamma, model.lambda_, model.epsilon) == (2.5e-4, 0.99, 0.95, 0.1)
    assert (data.num_envs, data.num_steps, model.minibatch_size, model.epochs) == (8, 128, 32 * 8, 3)
    assert model.batches_per_iteration(data.num_steps, data.num_envs) == 12
    assert model.loss_weights == {"policy": 1.0, "value": 2.0, "entropy": 0.01}  # of half the squared error
    assert (model.value_epsilon, cli.method) == (None, "ppo")
    assert (data.total_env_steps, data.frame_stack, data.reward_clipping) == (10_000_000, 4, True)
    assert (data.sticky_actions, data.max_no_ops, data.max_episode_steps) == (False, 8, 108_000 // 4)
    assert (data.game, data.obs_shape, data.num_actions) == ("pong", (105, 80, 12), 6)


@pytest.mark.parametrize(
    ("configs", "end"), [(("ppo_atari.yaml", "variants/annealed.yaml"), 0), (("policy_distill.yaml",), 0.1)]
)
def test_a_falling_rate_is_at_its_end_with_the_run(configs: tuple[str, ...], end: float) -> None:
    teacher = ("--data.game", "starpilot", "--model.teacher", str(CONFIGS.parent / "checkpoints" / "ppo-starpilot"))
    cli = build(*configs, options=teacher if "policy_distill.yaml" in configs else ())
    data, schedule = cli.datamodule, cli.model.scheduler
    boundary = data.num_envs * data.num_steps * cli.config.fit.data.init_args.iterations_per_epoch
    assert (schedule.func, schedule.keywords["start_factor"], schedule.keywords["end_factor"]) == (LinearLR, 1, end)
    assert schedule.keywords["total_iters"] == math.ceil(data.total_env_steps / boundary)


def test_ppo_distill_is_rullos_table_1() -> None:
    cli = build("ppo_distill.yaml")
    model, data, distillation = cli.model, cli.datamodule, cli.model.distillation
    assert (model.learning_rate, distillation.learning_rate, model.gamma) == (5e-4, 2e-4, 0.999)
    assert (model.loss_weights["entropy"], model.lambda_, model.epsilon) == (0.01, 0.95, 0.2)
    assert (model.loss_weights["value"], model.loss_weights["intrinsic_value"]) == (0.5, 0.5)
    assert (data.num_envs, data.total_env_steps, data.num_steps) == (24, 2_000_000, 256)
    assert (model.epochs, model.minibatch_size, distillation.scale) == (2, 2048, 100.0)
    assert model.batches_per_iteration(data.num_steps, data.num_envs) == 6
    assert (distillation.normalization, distillation.max_reward, distillation.num_outputs) == ("scale", 10.0, 1)
    assert (distillation.gamma, distillation.episodic) == (0.999, True)
    assert (distillation.extrinsic_weight, distillation.intrinsic_weight) == (1.0, 1.0)
    assert model.normalize_advantages == "rollout"
    assert (data.distribution_mode, data.num_levels, data.start_level) == ("easy", 200, 1)
    optimized = [(group["lr"], group["eps"]) for group in model.configure_optimizers().param_groups]
    assert optimized == [(5e-4, 1e-5), (2e-4, 1e-8)]


def test_ppo_distill_rnd_is_openais_ppo_with_a_normalised_intrinsic_reward() -> None:
    cli, alone = build("ppo_distill_rnd.yaml"), build("ppo.yaml")
    distillation = cli.model.distillation
    assert (distillation.normalization, distillation.num_outputs, distillation.dropout) == ("running_std", 512, 0.0)
    assert (distillation.gamma, distillation.episodic) == (0.99, False)
    assert (distillation.extrinsic_weight, distillation.intrinsic_weight) == (2.0, 1.0)
    assert distillation.update_share * cli.model.minibatch_size == 1024  # as Burda et al., and CleanRL's 0.25 of 4096
    assert cli.config.fit.data == alone.config.fit.data
    given, ppos = (each.config.fit.model.init_args.as_dict() for each in (cli, alone))
    assert {key: value for key, value in given.items() if value != ppos.get(key)}.keys() == {"distillation"}


@pytest.mark.parametrize("config", ["impala.yaml", "impala_vae.yaml"])
def test_impala_is_tables_a_1_and_a_2_of_xu_and_kaneko(config: str) -> None:
    cli = build(config)
    model, data = cli.model, cli.datamodule
    assert (data.num_envs, data.num_steps, data.total_env_steps) == (32, 80, 100_000_000)
    assert (model.gamma, model.learning_rate, model.adam_epsilon, model.max_grad_norm) == (0.99, 1e-5, 1e-8, 100)
    assert model.loss_weights == {"policy": 1.0, "value": 0.5, "entropy": 0.01}
    assert (model.max_rho, model.max_c, model.max_pg_rho, model.max_abs_reward) == (1, 1, 1, 1)
    assert (data.distribution_mode, data.num_levels, data.start_level) == ("hard", 500, 0)
    assert cli.config.fit.data.init_args.return_scaling is False
    options = cli.config.fit.data.init_args
    assert (options.paint_vel_info, options.use_generated_assets) == (False, False)
    assert (options.center_agent, options.use_sequential_levels) == (True, False)
    groups = model.configure_optimizers().param_groups
    assert [group["betas"] for group in groups] == [(0.9, 0.999)] * len(groups)
    assert cli.method == config.removesuffix(".yaml")
    if cli.method == "impala_vae":
        vae = cli.config.fit.model.init_args.vae
        assert (vae.latent_size, vae.images, vae.feed) == (64, "binary", "sample")


def test_the_cpu_overlay_cuts_minibatches_and_changes_nothing_else() -> None:
    alone, overlaid = build("ppo_distill.yaml"), build("ppo_distill.yaml", "hardware/cpu.yaml")
    assert (overlaid.model.micro_batches.size, overlaid.model.micro_batches.num_threads) == (256, 2)
    first, second = alone.config.fit.model.init_args.clone(), overlaid.config.fit.model.init_args.clone()
    second.micro_batches = first.micro_batches
    assert first == second
    assert alone.config.fit.data == overlaid.config.fit.data


@pytest.mark.parametrize("config", ["simple.yaml", "simple_atari.yaml"])
def test_simple_is_kaisers(config: str) -> None:
    cli = build(config)
    model, data = cli.model, cli.datamodule
    loop, options = model.outer_loop, model.options
    assert data.num_envs * data.num_steps == 6400
    assert data.total_env_steps == 16 * 6400 == 102_400
    assert (loop.first_world_model_updates, loop.world_model_updates) == (45_000, 15_000)
    rollouts = [loop.rollouts(index, model.num_imagined_envs * model.imagined_length) for index in range(15)]
    assert (model.num_imagined_envs, model.imagined_length, sum(rollouts) * 16 * 50) == (16, 50, 15_200_000)
    assert [index + 1 for index, count in enumerate(rollouts) if count != 1000] == [8, 12, 15]
    assert (model.gamma, model.lambda_, model.epsilon, model.epochs, model.minibatch_size) == (0.99, 0.95, 0.1, 3, 320)
    assert model.loss_weights == {"policy": 1.0, "value": 2.0, "entropy": 0.01}  # of half the squared error
    assert (model.learning_rate, model.max_grad_norm, model.learn_from_real) == (1e-4, 0.5, False)
    assert (options.hidden, options.filter_double_steps, options.num_targets, options.batch_size) == (96, 3, 6, 4)
    assert (options.dropout, options.residual_dropout, options.recurrent_size) == (0.15, 0.5, 64)
    assert (options.learning_rate, options.warm_up, options.max_grad_norm, options.ramp) == (2e-3, 2000, 1.0, 40_000)
    assert (options.frame_cutoff, model.reward_cutoff, options.pixels) == (0.03, 0.03, "softmax")
    assert (options.latent.num_bits, options.latent.bits_per_symbol, options.latent.noise) == (128, 8, 0.1)
    assert (data.frame_stack, model.num_frames) == (4, 4)
    optimizers = model.configure_optimizers()._optimizers
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["Adafactor", "Adam"]
    assert (optimizers[1].param_groups[0]["betas"], optimizers[1].param_groups[0]["eps"]) == ((0.85, 0.997), 1e-6)
    paper = config == "simple_atari.yaml"
    assert (options.compress_steps, options.pooling, options.predict_ends) == (
        (6, "mean", False) if paper else (5, "mean_max", True)
    )
