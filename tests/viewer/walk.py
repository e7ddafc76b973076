"""A game to look at: a white column that walks left and right, and a policy that always wants to go right."""

import json
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from websockets.sync.client import ClientConnection, connect

from lightning_rl.protocols import Policy
from lightning_rl.types import ActorOutput, ImaginedStep, RecurrentInputs
from lightning_rl.viewer.keys import action_keys
from lightning_rl.viewer.levels import Levels
from lightning_rl.viewer.moments import Recorded
from lightning_rl.viewer.scene import PlayedEpisodes, Scene, Show
from lightning_rl.viewer.table import Table
from tests.support.toys import ToyVectorEnv

ACTIONS = ("left", "none", "right", "D")
LEFT, NONE, RIGHT, FIRE = range(4)
LENGTH = 40
SIZE = 16


class WalkVectorEnv(ToyVectorEnv):
    """One column of the frame is white; the level's number is where it begins. An episode is over after `LENGTH` steps.

    Walking right is worth 1, firing 10.
    """

    def __init__(self, level: int) -> None:
        super().__init__(1, (SIZE, SIZE, 3), len(ACTIONS))
        self.at = level % SIZE

    def _obs(self) -> NDArray[np.uint8]:
        obs = np.zeros((1, *self.obs_shape), dtype=np.uint8)
        obs[0, :, self.at] = 255
        return obs

    def _act(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        self.at = (self.at + {LEFT: -1, RIGHT: 1}.get(int(actions[0]), 0)) % SIZE
        return np.array([{RIGHT: 1, FIRE: 10}.get(int(actions[0]), 0)]), self.steps + 1 >= LENGTH

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"at": self.at}

    def set_state(self, state: dict[str, Any]) -> NDArray[np.uint8]:
        self.at = state["at"]
        return super().set_state(state)


class RightPolicy:
    """Goes right with probability 0.7; its value is the number of frames that it has seen since its state began."""

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        state = torch.zeros(1, 1)
        if recurrent_inputs is not None and recurrent_inputs.state.shape[1] and not recurrent_inputs.starts[0]:
            state = recurrent_inputs.state
        return ActorOutput(
            actions=torch.tensor([RIGHT]),
            logits=torch.tensor([[0.1, 0.1, 0.7, 0.1]]).log(),
            values=state + 1,
            state=state + 1,
        )


RIGHT_UNTIL = 4


class ForgetfulModel:
    """Knows the game for four steps, and then the column stands still. A step is worth 2; ten end the episode."""

    def begin(self, obs: UInt8[Tensor, "B H W D"]) -> Tensor:
        return torch.zeros(1, 1, SIZE, SIZE)

    def imagine(
        self,
        obs: UInt8[Tensor, "B H W D"],
        actions: Int64[Tensor, "B"],
        generator: torch.Generator,
        state: Tensor | None = None,
    ) -> ImaginedStep:
        assert state is not None
        steps = int(state.max()) + 1
        moved = {LEFT: -1, RIGHT: 1}.get(int(actions[0]), 0) if steps <= RIGHT_UNTIL else 0
        return ImaginedStep(
            frames=obs[..., -3:].roll(moved, 2),
            rewards=torch.tensor([2.0]),
            expected_rewards=torch.tensor([2.0]),
            end_probabilities=torch.tensor([float(steps >= 10)]),
            state=state + 1,
        )


def walk(*, policy: Policy | None = None, make_game: Callable[[int], Any] = WalkVectorEnv, **options: Any) -> Scene:
    """A scene of it; levels 3 to 7 are for training."""
    known: dict[str, Any] = {
        "title": "<b>walk</b>",
        "game": "walk",
        "method": "right",
        "make_game": make_game,
        "actions": action_keys(ACTIONS, len(ACTIONS)),
        "levels": Levels(count=5, first=3),
        "policy": policy,
    }
    return Scene(**(known | options))


RECORDED = [LEFT, LEFT, FIRE] + [NONE] * (LENGTH - 3)
"""Actions of an episode that begins in column 9."""


def recorded(
    *, number: int = 0, actions: Sequence[int] = RECORDED, value: float = 10.0, level: int | None = None
) -> Recorded:
    """An episode that `test` has played."""
    begun: dict[str, Any] = {"number": number, "game": "walk", "level": level, "open": lambda: WalkVectorEnv(9)}
    return Recorded(episode_return=value, actions=actions, **begun)


def table(scene: Scene | None = None, *, episodes: PlayedEpisodes | None = None, **options: Any) -> Table:
    """A table of a scene; of the walk, by default."""
    return Table(Show(scenes=[scene or walk(**options)], episodes=episodes))


def column(frame: UInt8[NDArray[Any], "H W 3"]) -> int:
    """Where the white column is."""
    return int(frame[0, :, 0].argmax())


def any_one(_header: dict[str, Any]) -> bool:
    """Fits every message."""
    return True


def none(_header: dict[str, Any]) -> bool:
    """Fits no message."""
    return False


class Talk:
    """A window that a test opens by itself.

    Args:
        link: of the server.
        name: of the window.
        options: of the connection; `origin` is the server's own by default.
    """

    def __init__(self, link: str, name: str = "window", **options: Any) -> None:
        parts = urlsplit(link)
        known: dict[str, Any] = {"origin": f"http://{parts.netloc}", "proxy": None, "max_size": None}
        self._connecting = connect(f"ws://{parts.netloc}/ws?{parts.query}", **(known | options))
        self._name = name
        self.socket: ClientConnection

    def __enter__(self) -> Self:
        self.socket = self._connecting.__enter__()
        self.say(do="hello", window=self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connecting.__exit__(kind, error, traceback)

    def say(self, **command: Any) -> None:
        self.socket.send(json.dumps(command))

    def hear(self) -> tuple[dict[str, Any], bytes]:
        """The next message: its header and its images' bytes."""
        content = self.socket.recv(timeout=60)
        assert isinstance(content, bytes)
        end = 4 + int.from_bytes(content[:4], "big")
        return json.loads(content[4:end]), content[end:]

    def until(self, fits: Callable[[dict[str, Any]], object], kind: str = "frame") -> dict[str, Any]:
        """The next message of a kind for which something holds."""
        while True:
            header, images = self.hear()
            if header["type"] == kind and fits(header):
                return {**header, "bytes": images}
