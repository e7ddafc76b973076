"""How a rollout is collected: by calling the policy at each step, or by a step that is captured once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.gpu.captured_step import CapturedStep, copy_weights
from lightning_rl.protocols import CapturablePolicy, Policy
from lightning_rl.types import ActorOutput, RecurrentInputs, StepInputs

Frames = UInt8[NDArray[Any], "B H W C"] | UInt8[Tensor, "B H W C"]

_KEPT = {
    "actions": "actions",
    "logits": "behavior_logits",
    "values": "behavior_values",
    "noise": "behavior_noise",
    "teacher_logits": "teacher_logits",
    "teacher_values": "teacher_values",
}
"""What a rollout keeps of a policy's outputs, and how it is called there."""


@runtime_checkable
class Deciding(Protocol):
    """Decides the steps of one rollout, part by part of the environments, and keeps what learning needs of them."""

    def decide(self, step: int, rows: slice, frames: Frames, inputs: RecurrentInputs) -> ActorOutput:
        """What the policy does in some of the environments; valid until its next decision for them."""

    def finished(self, rows: slice, frames: Frames) -> None:
        """Takes the frames after the last step."""

    def decided(self) -> dict[str, Tensor | None]:
        """Frames, actions and what else was kept, with steps first."""


class PlainDeciding:
    """Calls the policy.

    Args:
        policy: acts.
        generator: of its random choices.
        frames: memory for the rollout's frames.
    """

    def __init__(self, policy: Policy, generator: torch.Generator, frames: UInt8[NDArray[Any], "N B H W C"]) -> None:
        self._policy = policy
        self._generator = generator
        self._frames = frames
        self._outputs: list[list[ActorOutput]] = [[] for _ in frames[1:]]

    def decide(self, step: int, rows: slice, frames: Frames, inputs: RecurrentInputs) -> ActorOutput:
        """See `Deciding`."""
        self._frames[step, rows] = frames  # each frame is written once, into the rollout
        output = self._policy.act(self._frames[step, rows], self._generator, recurrent_inputs=inputs)
        self._outputs[step].append(output)
        return output

    def finished(self, rows: slice, frames: Frames) -> None:
        """See `Deciding`."""
        self._frames[-1, rows] = frames

    def decided(self) -> dict[str, Tensor | None]:
        """See `Deciding`."""
        columns = {name: [[getattr(part, name) for part in parts] for parts in self._outputs] for name in _KEPT}
        kept = {_KEPT[name]: None if column[0][0] is None else _stacked(column) for name, column in columns.items()}
        return {"obs": torch.from_numpy(self._frames), **kept}


