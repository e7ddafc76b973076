"""Stable-Baselines3's PPO on the same games, with the same network and numbers, as its users run it.

What is as its users get it: NCHW float32, rollouts and minibatches as its buffers make them, frames transposed by its
own `VecTransposeImage`, episodes counted by its `VecMonitor`, rewards scaled by its `VecNormalize` (OpenAI's baseline
scales them too), as many threads as torch takes by default.
"""

import time
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor, contiguous_format, nn

from lightning_rl.envs.procgen import ProcgenVectorEnv
from lightning_rl.networks.impala_cnn import ImpalaCNN

# imported by name: their types are not there where only the `test` extra is installed, and mypy must agree with itself
_stable_baselines3: Any = import_module("stable_baselines3")
_vec_env: Any = import_module("stable_baselines3.common.vec_env")


class ProcgenForBaselines(_vec_env.VecEnv):  # type: ignore[misc]  # see above
    """`ProcgenVectorEnv` behind Stable-Baselines3's interface; both restart within the step that ends an episode.

    Procgen never shows an episode's last frame, so `terminal_observation` is left out, as with Procgen's own binding.

    Args:
        env: the games.
    """

    render_mode = None

    def __init__(self, env: ProcgenVectorEnv) -> None:
        self._env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> NDArray[np.uint8]:
        """The current frames."""
        return self._env.reset()[0]

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """One step of every game."""
        obs, rewards, terminated, _, _ = self._env.step(self._actions)
        return obs, rewards, terminated, [{} for _ in range(self.num_envs)]

    def close(self) -> None:
        """Ends the games."""
        self._env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, once for each environment."""
        return [getattr(self, attr_name)] * len(self._get_indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing sets attributes of single games."""
        raise NotImplementedError

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Nothing calls methods of single games."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No game is."""
        return [False] * len(self._get_indices(indices))


class ImpalaFeatures(nn.Module):
    """IMPALA CNN (16, 32, 32) and a dense layer of 256, of NCHW images that the policy has scaled to 0..1.

    Args:
        observation_space: of transposed frames.
    """

    features_dim = 256

    def __init__(self, observation_space: Any) -> None:
        super().__init__()
        channels, height, width = observation_space.shape
        cnn = ImpalaCNN((height, width, channels))
        self.cnn = cnn.to(memory_format=contiguous_format)  # type: ignore[call-overload]  # missing from torch's stubs
        self.dense = nn.Sequential(nn.Linear(cnn.num_features, self.features_dim), nn.ReLU())

    def forward(self, images: Float32[Tensor, "N C H W"]) -> Float32[Tensor, "N D"]:
        """Features."""
        features: Tensor = self.dense(self.cnn.encode(images))
        return features


def build(game: str, *, num_envs: int, num_steps: int, minibatch_size: int, epochs: int) -> Any:
    """A PPO that has learned nothing yet, with the numbers of `configs/ppo.yaml`.

    Args:
        game: on its 200 easy levels.
        num_envs: environments.
        num_steps: steps of each in a rollout.
        minibatch_size: samples of one optimiser step.
        epochs: passes over a rollout.

    Returns:
        A `stable_baselines3.PPO`.
    """
    games = ProcgenVectorEnv(game, num_envs=num_envs, num_levels=200, seed=1, num_threads=2)
    monitored = _vec_env.VecMonitor(ProcgenForBaselines(games))
    env = _vec_env.VecNormalize(monitored, norm_obs=False, norm_reward=True, clip_reward=10.0, gamma=0.99)
    return _stable_baselines3.PPO(
        "CnnPolicy",
        env,
        n_steps=num_steps,
        batch_size=minibatch_size,
        n_epochs=epochs,
        learning_rate=5e-4,
        gamma=0.999,
        gae_lambda=0.95,
        clip_range=0.2,
        clip_range_vf=0.2,
        ent_coef=0.01,
        vf_coef=0.5,
        max_grad_norm=0.5,
        policy_kwargs={
            "features_extractor_class": ImpalaFeatures,
            "net_arch": [],
            "optimizer_kwargs": {"eps": 1e-5},
        },
        device="cpu",
        seed=1,
    )


def rates(game: str, *, iterations: int, **sizes: int) -> list[float]:
    """Env steps per second of each iteration: collecting and learning.

    Args:
        game: see `build`.
        iterations: rollouts.
        **sizes: see `build`.

    Returns:
        One number per iteration.
    """
    model = build(game, **sizes)
    env_steps = sizes["num_envs"] * sizes["num_steps"]
    found = []
    for _ in range(iterations):
        start = time.perf_counter()
        model.learn(env_steps, reset_num_timesteps=False)
        found.append(env_steps / (time.perf_counter() - start))
    model.env.close()
    return found
