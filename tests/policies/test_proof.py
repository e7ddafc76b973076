"""Exported policies in real games: equal to their checkpoints to the bit, and ONNX to torch within 1e-5."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_rl import load_policy
from lightning_rl.cli.export import load_checkpoint
from lightning_rl.cli.program import main
from lightning_rl.modules.base import RLModule
from lightning_rl.policies.folder import ONNX
from lightning_rl.policies.onnx_model import TOLERANCE, session
from lightning_rl.policies.policy import ExportedPolicy, PolicyOutput
from lightning_rl.types import ActorOutput, RecurrentInputs
from tests.support.runs import differences
from tests.support.shared_runs import SharedRuns

NUM_STEPS = 500


class Case(NamedTuple):
    """A run to export: its config, further options, and environments; twenty see 10 000 frames in 500 steps."""

    config: str
    options: dict[str, Any]
    num_envs: int = 4
    greedy: bool = False


_MEAN = {"model.vae.feed": "mean"}
CASES = {
    "ppo, three_stack": Case("ppo", {}, num_envs=20),
    "ppo, average": Case("ppo", {"model.pooling": "average", "model.width": 2}),
    "ppo, two_stack": Case("ppo", {"model.network": "two_stack"}),
    "ppo, two_conv": Case("ppo", {"model.network": "two_conv"}),
    "ppo_distill": Case("ppo_distill", {}, num_envs=20),
    "impala": Case("impala", {}, num_envs=20),
    "impala, average": Case("impala", {"model.pooling": "average"}),
    "impala_vae, mean": Case("impala_vae", _MEAN, num_envs=20),
    "impala_vae, rgb": Case("impala_vae", _MEAN | {"model.vae.images": "rgb"}),
    "impala_vae, sample": Case("impala_vae", {}, greedy=True),  # a policy folder draws no noise
    "impala_vae_sm": Case("impala_vae_sm", _MEAN),
    "simple": Case("simple_cpu", {}, num_envs=20),
    "simple, three_stack": Case("simple_cpu", {"model.network": "three_stack"}),
    "atari, ppo": Case("ppo_atari", {"data.max_episode_steps": 200}, num_envs=20),
    "atari, two_stack": Case("ppo_atari", {"model.network": "two_stack", "data.max_episode_steps": 200}),
    "atari, simple": Case("simple_atari_cpu", {"data.max_episode_steps": 200}, num_envs=20),
}


class Compared:
    """Plays as the module does, and compares it at every step with the policy, which carries its own state.

    Args:
        module: of the checkpoint.
        policy: of the folder.
        model: the policy as ONNX, which is given the policy's inputs; None to leave it out.
    """

    def __init__(self, module: RLModule, policy: ExportedPolicy, model: bytes | None) -> None:
        self._module = module
        self._policy = policy
        self._running = None if model is None else session(model, num_threads=1)
        self._state: torch.Tensor | None = None
        self.frames = 0
        self.worst = 0.0
        self.other_actions = 0

    def act(
        self,
        obs: NDArray[Any],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        expected = self._module.act(obs, generator, recurrent_inputs=recurrent_inputs, greedy=greedy)
        inputs = recurrent_inputs or RecurrentInputs.initial(len(obs))
        further = (inputs.previous_actions, inputs.previous_rewards, inputs.starts)
        output = self._policy(obs, self._state, *further)
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.values, expected.values)
        assert differences({"state": output.state}, {"state": expected.state}) == []
        if self._running is not None:
            self._compare(self._running, obs, output, further)
        self._state = output.state
        self.frames += len(obs)
        return expected

    def _compare(
        self, running: Any, obs: NDArray[Any], output: PolicyOutput, further: tuple[torch.Tensor, ...]
    ) -> None:
        given = {"obs": obs}
        if output.state is not None:
            state = torch.zeros_like(output.state) if self._state is None else self._state
            names = ("state", "previous_actions", "previous_rewards", "starts")
            given |= {name: tensor.numpy() for name, tensor in zip(names, (state, *further), strict=True)}
        found = running.run(None, given)
        for name, array in zip(output._fields, found, strict=False):
            self.worst = max(self.worst, float(np.abs(array - getattr(output, name).numpy()).max()))
        best = output.logits.topk(2).values
        clear = (best[:, 0] - best[:, 1]).numpy() > TOLERANCE
        self.other_actions += int((found[0].argmax(-1) != output.logits.argmax(-1).numpy())[clear].sum())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_a_policy_folder_equals_its_checkpoint_for_500_steps(name: str, runs: SharedRuns, tmp_path: Path) -> None:
    case = CASES[name]
    run = runs.finished(case.config, iterations=1, **case.options)
    with_onnx = case.num_envs == 20
    assert main(["export", "--ckpt_path", str(run), "--out", str(tmp_path / "policy"), *["--onnx"] * with_onnx]) == 0
    checkpoint = load_checkpoint(["--ckpt_path", str(run), "--run_dir", str(tmp_path)])
    model = (tmp_path / "policy" / ONNX).read_bytes() if with_onnx else None
    compared = Compared(checkpoint.model, load_policy(tmp_path / "policy"), model)

    budget = NUM_STEPS * case.num_envs
    options: dict[str, Any] = {"num_envs": case.num_envs, "env_steps": budget, "greedy": case.greedy}
    [_] = checkpoint.datamodule.evaluation("full_distribution", compared, **options)

    sys.stdout.write(f"{name}: {compared.frames} frames, ONNX differs by {compared.worst:.2g}\n")
    assert compared.frames == budget
    assert compared.worst < TOLERANCE
    assert compared.other_actions == 0