def _stacked(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.stack([row[0] if len(row) == 1 else torch.cat(list(row)) for row in parts])


class CapturedDeciding:
    """Runs the policy's captured step. All but the actions stays on its device.

    Args:
        policy: acts.
        generator: of its random choices, on the CPU.
        num_steps: of the rollout.
        num_envs: environments of all parts.
        num_actions: actions to choose from.
    """

    def __init__(
        self, policy: CapturablePolicy, generator: torch.Generator, *, num_steps: int, num_envs: int, num_actions: int
    ) -> None:
        self._policy = policy
        self._generator = generator
        self._num_steps, self._num_envs, self._num_actions = num_steps, num_envs, num_actions
        self._frames: Tensor | None = None
        self._kept: dict[str, Tensor | None] = {}
        self._steps: dict[int, _PolicyStep] = {}

    def decide(self, step: int, rows: slice, frames: Frames, inputs: RecurrentInputs) -> ActorOutput:
        """See `Deciding`; everything is where the policy decides."""
        given = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
        draws = self._policy.draws(len(given), self._num_actions, self._generator)
        all_inputs = StepInputs(frames=given, recurrent=inputs, draws=draws)
        run = self._step_of(all_inputs)
        output = run(all_inputs)
        if self._frames is None:
            self._allocate(output, given)
        self._frames_of(step, rows).copy_(run.frames)
        for name, memory in self._kept.items():
            if memory is not None:
                memory[step, rows].copy_(getattr(output, name))
        # the memory of the others is overwritten only when nobody needs it any more
        state = None if output.state is None else output.state.clone()
        return replace(output, actions=output.actions.clone(), state=state)

    def finished(self, rows: slice, frames: Frames) -> None:
        """See `Deciding`."""
        given = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
        self._frames_of(-1, rows).copy_(given)

    def decided(self) -> dict[str, Tensor | None]:
        """See `Deciding`."""
        return {"obs": self._frames, **{_KEPT[name]: memory for name, memory in self._kept.items()}}

    def _frames_of(self, step: int, rows: slice) -> Tensor:
        if self._frames is None:
            raise RuntimeError("a rollout has at least one step before it is finished, found none")
        return self._frames[step, rows]

    def _step_of(self, example: StepInputs) -> "_PolicyStep":
        """The step for so many environments, with the policy's newest weights."""
        number = len(example.frames)
        if number not in self._steps:
            self._steps[number] = _newest(self._policy, example)
        return self._steps[number]

    def _allocate(self, output: ActorOutput, frames: Tensor) -> None:
        device = self._policy.device
        shape = (self._num_steps + 1, self._num_envs, *frames.shape[1:])
        self._frames = torch.empty(shape, dtype=torch.uint8, device=device)
        for name in _KEPT:
            value = getattr(output, name)
            shape = () if value is None else (self._num_steps, self._num_envs, *value.shape[1:])
            self._kept[name] = None if value is None else torch.empty(shape, dtype=value.dtype, device=device)


class _PolicyStep:
    """A policy's step for one number of environments, captured with a mirror of its weights.

    Args:
        policy: acts.
        example: inputs of a step.
    """

    def __init__(self, policy: CapturablePolicy, example: StepInputs) -> None:
        self._mirror = policy.mirror()
        self._state_size = 0
        on_device = example.map_tensors(lambda tensor: tensor.to(policy.device))
        with torch.no_grad():
            state = self._mirror.step(on_device.frames, on_device.recurrent, on_device.draws).state
        self._state_size = 0 if state is None else state.shape[1]
        self._step: CapturedStep[StepInputs, ActorOutput] = CapturedStep(
            self._stepped, self._with_state(example), device=policy.device
        )

    @torch.no_grad()
    def refresh(self, policy: CapturablePolicy) -> None:
        """Copies the weights that learning has changed into the mirror's memory."""
        copy_weights(self._mirror.acting_weights(), policy.acting_weights())

    def __call__(self, inputs: StepInputs) -> ActorOutput:
        """Runs the step."""
        return self._step(self._with_state(inputs))

    @property
    def frames(self) -> Tensor:
        """The frames of the last call, on the device."""
        return self._step.inputs.frames

    def _stepped(self, inputs: StepInputs) -> ActorOutput:
        return self._mirror.step(inputs.frames, inputs.recurrent, inputs.draws)

    def _with_state(self, inputs: StepInputs) -> StepInputs:
        """Zeros in place of the state that there is not yet before the first step."""
        known = inputs.recurrent.state
        if known.shape[1] == self._state_size:
            return inputs
        return inputs.with_state(known.new_zeros(len(known), self._state_size))


_STEPS: WeakKeyDictionary[Any, dict[Any, _PolicyStep]] = WeakKeyDictionary()
"""The steps that were captured, by the module that learns."""


def _newest(policy: CapturablePolicy, example: StepInputs) -> _PolicyStep:
    """The policy's step for such inputs with its weights of now; captured where it is not yet."""
    known = _STEPS.setdefault(policy.learner, {})
    key = (type(policy), policy.device, tuple(example.frames.shape))
    if key not in known:
        known[key] = _PolicyStep(policy, example)
    known[key].refresh(policy)
    return known[key]


def captured_steps(learner: Any) -> list[CapturedStep[StepInputs, ActorOutput]]:
    """The steps of a module that were captured."""
    return [step._step for step in _STEPS.get(learner, {}).values()]


def forget(learner: Any) -> None:
    """Frees the memory of a module's captured steps."""
    _STEPS.pop(learner, None)
