import copy
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, RMSprop
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, ReduceLROnPlateau
from torch.testing import assert_close

from lightning_rl import ImpalaVAEModule
from lightning_rl.modules.optimizers import JointOptimizer, adam, fused_on
from lightning_rl.runs import checkpoint_files
from tests.support.worlds import Batches, draw_rollout, fit, make_distilled, make_module, whole_batch


def test_parameters_of_any_layout_go_where_torchs_own_adam_takes_them() -> None:
    torch.manual_seed(0)
    ours, torchs = nn.Conv2d(3, 5, 4), nn.Conv2d(3, 5, 4)
    for net in (ours, torchs):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    torchs.load_state_dict(ours.state_dict())
    groups = [[{"params": [net.weight], "lr": 1e-2}, {"params": [net.bias], "lr": 0.1}] for net in (ours, torchs)]
    optimizers = adam(groups[0], eps=1e-5), torch.optim.Adam(groups[1], eps=1e-5, foreach=False)
    assert optimizers[0].defaults["fused"]
    images = torch.randn(7, 3, 8, 8)

    for _ in range(5):
        for net, optimizer in zip((ours, torchs), optimizers, strict=True):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()

    assert_close(ours.state_dict(), torchs.state_dict())


def test_only_on_a_cpu_it_is_fused() -> None:
    assert fused_on("cpu") is True
    assert fused_on("cuda") is None


def networks() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(5)
    return nn.Linear(3, 2), nn.Linear(2, 5)


def joint(first: nn.Module, second: nn.Module) -> JointOptimizer:
    return JointOptimizer(
        [torch.optim.Adafactor(first.parameters(), lr=0.1), torch.optim.Adam(second.parameters(), lr=0.01)]
    )


def stepped(optimizer: torch.optim.Optimizer, *modules: nn.Module, times: int = 3) -> list[Tensor]:
    """The parameters after so many steps on losses that depend on the step."""
    for number in range(1, times + 1):
        optimizer.zero_grad()
        for module in modules:
            for parameter in module.parameters():
                parameter.grad = torch.sin(parameter.detach() + number)
        optimizer.step()
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def test_it_steps_as_each_of_them_alone() -> None:
    first, second = networks()
    alone = [
        *stepped(torch.optim.Adafactor(first.parameters(), lr=0.1), first),
        *stepped(torch.optim.Adam(second.parameters(), lr=0.01), second),
    ]

    first, second = networks()
    together = stepped(joint(first, second), first, second)

    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def test_a_network_without_gradients_stays_as_it_is_and_so_does_what_is_remembered_of_it() -> None:
    first, second = networks()
    optimizer = joint(first, second)
    stepped(optimizer, first, second)
    before = [parameter.detach().clone() for parameter in second.parameters()]
    remembered = copy.deepcopy(optimizer.state[second.weight])

    stepped(optimizer, first)

    assert all(torch.equal(*pair) for pair in zip(before, second.parameters(), strict=True))
    assert all(torch.equal(optimizer.state[second.weight][key], remembered[key]) for key in ("step", "exp_avg"))


def test_a_saved_state_goes_on_to_the_same_bits() -> None:
    first, second = networks()
    optimizer = joint(first, second)
    stepped(optimizer, first, second)
    saved = copy.deepcopy(optimizer.state_dict())
    weights = [copy.deepcopy(module.state_dict()) for module in (first, second)]
    expected = stepped(optimizer, first, second, times=4)

    first, second = networks()
    first.load_state_dict(weights[0])
    second.load_state_dict(weights[1])
    continued = joint(first, second)
    continued.load_state_dict(saved)

    assert all(torch.equal(*pair) for pair in zip(expected, stepped(continued, first, second, times=4), strict=True))


def test_a_learning_rate_that_is_changed_from_outside_holds_also_after_loading() -> None:
    first, second = networks()
    optimizer = joint(first, second)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    optimizer.param_groups[1]["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in second.parameters()]
    stepped(optimizer, first, second)

    assert all(torch.equal(*pair) for pair in zip(before, second.parameters(), strict=True))


def test_a_closure_is_called_with_gradients() -> None:
    first, second = networks()
    optimizer = joint(first, second)

    def closure() -> Tensor:
        loss: Tensor = first(torch.ones(3)).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)

    assert loss is not None
    assert loss.requires_grad
    assert first.weight.grad is not None


class KeepsRates(Callback):
    """The groups' learning rates in each epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rates += [group["lr"] for group in trainer.optimizers[0].param_groups]


def trained(callback: Callback, **options: Any) -> Trainer:
    module = make_distilled(learning_rate=2**-10, distillation={"learning_rate": 2**-11}, **options)
    batches = Batches(*[whole_batch(module, draw_rollout(2))] * 2)
    return fit(module, batches, max_epochs=4, callbacks=[callback])


def test_a_schedule_changes_every_groups_rate_at_each_epochs_end() -> None:
    kept = KeepsRates()

    trained(kept, scheduler=partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=4))

    expected = [share * rate for share in (1.0, 0.75, 0.5, 0.25) for rate in (2**-10, 2**-11)]
    assert kept.rates == pytest.approx(expected, rel=1e-12)


def test_a_schedules_state_is_saved_as_plain_containers(tmp_path: Path) -> None:
    trainer = trained(KeepsRates(), scheduler=partial(MultiStepLR, milestones=[1, 3]))

    trainer.save_checkpoint(tmp_path / "a.ckpt")

    [schedule] = checkpoint_files.read(tmp_path / "a.ckpt")["lr_schedulers"]
    assert (schedule["milestones"], schedule["last_epoch"]) == ({1: 1, 3: 1}, 4)


def test_another_optimizer_gets_the_groups_with_their_rates_and_its_own_options() -> None:
    module = ImpalaVAEModule(learning_rate=0.5, adam_epsilon=0.1, optimizer=partial(RMSprop, eps=0.2, momentum=0.9))

    agent, vae = module.configure_optimizers().param_groups

    assert [(group["lr"], group["eps"], group["momentum"]) for group in (agent, vae)] == [
        (0.5, 0.2, 0.9),
        (1e-4, 0.2, 0.9),
    ]
    assert vae["max_grad_norm"] == 1000
    assert type(make_module(optimizer=SGD).configure_optimizers()) is SGD


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"optimizer": lambda groups: SGD(groups)}, "must be a class, or functools.partial of one, found <function"),
        ({"optimizer": partial(SGD, lr=0.5)}, "model.optimizer.lr must be left out"),
        ({"scheduler": ReduceLROnPlateau}, "model.scheduler must be one that needs no metric, found ReduceLROnPlateau"),
    ],
)
def test_what_a_run_cannot_follow_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_module(**options)


def test_who_has_imported_the_other_lightning_is_told_which_one_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", ModuleType("lightning.pytorch"))

    with pytest.warns(UserWarning, match="built on pytorch_lightning: take Trainer, callbacks and loggers from there"):
        make_module()
