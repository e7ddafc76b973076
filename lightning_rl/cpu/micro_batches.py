"""Work on parts of a batch, several at a time, in threads of one core each."""

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
    """How work on a CPU is cut so that activations stay in its caches; the optimiser step is the same.

    Two threads that each take a part of their own keep two cores busier than one operator that is split over two
    threads, which waits at its end for the slower one, and waits long where another process wants a core. Results are
    added in the order of the parts: who finishes first changes no bit.

    Args:
        size: samples of a micro-batch.
        num_threads: parts worked on at a time, each by one thread on one core.

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
        """Which of `count` items go together: even parts of at most `size` samples, but of one item at least.

        Their number is a multiple of the threads', and they differ by one item at most, so that no thread waits long.

        Args:
            count: items to share out.
            samples_each: samples that an item holds.
        """
        num_parts = -(-count // max(1, self.size // samples_each))
        num_parts = min(count, -(-num_parts // self.num_threads) * self.num_threads)
        bounds = [count * part // num_parts for part in range(num_parts + 1)]
        return [slice(*pair) for pair in pairwise(bounds)]


@cache
def threads(number: int) -> ThreadPoolExecutor:
    """Threads, kept for the life of the process, whose operators each use one core."""
    return ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))


class Part(NamedTuple):
    """A part's contribution to the minibatch's loss, and to what is logged."""

    loss: Tensor
    logged: dict[str, Tensor]


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients are known already, so that backward, DDP's hooks and clipping go on as ever."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *_parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        gradients, ctx.gradients = ctx.gradients, None  # parameters take what nobody else holds, without a copy
        return None, None, *(gradients if scale == 1 else [gradient * scale for gradient in gradients])


def accumulate_gradients(jobs: Sequence[Callable[[], Part]], parameters: Sequence[Tensor], *, num_threads: int) -> Part:
    """The sum of the parts that the jobs compute, with its gradients, holding one part's activations per thread.

    Args:
        jobs: each computes one part.
        parameters: what the loss is differentiated by.
        num_threads: jobs at a time.

    Returns:
        The summed loss, whose `backward` gives the summed gradients, and the summed logs.
    """

    def differentiated(job: Callable[[], Part]) -> tuple[Part, Sequence[Tensor | None]]:
        part = job()
        gradients = torch.autograd.grad(part.loss, parameters, allow_unused=True)
        return Part(part.loss.detach(), part.logged), gradients

    parts, gradients = zip(*threads(num_threads).map(differentiated, jobs), strict=True)
    total = torch.stack([part.loss for part in parts]).sum()
    logged = {key: torch.stack([part.logged[key] for part in parts]).sum() for key in parts[0].logged}
    columns = [_total(column) for column in zip(*gradients, strict=True)]
    # the others stay out of the graph: DDP would wait for them, and fill in zeros where there was no gradient
    reached = [pair for pair in zip(parameters, columns, strict=True) if pair[1] is not None]
    known, sums = zip(*reached, strict=True)
    loss: Tensor = cast(Any, _KnownGradients).apply(total, sums, *known)
    return Part(loss, logged)


def _total(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [gradient for gradient in gradients if gradient is not None]
    return reduce(torch.add, known) if known else None
