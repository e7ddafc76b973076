"""An exported policy that plays in games, and as a module that `validate`, `test` and `predict` can judge."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_rl.modules.acting import cast_for_autocast, chosen, exponentials
from lightning_rl.modules.base import Batch, Objective, RLModule
from lightning_rl.modules.simple.exported import load_simulator
from lightning_rl.modules.simple.simulator import Simulator
from lightning_rl.networks.vae import VAE
from lightning_rl.policies.autoencoder import load_autoencoder
from lightning_rl.policies.folder import load_policy, read_policy
from lightning_rl.policies.policy import Array, ExportedPolicy, PolicyOutput, sample_actions
from lightning_rl.protocols import Source
from lightning_rl.types import ActorOutput, Draws, RecurrentInputs


class Player:
    """Plays with an exported policy.

    Args:
        policy: decides.
        precision: the context of each decision, such as the trainer's autocast.
    """

    def __init__(self, policy: ExportedPolicy, precision: Callable[[], AbstractContextManager[Any]]) -> None:
        self._policy = policy
        self._precision = precision

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """Samples actions on the CPU."""
        logits, values, state = self._decided(obs, recurrent_inputs or RecurrentInputs.initial(len(obs)))
        logits = logits.cpu()
        actions = sample_actions(logits, generator, greedy=greedy)
        state = None if state is None else state.cpu()
        return ActorOutput(actions=actions, logits=logits, values=values.cpu(), state=state)

    def _decided(self, obs: Array, inputs: RecurrentInputs) -> PolicyOutput:
        state = inputs.state if inputs.state.shape[1] else None
        told = (inputs.previous_actions, inputs.previous_rewards, inputs.starts)
        with self._precision():
            output: PolicyOutput = self._policy(obs, state, *told)
        return output

    def draws(self, num_envs: int, num_actions: int, generator: torch.Generator) -> Draws:
        """The random numbers of a step, as `act` draws them."""
        return Draws(exponentials=exponentials(num_envs, num_actions, generator))

    def step(self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, draws: Draws) -> ActorOutput:
        """What `act` does, on the device alone."""
        logits, values, state = self._decided(frames, inputs)
        actions = chosen(logits, draws.exponentials)
        return ActorOutput(actions=actions, logits=logits, values=values, state=state)

    def mirror(self) -> "Player":
        """A copy for a captured step: the policy does not learn, so its weights are cast for good."""
        policy = deepcopy(self._policy)
        cast_for_autocast(policy, self._precision, policy.device)
        return Player(policy, self._precision)


class PolicyModule(RLModule):
    """Plays with an exported policy; learns nothing.

    Args:
        policy: the policy folder.
        num_actions: actions of the environment.
        obs_shape: height, width and channels of its frames.
        num_threads: threads of operators; null for torch's default.
        greedy: take the most likely action, instead of sampling.

    Raises:
        ValueError: the folder is damaged, or the policy is of other games.
    """

    learns = False
    on_policy = False

    def __init__(
        self,
        *,
        policy: str,
        num_actions: int = 15,
        obs_shape: tuple[int, int, int] = (64, 64, 3),
        num_threads: int | None = None,
        greedy: bool = False,
    ) -> None:
        super().__init__(micro_batches=None, max_grad_norm=1.0, greedy=greedy)
        self.policy = load_policy(policy)
        self._folder = Path(policy)
        self.num_threads = num_threads
        config = self.policy.config
        for key, own, games in (
            ("num_actions", config.num_actions, num_actions),
            ("obs_shape", config.obs_shape, tuple(obs_shape)),
        ):
            if own != games:
                raise ValueError(f"ckpt_path: {policy} is of {key} {own}, the games of this command of {games}")

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:
        """The method that trained the policy."""
        return read_policy(Path(init_args["policy"])).config.method

    def autoencoder(self) -> VAE | None:
        """The autoencoder that the policy brings, on the CPU; None where it brings none.

        Raises:
            ValueError: its file is damaged.
        """
        return load_autoencoder(self._folder)

    def simulator(self) -> Simulator | None:
        """The world model that the policy brings, on the CPU; None where it brings none.

        Raises:
            ValueError: its file is damaged.
        """
        return load_simulator(self._folder, self.precision)

    def setup(self, stage: str) -> None:
        """Sets the number of threads."""
        super().setup(stage)
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """Runs the policy under the trainer's precision, and samples actions on the CPU."""
        player = Player(self.policy, self.precision)
        return player.act(obs, generator, recurrent_inputs=recurrent_inputs, greedy=greedy)

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuses to be trained."""
        self._refuse()

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """One, which is never asked for."""
        return 1

    def batches(self, source: Source) -> Iterator[Batch]:
        """Refuses."""
        self._refuse()

    def objective(self, batch: Any, generator: torch.Generator) -> Objective:
        """Refuses."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError("model: an exported policy does not learn; --policy_from starts a run with its weights")
