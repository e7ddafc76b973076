"""What a GPU must keep: the bits of a run that is stopped and resumed, and the CPU's losses up to rounding.

`pytest -m gpu`, where there is one.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.runs import fit, rows, unlike

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

ON_GPU: dict[str, Any] = {"trainer__accelerator": "gpu", "trainer__precision": "bf16-mixed"}

# Kernels that add in any order show it in images and batches of real size only.
PPO = {"data__num_envs": 64, "data__num_steps": 64, "model__minibatch_size": 1024, "data__total_env_steps": 8192}
ATARI = {"data__num_envs": 8, "data__num_steps": 64, "model__minibatch_size": 256, "data__total_env_steps": 1024}
IMPALA = {"data__num_envs": 32, "data__num_steps": 32, "data__total_env_steps": 2048}
SIMPLE = {
    "data__num_envs": 4,
    "data__num_steps": 64,
    "data__total_env_steps": 512,
    "model__world_model__hidden": 64,
    "model__world_model__compress_steps": 5,
    "model__world_model__batch_size": 8,
    "model__num_imagined_envs": 8,
    "model__imagined_length": 10,
    "model__outer_loop__imagined_steps": 160,
    "model__minibatch_size": 40,
}
ONE_UPDATE = {
    "model__micro_batches": "null",
    "model__world_model__dropout": 0,  # a GPU draws other masks,
    "model__world_model__residual_dropout": 0,
    "model__world_model__num_targets": 1,  # and lets other frames be the model's own
    "model__outer_loop__first_world_model_updates": 1,  # Adam's first step turns rounding into whole learning rates
    "model__outer_loop__world_model_slice": 1,
    "trainer__max_epochs": 1,
}
RUNNING_STD = {"model__distillation__normalization": "running_std", "model__distillation__num_outputs": 4}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param("ppo", PPO, id="ppo-bf16"),
        pytest.param("ppo", PPO | {"trainer__precision": "32-true"}, id="ppo-fp32"),
        pytest.param("ppo", PPO | {"trainer__precision": "16-mixed"}, id="ppo-fp16"),
        pytest.param("ppo_distill", PPO, id="ppo_distill-scale-bf16"),
        pytest.param("ppo_distill", PPO | RUNNING_STD, id="ppo_distill-running_std-bf16"),
        pytest.param("ppo_atari", ATARI, id="ppo_atari-bf16"),
        pytest.param("impala", IMPALA, id="impala-bf16"),
        pytest.param("impala_vae", IMPALA, id="impala_vae-bf16"),
        pytest.param("impala_vae_sm", IMPALA | {"trainer__precision": "32-true"}, id="impala_vae_sm-fp32"),
        pytest.param("impala_vae", IMPALA | {"data__num_actors": 2}, id="impala_vae-actors"),
        pytest.param("simple", SIMPLE, id="simple-stochastic-bf16"),
        pytest.param("simple", SIMPLE | {"trainer__precision": "32-true"}, id="simple-stochastic-fp32"),
        pytest.param("simple_cpu", SIMPLE | {"model__micro_batches": "null"}, id="simple-deterministic-bf16"),
    ],
)
def test_stopped_and_resumed_on_a_gpu_a_run_has_the_bits_of_one_that_never_stopped(
    config: str, options: dict[str, Any], tmp_path: Path
) -> None:
    options = ON_GPU | options
    steps = options["data__total_env_steps"]
    straight = fit(tmp_path / "straight", config=config, **options)

    fit(tmp_path / "run", config=config, **options | {"data__total_env_steps": steps // 2})
    torch.manual_seed(99)  # the GPU's, too: whatever a new process finds in its generators
    resumed = fit(tmp_path / "run", "--ckpt_path", "last", config=config, **options)

    assert unlike(straight, resumed) == []
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param("ppo", {}, id="ppo"),
        pytest.param("ppo_distill", {"model__dropout": 0, "model__distillation__dropout": 0}, id="ppo_distill"),
        pytest.param("impala_vae", {}, id="impala_vae"),
        pytest.param("simple_cpu", ONE_UPDATE, id="simple"),
    ],
)
def test_a_gpu_computes_the_losses_of_the_cpu(
    config: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for device in ("cpu", "gpu"):
        fit(tmp_path / device, config=config, iterations=1, trainer__accelerator=device, **options)

    cpu, gpu = (rows(tmp_path / device)[0] for device in ("cpu", "gpu"))
    losses = [key for key in cpu if key.startswith("loss/")]
    assert losses
    for key in losses:
        assert float(gpu[key]) == pytest.approx(float(cpu[key]), rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize(("first", "second", "fused"), [("gpu", "cpu", True), ("cpu", "gpu", None)])
def test_what_one_device_has_learned_the_other_goes_on_with(
    first: str, second: str, fused: bool | None, tmp_path: Path
) -> None:
    begun = fit(tmp_path, config="ppo_distill", iterations=1, trainer__accelerator=first)

    done = fit(tmp_path, "--ckpt_path", "last", config="ppo_distill", iterations=2, trainer__accelerator=second)

    assert done["global_step"] == 2 * begun["global_step"]
    assert [group["fused"] for group in done["optimizer_states"][0]["param_groups"]] == [fused] * 2
    assert [row["env_steps"] for row in rows(tmp_path)] == ["32", "64"]
