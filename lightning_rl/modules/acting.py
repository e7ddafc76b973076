"""How a module acts: decisions for a batch of frames, under the precision that training uses."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from typing import Any, TypeVar

import torch
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lightning_rl.cpu.bfloat16 import cpu_has_bf16
from lightning_rl.cpu.micro_batches import MicroBatchConfig, threads
from lightning_rl.networks.output_linear import OutputLinear
from lightning_rl.policies.policy import sample_actions
from lightning_rl.runs.lightning_private import attached_trainer
from lightning_rl.types import ActorOutput, Draws, RecurrentInputs

Acting = TypeVar("Acting", bound="ActingModule")  # not `Self`, which the shape checks of tests cannot resolve


class ActingModule(LightningModule):
    """A module that acts; see `RLModule` for all of it. Without a memory and a latent, `network` is all that it needs.

    Attributes:
        captures: whether rollouts are collected by a step that is captured once, instead of the call of each layer at
            each step.
    """

    network: nn.Module
    micro_batches: MicroBatchConfig | None
    policy_parts: tuple[str, ...] = ("network",)
    """Modules that acting needs, which `--policy_from` takes from a checkpoint."""
    captures: bool = False
    _autocast: torch.dtype | None = None

    @property
    def learner(self) -> LightningModule:
        """The module itself; a mirror acts for another one."""
        return self

    @property
    def is_captured(self) -> bool:
        """Whether rollouts are collected by a captured step; never where a subclass has an `act` of its own."""
        return self.captures and type(self).act is ActingModule.act

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,  # for recurrent networks
        greedy: bool = False,
    ) -> ActorOutput:
        """Runs the network under the trainer's precision; noise and actions are sampled on the CPU."""
        inputs = (recurrent_inputs or RecurrentInputs.initial(len(obs))).to(self.device)
        noise = self.draw_noise(len(obs), generator, greedy=greedy)
        on_device = None if noise is None else noise.to(self.device)
        with torch.no_grad(), self.precision():  # Lightning enters autocast around `training_step` only
            outputs = self.decide(torch.from_numpy(obs).to(self.device), inputs, on_device)
        logits, values, *states = (output.cpu() for output in outputs)
        actions = sample_actions(logits, generator, greedy=greedy)
        return ActorOutput(
            actions=actions, logits=logits, values=values, state=states[0] if states else None, noise=noise
        )

    def draw_noise(self, num_envs: int, generator: torch.Generator, *, greedy: bool) -> Float32[Tensor, "B Z"] | None:
        """Noise for sampling latents, on the CPU; None if none are sampled."""
        return None

    def decide(
        self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, noise: Float32[Tensor, "B Z"] | None
    ) -> tuple[Tensor, ...]:
        """Logits, values and the new state, if there is one, on the device, which is not read."""
        return tuple(self.network(frames))

    def draws(self, num_envs: int, num_actions: int, generator: torch.Generator) -> Draws:
        """The random numbers of a step, in the order in which `act` draws them."""
        noise = self.draw_noise(num_envs, generator, greedy=False)
        return Draws(exponentials=exponentials(num_envs, num_actions, generator), noise=noise)

    def step(self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, draws: Draws) -> ActorOutput:
        """What `act` does, on the device alone."""
        with torch.no_grad(), self.precision():
            logits, values, *states = self.decide(frames, inputs, draws.noise)
        return ActorOutput(
            actions=chosen(logits, draws.exponentials),
            logits=logits,
            values=values,
            state=states[0] if states else None,
            noise=draws.noise,
        )

    def mirror(self: Acting) -> Acting:
        """This module with a copy of what it acts with, whose weights are in the precision that they are used in."""
        mirrored = copy(self)
        own = {name: deepcopy(part).requires_grad_(False) for name, part in self._acting_parts().items()}
        mirrored.__dict__["_modules"] = {**self._modules, **own}
        if (trainer := attached_trainer(self)) is not None:
            mirrored.trainer = trainer
        for part in own.values():
            cast_for_autocast(part, self.precision, self.device)
        return mirrored

    def acting_weights(self) -> list[Tensor]:
        """The weights that acting needs, in the same order as those of a mirror."""
        return [weight for part in self._acting_parts().values() for weight in part.parameters()]

    def _acting_parts(self) -> dict[str, nn.Module]:
        names = dict.fromkeys(name.partition(".")[0] for name in self.policy_parts)
        return {name: self.get_submodule(name) for name in names}

    def map_in_chunks(
        self, function: Callable[[Tensor], tuple[Tensor, ...]], obs: UInt8[Tensor, "N H W C"], *, size: int
    ) -> tuple[Tensor, ...]:
        """Applies `function` to frames, `size` at a time and without gradient; in threads if micro-batches are on."""

        def outputs(part: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad(), self.precision():  # both are thread-local
                return function(part)

        parts = obs.split(size)
        spread = map if self.micro_batches is None else threads(self.micro_batches.num_threads).map
        return tuple(torch.cat(column) for column in zip(*spread(outputs, parts), strict=True))

    def precision(self) -> AbstractContextManager[Any]:
        """The trainer's autocast context; Lightning enters it around `training_step` only, and in one thread."""
        if (trainer := attached_trainer(self)) is not None:
            return trainer.precision_plugin.forward_context()
        return nullcontext() if self._autocast is None else torch.autocast("cpu", self._autocast)

    def actor(self: Acting) -> Acting:
        """A copy for acting in another process: on the CPU, without the trainer but with its precision."""
        copied = deepcopy(self).cpu()
        trainer = attached_trainer(self)
        mixed = trainer is not None and trainer.precision == "bf16-mixed"
        copied._autocast = torch.bfloat16 if mixed and cpu_has_bf16() else None
        return copied


def exponentials(num_envs: int, num_actions: int, generator: torch.Generator) -> Float32[Tensor, "B A"]:
    """What `torch.multinomial` draws for one action in each environment."""
    return torch.empty(num_envs, num_actions).exponential_(generator=generator)


def chosen(logits: Float32[Tensor, "B A"], drawn: Float32[Tensor, "B A"]) -> Tensor:
    """The actions that `torch.multinomial` would sample with the same numbers, on any device."""
    return (logits.softmax(-1) / drawn).argmax(-1)


def cast_for_autocast(
    module: nn.Module, precision: Callable[[], AbstractContextManager[Any]], device: torch.device
) -> None:
    """Casts the weights that autocast would cast at each call, and packs an LSTM's as cuDNN wants them.

    Args:
        module: a copy for acting.
        precision: the context in which it acts.
        device: where it acts.
    """
    with precision():
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            layer.flatten_parameters()
        is_cast = isinstance(layer, nn.Conv2d | nn.Linear) and not isinstance(layer, OutputLinear)
        if dtype is not None and is_cast:
            layer.to(dtype)
