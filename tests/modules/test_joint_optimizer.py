"""Two optimisers as one."""

import copy

import torch
from torch import Tensor, nn

from lightning_rl.modules.optimizers import JointOptimizer


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
