"""What a GPU must keep: the bits of a run that is stopped and resumed, and the CPU's losses up to rounding.

`pytest -m gpu`, where there is one.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.methods import METHODS, Options, variants
from tests.support.runs import fit, rows, unlike

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

ON_GPU: dict[str, Any] = {"trainer__accelerator": "gpu", "trainer__precision": "bf16-mixed"}


@pytest.mark.parametrize(("config", "options"), variants(lambda row: row.on_gpu))
def test_stopped_and_resumed_on_a_gpu_a_run_has_the_bits_of_one_that_never_stopped(
    config: str, options: Options, tmp_path: Path
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
    ("config", "options"), [(config, row.like_cpu) for config, row in METHODS.items() if row.like_cpu is not None]
)
def test_a_gpu_computes_the_losses_of_the_cpu(
    config: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
