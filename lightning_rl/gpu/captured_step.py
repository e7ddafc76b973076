"""A function of tensors that a GPU runs again and again without the CPU launching its kernels one by one."""

import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lightning_rl.types import TensorFields

Inputs = TypeVar("Inputs", bound=TensorFields)
Outputs = TypeVar("Outputs", bound=TensorFields)

_WARM_UPS = 3  # cuDNN and cuBLAS choose and load their kernels, which must not happen while a graph is captured


def copy_weights(to: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Copies tensors into others, which may have another type, where those are in memory.

    Up to torch 2.10, the copy of a list on a GPU takes all to have the type of the first
    (https://github.com/pytorch/pytorch/issues/173383), so each type is copied for itself.
    """
    pairs = sorted(zip(to, given, strict=True), key=lambda pair: str(pair[0].dtype))
    for _, alike in groupby(pairs, key=lambda pair: pair[0].dtype):
        own, others = zip(*alike, strict=True)
        torch._foreach_copy_(own, others)


class CapturedStep(Generic[Inputs, Outputs]):
    """A function with inputs and outputs in memory of its own; on a GPU it is captured as a CUDA graph and replayed.

    Elsewhere, and where a graph cannot be captured, the function itself runs on the same memory.

    Args:
        function: reads and writes tensors of the device only, and always does the same with the same shapes. What else
            it refers to, such as weights, must stay where it is in memory.
        example: inputs of the shapes and types of all later ones.
        device: where it runs.

    Attributes:
        inputs: those of the last call, on the device.
    """

    def __init__(self, function: Callable[[Inputs], Outputs], example: Inputs, *, device: torch.device) -> None:
        self._function = function
        self.inputs: Inputs = example.map_tensors(lambda tensor: tensor.to(device, copy=True))
        # what comes from the CPU goes through pinned memory, which a GPU reads without the CPU's waiting
        pinned = device.type == "cuda"
        self._staged: Inputs | None = example.map_tensors(lambda tensor: tensor.cpu().pin_memory()) if pinned else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Outputs | None = None
        if device.type == "cuda":
            self._capture()

    @property
    def is_graph(self) -> bool:
        """Whether a graph is replayed."""
        return self._graph is not None

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Outputs:
        """The function's outputs, in memory that the next call overwrites.

        Args:
            inputs: on any device. Those in the CPU's memory are read before this returns; a GPU may still be busy with
                the step before, whose outputs on the CPU must have been waited for.
        """
        staged = inputs if self._staged is None else self._staged
        for to, through, given in zip(self.inputs.tensors(), staged.tensors(), inputs.tensors(), strict=True):
            if through is not given and given.device.type == "cpu":
                to.copy_(through.copy_(given), non_blocking=True)
            else:
                to.copy_(given)
        if self._graph is not None and self._outputs is not None:
            self._graph.replay()
            return self._outputs
        return self._kept(self._function(self.inputs))

    def _kept(self, outputs: Outputs) -> Outputs:
        """The outputs, in the memory of the first ones."""
        if self._outputs is None:
            self._outputs = outputs.map_tensors(Tensor.clone)
        for to, given in zip(self._outputs.tensors(), outputs.tensors(), strict=True):
            to.copy_(given)
        return self._outputs

    @torch.no_grad()
    def _capture(self) -> None:
        device = next(self.inputs.tensors()).device
        try:
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    self._function(self.inputs)
            torch.cuda.current_stream(device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # other threads may use the GPU meanwhile; where capturing fails, only the outer context leaves the stream
            capture = torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local")
            with torch.cuda.stream(aside), capture:
                outputs = self._function(self.inputs)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"acting is not captured as a CUDA graph, which makes it slower: {reason}", stacklevel=2)
        else:
            self._graph, self._outputs = graph, outputs
