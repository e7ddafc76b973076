import torch
from torch import nn
from torch.testing import assert_close

from lightning_rl.modules.optimizers import adam, fused_on


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
