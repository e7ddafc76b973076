"""How long an exported policy takes for a decision, and how large it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_rl.policies.onnx_model import session, step_inputs
from lightning_rl.policies.policy import ExportedPolicy

BATCH_SIZES = (1, 16, 256)
_WARM_UP = 2  # calls, in which caches fill and kernels are chosen


class Latency(NamedTuple):
    """Time of one call, which decides for a batch of frames."""

    runtime: str
    num_threads: int
    batch_size: int
    milliseconds: float
    """Median of one call."""


class PolicySize(NamedTuple):
    """What a policy takes in memory and work."""

    parameters: int
    bytes: int
    multiply_adds: int
    """Of one frame's decision, in convolutions, dense layers and the LSTM."""


def policy_size(policy: ExportedPolicy) -> PolicySize:
    """Size of a policy; the bytes are those of its parameters in float32."""
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, output: Any) -> None:
        match layer:
            case nn.Conv2d():
                counts.append(output.numel() * layer.weight[0].numel())
            case nn.Linear():
                counts.append(output.numel() * layer.in_features)
            case nn.LSTM():
                counts.append(sum(weight.numel() for name, weight in layer.named_parameters() if "weight" in name))

    hooks = [layer.register_forward_hook(count) for layer in policy.modules()]
    policy(**step_inputs(policy, _frames(policy, 1)))
    for hook in hooks:
        hook.remove()
    parameters = list(policy.parameters())
    return PolicySize(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.nbytes for parameter in parameters),
        sum(counts),
    )


def latencies(
    policy: ExportedPolicy, onnx: bytes | None, *, threads: tuple[int, ...], seconds: float
) -> Iterator[Latency]:
    """Times calls in torch, in float32 and bfloat16, and in onnxruntime.

    Args:
        policy: on the CPU.
        onnx: the policy as an ONNX model; None to leave onnxruntime out.
        threads: numbers of threads to try.
        seconds: time for each case, after the warm-up.
    """
    for num_threads in threads:
        runtimes = {"torch float32": _torch(policy, None), "torch bfloat16": _torch(policy, torch.bfloat16)}
        if onnx is not None:
            runtimes["onnxruntime float32"] = _onnxruntime(onnx, num_threads)
        with _threads(num_threads):
            for runtime, call in runtimes.items():
                for size in BATCH_SIZES:
                    inputs = step_inputs(policy, _frames(policy, size))
                    yield Latency(runtime, num_threads, size, _median(lambda: call(inputs), seconds))  # noqa: B023  # called at once


def _torch(policy: ExportedPolicy, dtype: torch.dtype | None) -> Callable[[dict[str, Tensor]], object]:
    def call(inputs: dict[str, Tensor]) -> object:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            return policy(**inputs)

    return call


def _onnxruntime(model: bytes, num_threads: int) -> Callable[[dict[str, Tensor]], object]:
    running = session(model, num_threads=num_threads)
    return lambda inputs: running.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def _frames(policy: ExportedPolicy, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, *policy.config.obs_shape), generator=generator, dtype=torch.uint8)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _median(call: Callable[[], object], seconds: float) -> float:
    """Milliseconds of the median call."""
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * sorted(times)[len(times) // 2]
