import pytest

from lightning_rl.policies.config import RECURRENT, NetworkConfig
from lightning_rl.policies.latency import latencies, policy_size
from lightning_rl.policies.onnx_model import onnx_model
from tests.support.exported import new_policy


@pytest.mark.parametrize(
    ("network", "multiply_adds"),
    [
        # two 5×5 convolutions of stride 2 with 32 channels, dense 128, seven logits and a value
        (NetworkConfig(name="two_conv"), 64 * 32 * 75 + 16 * 32 * 800 + 512 * 128 + 128 * 8),
        # at 16×16 three stacks of five 3×3 convolutions, of which the first is before the pooling; then as above, and
        # an LSTM of 256 on 256 features, a reward and seven actions
        (
            NetworkConfig(name=RECURRENT),
            9 * (256 * 3 * 16 + 64 * 4 * 16**2 + 64 * 16 * 32 + 16 * 4 * 32**2 + 16 * 32**2 + 4 * 4 * 32**2)
            + 128 * 256
            + 4 * 256 * (256 + 1 + 7 + 256)
            + 256 * 8,
        ),
    ],
)
def test_multiply_adds_are_counted_by_hand(network: NetworkConfig, multiply_adds: int) -> None:
    policy = new_policy(network)

    size = policy_size(policy)

    assert size.multiply_adds == multiply_adds
    assert size.parameters == sum(parameter.numel() for parameter in policy.parameters())
    assert size.bytes == 4 * size.parameters


def test_every_runtime_is_timed_at_every_batch_size() -> None:
    policy = new_policy(NetworkConfig(name="two_conv"))

    measured = list(latencies(policy, onnx_model(policy), threads=(1,), seconds=0.0))

    runtimes = ("torch float32", "torch bfloat16", "onnxruntime float32")
    assert [row[:3] for row in measured] == [(runtime, 1, size) for runtime in runtimes for size in (1, 16, 256)]
    assert all(0 < row.milliseconds < 60_000 for row in measured)
