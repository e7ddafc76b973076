import numpy as np
import torch
from torch.testing import assert_close

from lightning_rl.networks.world_model.injection import Injection
from tests.support import reference


def test_injection_matches_its_definition() -> None:
    injection, images, inputs = Injection(5, 3), torch.randn(2, 3, 4, 7), torch.randn(2, 5)

    injected = injection(images, inputs)

    weight, bias = (parameter.detach().double().numpy() for parameter in injection.dense.parameters())
    pairs = zip(images.double().numpy(), inputs.double().numpy(), strict=True)
    expected = np.stack([reference.injected(image, given, weight, bias) for image, given in pairs])
    assert_close(injected.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_images_keep_their_precision() -> None:
    assert Injection(5, 3)(torch.randn(2, 3, 4, 7).bfloat16(), torch.randn(2, 5)).dtype == torch.bfloat16
