"""What a GPU must keep: the bits of a run that is stopped and resumed, and the CPU's losses up to rounding.

Acting is captured as a CUDA graph there, and the environments take turns in two halves where they can.

`pytest -m gpu`, where there is one.
"""

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rl.cli.program import main
from lightning_rl.data import deciding
from lightning_rl.data.deciding import captured_steps, forget
from lightning_rl.gpu.captured_step import CapturedStep
from lightning_rl.types import TensorFields
from tests.benchmarks import gpu
from tests.support.methods import METHODS, Options, variants
from tests.support.runs import fit, rows, unlike

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

CAPTURED: Options = {"model.captured_acting": True}
ON_GPU: Options = {"trainer.accelerator": "gpu", "trainer.devices": 1, "trainer.precision": "bf16-mixed"}
STEPS = "data.total_env_steps"


@pytest.mark.parametrize("halves", [2, 1])
@pytest.mark.parametrize(("config", "options"), variants(lambda row: row.on_gpu))
def test_stopped_and_resumed_on_a_gpu_a_run_has_the_bits_of_one_that_never_stopped(
    config: str, options: Options, halves: int, tmp_path: Path
) -> None:
    options = ON_GPU | CAPTURED | options
    if halves == 2 and "data.num_actors" not in options:
        options |= {"data.halves": 2}
    steps = options[STEPS]
    straight = fit(tmp_path / "straight", config=config, **options)

    fit(tmp_path / "run", config=config, **options | {STEPS: steps // 2})
    torch.manual_seed(99)  # the GPU's, too: whatever a new process finds in its generators
    resumed = fit(tmp_path / "run", "--ckpt_path", "last", config=config, **options)

    assert unlike(straight, resumed) == []
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")


@pytest.mark.parametrize("config", METHODS)
def test_what_a_gpu_has_trained_is_judged_and_played_there(config: str, tmp_path: Path) -> None:
    fit(tmp_path, config=config, iterations=1, **ON_GPU)
    checkpoint = ["--ckpt_path", str(tmp_path / "last.ckpt"), "--trainer.accelerator", "gpu", "--trainer.devices", "1"]

    assert [main([command, *checkpoint]) for command in ("validate", "test", "predict")] == [0, 0, 0]

    assert json.loads((tmp_path / "test.json").read_text())["level_sets"]
    assert (tmp_path / "episodes.npz").exists()


@pytest.mark.parametrize(("config", "options"), variants(lambda row: row.on_gpu[:1]))
def test_acting_is_captured_as_a_graph(
    config: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[bool] = []

    def look(learner: Any) -> None:
        graphs.extend(step.is_graph for step in captured_steps(learner))
        forget(learner)

    monkeypatch.setattr(deciding, "forget", look)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="acting is not captured")
        fit(tmp_path, config=config, **ON_GPU | CAPTURED | options)

    assert graphs
    assert all(graphs)


def test_a_graph_leads_to_the_weights_of_the_eager_path_over_20_updates() -> None:
    found = gpu.equality(gpu.parser().parse_args(["--games", "starpilot", "--num-steps", "64"]))

    assert found["updates"] == 20
    assert found["holds"], found


@dataclass(frozen=True, kw_only=True)
class Numbers(TensorFields):
    of_the_cpu: Tensor
    of_the_gpu: Tensor


def test_a_captured_function_takes_inputs_from_both_devices() -> None:
    device = torch.device("cuda", torch.cuda.current_device())

    def given(number: float) -> Numbers:
        return Numbers(of_the_cpu=torch.full((3,), number), of_the_gpu=torch.full((3,), 10 * number, device=device))

    def added(numbers: Numbers) -> Numbers:
        return replace(numbers, of_the_gpu=numbers.of_the_cpu + numbers.of_the_gpu)

    step = CapturedStep(added, given(0.0), device=device)

    assert step.is_graph
    assert [step(given(number)).of_the_gpu.tolist() for number in (1.0, 2.0)] == [[11.0] * 3, [22.0] * 3]


def test_what_cannot_be_captured_runs_all_the_same_and_is_said_once() -> None:
    device = torch.device("cuda", torch.cuda.current_device())

    def waits(numbers: Numbers) -> Numbers:
        return replace(numbers, of_the_gpu=numbers.of_the_gpu + float(numbers.of_the_gpu[0]))

    example = Numbers(of_the_cpu=torch.ones(2), of_the_gpu=torch.ones(2, device=device))
    with pytest.warns(UserWarning, match="acting is not captured as a CUDA graph, which makes it slower: "):
        step = CapturedStep(waits, example, device=device)

    assert not step.is_graph
    assert [step(example).of_the_gpu.tolist() for _ in range(2)] == [[2.0, 2.0]] * 2


@pytest.mark.parametrize(
    ("config", "options"), [(config, row.like_cpu) for config, row in METHODS.items() if row.like_cpu is not None]
)
def test_a_gpu_computes_the_losses_of_the_cpu(
    config: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for device in ("cpu", "gpu"):
        fit(tmp_path / device, config=config, iterations=1, trainer__accelerator=device, trainer__devices=1, **options)

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
