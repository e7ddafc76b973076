"""The actor process, which collects its part of every rollout that the learner orders, and their messages."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.cpu import allocator
from lightning_rl.data.collector import Collector
from lightning_rl.data.shared_memory import SharedTensors
from lightning_rl.envs.statistics import EpisodeStatistics, RecentEpisodes
from lightning_rl.protocols import RemotePolicy, ResumableVectorEnv
from lightning_rl.runs.signals import end_with
from lightning_rl.types import ActorOutput, RecurrentInputs, Rollout

MakeEnv = Callable[[int, int], ResumableVectorEnv]
"""Builds so many environments with this seed, in the process that will step them; picklable."""


class Slot(NamedTuple):
    """Shared memory for one rollout of all environments, and for the policy that collects it."""

    rollout: SharedTensors
    policy: SharedTensors


class Order(NamedTuple):
    """Asks every actor for its part of a rollout."""

    slot: int
    version: int


class Report(NamedTuple):
    """What an actor reports of its part of a rollout, beside the tensors in the slot."""

    version: int
    mean_raw_reward: float
    episodes: RecentEpisodes


class Failure(NamedTuple):
    """An exception as text, since not every exception can be pickled."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an actor process is given when it starts."""

    make_env: MakeEnv
    columns: slice
    num_steps: int
    seeds: tuple[int, int]
    index: int
    slots: Sequence[Slot]
    beats: SharedTensors
    learner: int


def send(connection: Connection, message: Any) -> None:
    """Sends a message as a plain pickle; `Connection.send` would pass each tensor through a file of its own."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """The next message; waits for it."""
    return pickle.loads(connection.recv_bytes())


class _LearnerGoneError(Exception):
    """The learner has closed its end; an environment may raise the same errors for reasons of its own."""


def _tell(connection: Connection, message: Any) -> None:
    try:
        send(connection, message)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise _LearnerGoneError from error


def _told(connection: Connection) -> Any:
    try:
        message = connection.recv_bytes()
    except (EOFError, ConnectionResetError) as error:
        raise _LearnerGoneError from error
    return pickle.loads(message)


def run_actor(job: Job, connection: Connection) -> None:
    """An actor process, from its start to its end."""
    end_with(job.learner)
    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    try:
        _serve(job, connection)
    except _LearnerGoneError:
        return
    except Exception as error:  # the learner reports it; Python prints it and exits with 1
        send(connection, Failure(f"{type(error).__name__}: {error}"))
        raise


def _serve(job: Job, connection: Connection) -> None:
    """Receives the policy and the state to start from, if any, and serves orders; before each it reports to be ready.

    An `Order` asks for a rollout, None for the state before the last rollout.
    """
    _tell(connection, None)
    actor: RemotePolicy = _told(connection)
    games, actions = job.seeds
    env = EpisodeStatistics(job.make_env(job.columns.stop - job.columns.start, games))
    collector = Collector(env, num_steps=job.num_steps, seed=actions)
    policy = _CountedPolicy(actor, job)
    policy.act(env.reset()[0], torch.Generator())  # compiles what is compiled at its first use
    _tell(connection, None)
    restored = _told(connection)
    if restored is not None:
        collector.load_state_dict(restored)
    before = restored
    _tell(connection, None)
    while True:
        order: Order | None = _told(connection)
        if order is None:
            _tell(connection, before)
            continue
        before = collector.state_dict()
        slot, finished = job.slots[order.slot], env.num_finished
        policy.load_state_dict(slot.policy)
        frames = slot.rollout["obs"].numpy()[:, job.columns]
        _write(collector.collect(policy, frames), slot.rollout, job.columns)
        episodes = env.recent.last(env.num_finished - finished)
        _tell(connection, Report(order.version, collector.mean_raw_reward, episodes))


def _write(rollout: Rollout, tensors: SharedTensors, columns: slice) -> None:
    """Writes everything but the frames, which the collector has written, into this actor's columns."""
    for name, tensor in tensors.items():
        if name == "recurrent_inputs.state" and rollout.recurrent_inputs.state.shape[1] == 0:
            tensor[columns] = 0  # before its first step the policy has no state
        elif name.startswith("recurrent_inputs."):
            tensor[columns] = getattr(rollout.recurrent_inputs, name.removeprefix("recurrent_inputs."))
        elif name != "obs":
            tensor[:, columns] = getattr(rollout, name)


class _CountedPolicy:
    """Counts steps in shared memory, which shows the learner that the actor is alive."""

    def __init__(self, policy: RemotePolicy, job: Job) -> None:
        self._policy = policy
        self._beats = job.beats["steps"][job.index : job.index + 1]
        self.load_state_dict = policy.load_state_dict

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """See `Policy`."""
        self._beats += 1
        return self._policy.act(obs, generator, recurrent_inputs=recurrent_inputs, greedy=greedy)
