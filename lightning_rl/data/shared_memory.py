"""Tensors in memory that several processes share, without files in /dev/shm."""

import mmap
import os
import weakref
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes; a cache line

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def shared(tensors: Mapping[str, Tensor]) -> "SharedTensors":
    """Copies of `tensors` that are shared."""
    copies = SharedTensors({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    copies.copy_(tensors)
    return copies


class SharedTensors(dict[str, Tensor]):
    """Named tensors in one file that exists in memory only; zero at first.

    Passed to a spawned process, it is the same memory there. The file has no name: the kernel frees it with the last
    process that holds it, and the size of /dev/shm, 64 MB in containers, does not limit it.

    Args:
        layout: data type and shape of each tensor.
    """

    def __init__(self, layout: Layout) -> None:
        file = os.memfd_create("lightning_rl")
        os.ftruncate(file, max(1, _offsets(layout)[1]))
        self._attach(file, layout)

    def _attach(self, file: int, layout: Layout) -> None:
        memory = mmap.mmap(file, 0)
        self._file, self._layout = file, layout
        weakref.finalize(self, os.close, file)
        offsets, _ = _offsets(layout)
        super().__init__({name: _view(memory, offsets[name], *kind) for name, kind in layout.items()})

    def copy_(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the values of tensors of the same names and shapes, from whatever device.

        Raises:
            ValueError: other names.
        """
        if tensors.keys() != self.keys():
            raise ValueError(f"expected the tensors {sorted(self)}, found {sorted(tensors)}")
        for name, tensor in tensors.items():
            self[name].copy_(tensor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (DupFd(self._file), self._layout)


def _attached(duplicate: Any, layout: Layout) -> SharedTensors:
    tensors = SharedTensors.__new__(SharedTensors)
    tensors._attach(duplicate.detach(), layout)
    return tensors


def _offsets(layout: Layout) -> tuple[dict[str, int], int]:
    """Where each tensor begins, and where the last one ends."""
    offsets, end = {}, 0
    for name, (dtype, shape) in layout.items():
        offsets[name] = end
        end += -(-dtype.itemsize * _count(shape) // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _view(memory: mmap.mmap, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if _count(shape) == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=_count(shape), offset=offset).view(shape)
