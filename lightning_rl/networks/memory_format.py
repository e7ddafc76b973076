"""How the weights of convolutions lie in memory."""

from typing import Any, TypeVar, cast

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def channels_last(module: Module) -> Module:
    """The module, its convolutions' weights in channels_last from now on, as frames are."""
    return cast(Module, cast(Any, module).to(memory_format=torch.channels_last))  # torch's stubs lack the argument
