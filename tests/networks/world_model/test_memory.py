import numpy as np
import torch
from torch.testing import assert_close

from lightning_rl.networks.world_model.memory import Memory
from tests.support import reference


def test_the_next_state_matches_its_definition() -> None:
    memory, images, state = Memory(3, 5), torch.randn(2, 3, 4, 7), torch.randn(2, 5, 4, 7)

    next_state = memory(torch.cat([images, state], dim=1), state)

    kernels, bias = (parameter.detach().double().numpy() for parameter in memory.conv.parameters())
    pairs = zip(state.double().numpy(), images.double().numpy(), strict=True)
    expected = np.stack([reference.remembered(old, image, kernels, bias) for old, image in pairs])
    assert_close(next_state.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_the_state_is_float32_under_mixed_precision() -> None:
    state = torch.randn(2, 5, 4, 7)

    with torch.autocast("cpu", torch.bfloat16):
        next_state = Memory(3, 5)(torch.randn(2, 8, 4, 7), state)

    assert next_state.dtype == torch.float32
    assert not torch.equal(next_state, next_state.bfloat16().float())
