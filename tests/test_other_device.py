"""What only a GPU would show, shown without one: where the network's device and the CPU's memory must not be mixed."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lightning_rl.callbacks.evaluation_report import EvaluationReport
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.distributed import collectives
from lightning_rl.gpu.captured_step import copy_weights
from lightning_rl.modules import iteration_metrics
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.iteration_metrics import IterationMetrics
from lightning_rl.modules.simple import simulator
from lightning_rl.types import Episodes
from tests.support import dreams
from tests.support.worlds import make_module, make_trainer

ELSEWHERE = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class OnAGPU(Episodes):
    """Episodes that Lightning has moved."""

    def to(self, device: torch.device) -> Episodes:  # type: ignore[override]  # they are not on a GPU any more
        assert device.type == "cpu"
        return Episodes(**vars(self))


def test_episodes_are_kept_and_gathered_in_the_cpus_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[Episodes] = []

    def gather(own: Episodes) -> list[Episodes]:
        gathered.append(own)
        return [own, own]

    monkeypatch.setattr(collectives, "all_gather", gather)
    played = OnAGPU(
        level_set="train_levels", returns=torch.ones(3).double(), lengths=torch.ones(3).long(), level_complete=None
    )
    report = EvaluationReport(tmp_path, method="ppo", checkpoint=lambda: None)

    report.on_test_batch_end(make_trainer(), make_module(), None, played, 0)

    assert [type(own) for own in gathered] == [Episodes]
    assert len(report._episodes[""]["train_levels"].returns) == 6


def test_whatever_is_logged_over_ranks_is_on_the_modules_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.logged: dict[str, Any] = {}

        def log(self, name: str, value: Any, *_: Any, **options: Any) -> None:
            self.logged[name] = value

        def log_dict(self, dictionary: Any, *_: Any, **options: Any) -> None:
            self.logged |= dictionary

    data = Mock(spec=RolloutDataModule, env_steps=20_000_001, total_env_steps=10**9)
    data.collector = Mock(collecting_seconds=1.0, metrics=lambda: {"episode/return": 2.0})
    monkeypatch.setattr(iteration_metrics, "datamodule_of", lambda _: data)
    module, callback, trainer = Recorder().to(ELSEWHERE), IterationMetrics(), make_trainer()

    callback.on_train_start(trainer, module)
    callback.on_train_epoch_start(trainer, module)
    callback.on_train_batch_end(trainer, module, None, None, 0)
    callback.on_train_epoch_end(trainer, module)

    tensors = {name: value for name, value in module.logged.items() if isinstance(value, Tensor)}
    assert {"env_steps", "episode/return", "time/seconds"} <= module.logged.keys()
    assert {name: (value.device, value.dtype) for name, value in tensors.items()} == {
        "env_steps": (ELSEWHERE, torch.float64)
    }


def test_an_imagined_step_takes_its_state_from_the_cpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class SeenError(Exception):
        pass

    def look(obs: Tensor, actions: Tensor, drawn: Any, *, state: Tensor, temperature: float) -> None:
        raise SeenError({obs.device, actions.device, state.device})

    obs, actions = (
        torch.cat(list(dreams.windows(4).frames[:, : dreams.K].unbind(1)), dim=-1),
        torch.tensor([0, 1, 2, 3]),
    )
    state = dreams.module("stochastic").simulator().begin(obs)
    elsewhere = dreams.module("stochastic").to(ELSEWHERE)
    monkeypatch.setattr(elsewhere.world_model, "imagine", look)

    with pytest.raises(SeenError) as seen:
        elsewhere.simulator().imagine(obs, actions, torch.Generator().manual_seed(5), state)

    assert seen.value.args == ({ELSEWHERE},)


def test_each_type_of_weights_is_copied_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    types: list[set[torch.dtype]] = []
    foreach = torch._foreach_copy_

    def remember(to: Any, given: Any) -> None:
        types.append({tensor.dtype for tensor in to})
        foreach(to, given)

    monkeypatch.setattr(torch, "_foreach_copy_", remember)
    given = [torch.randn(3) for _ in range(5)]
    to = [torch.zeros(3, dtype=torch.float32 if number % 2 else torch.bfloat16) for number in range(5)]

    copy_weights(to, given)

    assert types == [{torch.bfloat16}, {torch.float32}]
    assert all(torch.equal(own, other.to(own.dtype)) for own, other in zip(to, given, strict=True))


def test_the_captured_models_lstm_lies_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[nn.Module] = []
    model = dreams.module("stochastic").world_model
    monkeypatch.setattr(nn.LSTM, "flatten_parameters", lambda own: packed.append(own))

    mirror = simulator._mirror_of(model, copy.deepcopy)

    lstms = [layer for layer in mirror.modules() if isinstance(layer, nn.LSTM)]
    assert lstms
    assert {id(layer) for layer in lstms} == {id(layer) for layer in packed}


def test_scaled_gradients_are_not_clipped_for_an_optimizer_that_unscales_them_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RLModule, "_skips_infinite_gradients", True)
    module = make_module()
    fused = torch.optim.Adam(module.parameters(), fused=True)

    with pytest.raises(ValueError, match=r"^model\.optimizer\.fused must be false with trainer\.precision 16-mixed"):
        module.configure_gradient_clipping(fused)

    module.configure_gradient_clipping(torch.optim.Adam(module.parameters()))
