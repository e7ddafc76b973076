"""Gradient accumulation over micro-batches, which run in parallel threads of one core each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, reduce
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class MicroBatchConfig:
    """Splits batches on a CPU so that activations stay in its caches; the optimizer step is the same.

    Two threads with a micro-batch each keep two cores busier than one operator that is split over two threads: such an
    operator ends only when the slower thread does, which takes long if another process uses the core. Results are added
    in the order of the micro-batches, so the order in which threads finish changes no bit.

    Args:
        size: samples per micro-batch.
        num_threads: micro-batches that run in parallel, each in one thread on one core.

    Raises:
        ValueError: one of them is not positive, or there are more threads than any machine has cores.
    """

    size: int = 256
    num_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("size", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.micro_batches.{name} must be at least 1, found {getattr(self, name)}")
        if self.num_threads > MAX_THREADS:
            raise ValueError(f"model.micro_batches.num_threads must be at most {MAX_THREADS}, found {self.num_threads}")

    def even_parts(self, count: int, *, samples_each: int = 1) -> list[slice]:
        """Splits `count` items into even parts of at most `size` samples and at least one item.

        The number of parts is a multiple of the number of threads if there are enough items, so that no thread is idle.

        Args:
            count: number of items.
            samples_each: samples per item.
        """
        num_parts = -(-count // max(1, self.size // samples_each))
        num_parts = min(count, -(-num_parts // self.num_threads) * self.num_threads)
        bounds = [count * part // num_parts for part in range(num_parts + 1)]
        return [slice(*pair) for pair in pairwise(bounds)]


@cache
def threads(number: int) -> ThreadPoolExecutor:
    """A pool of threads whose operators use one core each; it lives as long as the process."""
    return ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))


class Part(NamedTuple):
    """A micro-batch's contribution to the loss and the logs of its minibatch."""

    loss: Tensor
    logged: dict[str, Tensor]


class _KnownGradients(torch.autograd.Function):
    """A loss with precomputed gradients, so that `backward`, DDP's hooks and gradient clipping work as usual."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *_parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        gradients, ctx.gradients = ctx.gradients, None  # without other references, autograd need not copy them
        return None, None, *(gradients if scale == 1 else [gradient * scale for gradient in gradients])


def accumulate_gradients(jobs: Sequence[Callable[[], Part]], parameters: Sequence[Tensor], *, num_threads: int) -> Part:
    """Sums losses, gradients and logs of micro-batches, with one micro-batch's activations in memory per thread.

    Args:
        jobs: each computes one micro-batch.
        parameters: the parameters to differentiate the loss by.
        num_threads: jobs that run in parallel.

    Returns:
        The summed loss, whose `backward` gives the summed gradients, and the summed logs.
    """

    def differentiate(job: Callable[[], Part]) -> tuple[Part, Sequence[Tensor | None]]:
        part = job()
        gradients = torch.autograd.grad(part.loss, parameters, allow_unused=True)
        return Part(part.loss.detach(), part.logged), gradients

    parts, gradients = zip(*threads(num_threads).map(differentiate, jobs), strict=True)
    total = torch.stack([part.loss for part in parts]).sum()
    logged = {key: torch.stack([part.logged[key] for part in parts]).sum() for key in parts[0].logged}
    sums = [_sum(column) for column in zip(*gradients, strict=True)]
    # parameters without a gradient stay out of the graph: DDP would wait for them and set their gradients to zero
    reached = [pair for pair in zip(parameters, sums, strict=True) if pair[1] is not None]
    reached_parameters, reached_sums = zip(*reached, strict=True)
    loss: Tensor = cast(Any, _KnownGradients).apply(total, reached_sums, *reached_parameters)
    return Part(loss, logged)


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [gradient for gradient in gradients if gradient is not None]
    return reduce(torch.add, known) if known else None
