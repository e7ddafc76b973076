"""Exported policies as ONNX models, for programs without torch; needs the packages onnx and onnxruntime."""

import warnings
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lightning_rl.policies.policy import ExportedPolicy

TOLERANCE = 1e-5
"""Largest difference between torch and onnxruntime in float32, relative to the size of the numbers above one."""

_OPSET = 17
_BATCH = 3  # of the check; no size of a network


class _Step(nn.Module):
    """The policy as a function of tensors alone."""

    def __init__(self, policy: ExportedPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor, *step: Tensor) -> tuple[Tensor, ...]:
        outputs: Any = self.policy.step(obs, *step) if step else self.policy.network(obs)
        return tuple(outputs)


def step_inputs(policy: ExportedPolicy, obs: Tensor) -> dict[str, Tensor]:
    """The inputs of the model for frames that open episodes, by name."""
    inputs = {"obs": obs}
    if policy.config.recurrent:
        count = len(obs)
        inputs |= {
            "state": torch.zeros(count, policy.state_size),
            "previous_actions": torch.zeros(count, dtype=torch.int64),
            "previous_rewards": torch.zeros(count),
            "starts": torch.ones(count, dtype=torch.bool),
        }
    return inputs


def has_onnx() -> bool:
    """Whether models can be written and run."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def onnx_model(policy: ExportedPolicy) -> bytes:
    """The policy as an ONNX model of any batch size, checked against torch.

    Inputs are `obs`, and for a recurrent policy `state`, `previous_actions`, `previous_rewards` and `starts`; outputs
    are `logits`, `values`, and the new state as `next_state`, because ONNX lets no two values have one name.

    Raises:
        ValueError: onnx or onnxruntime is missing, or the model computes something else.
    """
    onnx = _required("onnx")
    inputs = step_inputs(policy, _noise(policy, _BATCH))
    names = ["logits", "values", *(["next_state"] if policy.config.recurrent else [])]
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices about its exporters, of which the other needs onnxscript
        torch.onnx.export(
            _Step(policy),
            tuple(inputs.values()),
            cast(Any, file),  # a stream is taken, too
            input_names=list(inputs),
            output_names=names,
            dynamic_axes={name: {0: "N"} for name in (*inputs, *names)},
            opset_version=_OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(file.getvalue())
    del model.graph.value_info[:]  # sizes of the traced batch
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    _check(policy, content)
    return content


def session(model: bytes, *, num_threads: int = 0) -> Any:
    """An onnxruntime session on the CPU.

    Args:
        model: of `onnx_model`.
        num_threads: 0 for all.

    Raises:
        ValueError: onnxruntime is missing.
    """
    runtime = _required("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _check(policy: ExportedPolicy, model: bytes) -> None:
    """Compares the model with torch at another batch size, within an episode where there is a state."""
    inputs = step_inputs(policy, _noise(policy, _BATCH + 2))
    if policy.config.recurrent:
        inputs["state"] = torch.linspace(-1, 1, inputs["state"].numel()).view_as(inputs["state"])
        inputs["previous_actions"] = torch.arange(len(inputs["obs"])) % policy.config.num_actions
        inputs["previous_rewards"] = torch.linspace(-2, 2, len(inputs["obs"]))
        inputs["starts"] = torch.arange(len(inputs["obs"])) % 3 == 0
    expected = policy(**inputs)
    found = session(model).run(None, {name: value.numpy() for name, value in inputs.items()})
    for name, array in zip(expected._fields, found, strict=False):
        reference = getattr(expected, name).numpy()
        error = float(np.abs(array - reference).max())
        if not error <= TOLERANCE * max(1.0, float(np.abs(reference).max())):
            raise ValueError(f"onnx: {name} of the model differ from torch's by {error:.2g}, more than {TOLERANCE}")


def _noise(policy: ExportedPolicy, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, *policy.config.obs_shape), generator=generator, dtype=torch.uint8)


def _required(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"onnx: the package {name} is missing: pip install 'lightning_rl[onnx]'") from error
