"""Collects in other processes while the learner learns."""

import atexit
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Annotated, Any, NoReturn

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from lightning_rl.data.actor_process import Failure, Job, MakeEnv, Order, Report, Slot, receive, run_actor, send
from lightning_rl.data.collector import CollectorState
from lightning_rl.data.shared_memory import Layout, SharedTensors, shared
from lightning_rl.data.stopwatch import counting_seconds
from lightning_rl.envs.statistics import RecentEpisodes
from lightning_rl.errors import ActorError
from lightning_rl.protocols import Policy, RemotePolicy
from lightning_rl.runs.signals import signals_blocked
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import ActorOutput, RecurrentInputs, Rollout, State

_NUM_ORDERED = 2  # rollouts ordered at a time: one is waited for while the next is collected
_START_SECONDS = 300.0  # imports from a slow disk, and building the games


@dataclass(frozen=True, kw_only=True)
class OrderState:
    """The rollout that is being collected: by which policy."""

    policy: dict[str, Tensor]
    version: int


@dataclass(frozen=True, kw_only=True)
class PoolState:
    """Everything that an `ActorPool` saves; no actors and nothing ahead where it has not started."""

    actors: Annotated[list[State], "K"] | None
    ahead: OrderState | None
    env_steps: int
    updates: int
    mean_raw_reward: float
    episodes: RecentEpisodes
    generator: torch.Generator
    memory: dict[str, Shaped[Tensor, "B ..."]]


class ActorPool:
    """Actor processes, each with a `Collector` of its own, that share the environments of one rank out among them.

    A rollout is one of all environments: each actor fills the columns of its own, in memory that all share. Two are
    ordered at a time, so the actors collect the next while the learner learns from the last; a rollout is collected by
    the policy of the moment at which it was ordered. All but the first are therefore one update behind when they are
    learned from, never more, whatever the processes' speed, and the same seed gives the same bits.

    A state holds the games as they were before the rollout that is being collected, and the policy that collects it: a
    run continued from it collects that rollout again, and goes on with the same bits as one that never stopped.

    The processes start with the first rollout. They end with `close`, with the learner, however that ends, and when
    one of them fails.

    Args:
        make_env: builds an actor's environments.
        num_actors: K, processes.
        num_envs: B, environments of all actors.
        num_steps: T, steps of one rollout.
        obs_shape: height, width and channels of a frame.
        seeds: of the games and of the actions, for each actor.
        seed: of `generator`.
        hang_seconds: time without a step after which an actor that should take some counts as hung.

    Attributes:
        env_steps: decisions in the rollouts handed out so far.
        generator: the stream of every random choice that the learner makes between two updates.
        memory: what the method carries from rollout to rollout, one row per environment.

    Raises:
        ActorError: from `collect` and `state_dict`: an actor died, hangs or raised; all have been ended.

    Reference:
        Espeholt et al. 2018, IMPALA, section 3, https://arxiv.org/abs/1802.01561; deepmind/scalable_agent,
        experiment.py, for the queue of one batch
    """

    def __init__(
        self,
        make_env: MakeEnv,
        *,
        num_actors: int,
        num_envs: int,
        num_steps: int,
        obs_shape: tuple[int, int, int],
        seeds: Sequence[tuple[int, int]],
        seed: int,
        hang_seconds: float = 20.0,
    ) -> None:
        self.num_envs = num_envs
        self.num_steps = num_steps
        self.generator = torch.Generator().manual_seed(seed)
        self.memory: dict[str, Tensor] = {}
        self.replay = None  # who learns from a replay buffer collects in its own process
        self.env_steps = 0
        self._make_env = make_env
        self._columns = _shares(num_envs, num_actors)
        self._obs_shape = obs_shape
        self._seeds = seeds
        self._hang_seconds = hang_seconds
        self._episodes = RecentEpisodes()
        self._mean_raw_reward = 0.0
        self._updates = 0
        self._ordered: deque[Order] = deque()
        self._arrived: deque[list[Report]] = deque()
        self._slots: list[Slot] = []
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []
        self._beats = SharedTensors({"steps": (torch.int64, (num_actors,))})
        self.collecting_seconds = 0.0  # spent in waiting for rollouts
        self._saved_actors: list[State] | None = None  # to start with
        self._saved_order: OrderState | None = None

    @counting_seconds
    def collect(self, policy: Policy) -> Rollout:
        """The next rollout, and orders the one after it; what the last call returned is overwritten from now on.

        Args:
            policy: as the learner has it now, a `RemotePolicy`; acts in the rollouts that are ordered now.
        """
        if not isinstance(policy, RemotePolicy):
            raise TypeError(f"actors need a RemotePolicy, found {type(policy).__name__}")
        if not self._processes:
            self._start(policy)
        while len(self._ordered) < _NUM_ORDERED:
            self._order(policy.state_dict(), self._updates)
        order = self._ordered.popleft()
        reports = self._arrived.popleft() if self._arrived else self._answers(self._hang_seconds)
        for report in reports:
            self._episodes.add(report.episodes.recent_returns, report.episodes.recent_lengths)
        widths = [columns.stop - columns.start for columns in self._columns]
        rewards = [report.mean_raw_reward for report in reports]
        self._mean_raw_reward = float(np.average(rewards, weights=widths))
        lag = self._updates - min(report.version for report in reports)
        self.env_steps += self.num_steps * self.num_envs
        self._updates += 1
        return _rollout(self._slots[order.slot].rollout, lag)

    def _order(self, weights: dict[str, Tensor], version: int) -> None:
        slot = 1 - self._ordered[-1].slot if self._ordered else 0
        self._slots[slot].policy.copy_(weights)
        self._ordered.append(Order(slot, version))
        self._tell(self._ordered[-1])

    def _start(self, policy: RemotePolicy) -> None:
        actor = policy.actor()
        layout = self._layout(actor.act(np.zeros((self.num_envs, *self._obs_shape), np.uint8), torch.Generator()))
        self._slots = [Slot(SharedTensors(layout), shared(actor.state_dict())) for _ in range(_NUM_ORDERED)]
        context = multiprocessing.get_context("spawn")
        atexit.register(self.close)
        for index, columns in enumerate(self._columns):
            job = Job(
                make_env=self._make_env,
                columns=columns,
                num_steps=self.num_steps,
                seeds=self._seeds[index],
                index=index,
                slots=self._slots,
                beats=self._beats,
                learner=os.getpid(),
            )
            ours, theirs = context.Pipe()
            process = context.Process(target=run_actor, args=(job, theirs), name=f"actor-{index}", daemon=True)
            with signals_blocked():  # the learner alone handles them
                process.start()
            theirs.close()  # so that the actor's end is the only one, and its death is seen
            self._processes.append(process)
            self._connections.append(ours)
        # Policies and states are more than a pipe holds, so they are sent to processes that have said that they read.
        # As arguments of a process that dies meanwhile, they would be written for ever.
        self._answers(_START_SECONDS)
        self._tell(actor)
        self._answers(_START_SECONDS)
        states: Sequence[State | None] = self._saved_actors or [None] * len(self._processes)
        for index, state in enumerate(states):
            self._tell(state, only=index)
        self._answers(_START_SECONDS)
        if self._saved_order is not None:
            self._order(self._saved_order.policy, self._saved_order.version)
        self._saved_actors = self._saved_order = None

    def _layout(self, output: ActorOutput) -> Layout:
        """Types and shapes of a rollout's tensors, from what the policy puts out."""
        steps, envs = self.num_steps, self.num_envs
        state = 0 if output.state is None else output.state.shape[1]
        layout: Layout = {
            "actions": (torch.int64, (steps, envs)),
            "rewards": (torch.float32, (steps, envs)),
            **({} if output.state is None else {"raw_rewards": (torch.float32, (steps, envs))}),
            "terminated": (torch.bool, (steps, envs)),
            "behavior_logits": (torch.float32, (steps, envs, output.logits.shape[1])),
            "behavior_values": (torch.float32, (steps, envs, output.values.shape[1])),
            "obs": (torch.uint8, (steps + 1, envs, *self._obs_shape)),
            "recurrent_inputs.previous_actions": (torch.int64, (envs,)),
            "recurrent_inputs.previous_rewards": (torch.float32, (envs,)),
            "recurrent_inputs.starts": (torch.bool, (envs,)),
            "recurrent_inputs.state": (torch.float32, (envs, state)),
        }
        if output.noise is not None:
            layout["behavior_noise"] = (torch.float32, (steps, envs, output.noise.shape[1]))
        return layout

    def _tell(self, message: Any, only: int | None = None) -> None:
        for index, connection in enumerate(self._connections):
            if only in (None, index):
                try:
                    send(connection, message)
                except OSError:  # it died; whoever waits for its next answer reports that
                    return

    def _answers(self, seconds: float) -> list[Any]:
        """One answer of every actor, in their order."""
        answers: dict[int, Any] = {}
        quiet = dict.fromkeys(
            range(len(self._connections)), 0
        )  # seconds without a step, not counting those in which this process is suspended
        steps = self._beats["steps"].tolist()
        while waiting := [index for index in quiet if index not in answers]:
            ready = wait([self._connections[index] for index in waiting], timeout=1.0)
            for index in waiting:
                if self._connections[index] in ready:
                    answers[index] = self._answer(index)
            now = self._beats["steps"].tolist()
            for index in () if ready else waiting:
                quiet[index] = 0 if now[index] != steps[index] else quiet[index] + 1
                if quiet[index] >= seconds:
                    self._processes[index].kill()
                    self._fail(index, f"hangs: it has not taken a step for {seconds:g} seconds, and was ended")
            steps = now
        return [answers[index] for index in sorted(answers)]

    def _answer(self, index: int) -> Any:
        try:
            answer = receive(self._connections[index])
        except (EOFError, OSError):
            self._fail(index, "died")
        if isinstance(answer, Failure):
            self._fail(index, f"raised {answer.text}")
        return answer

    def _fail(self, index: int, what: str) -> NoReturn:
        process = self._processes[index]
        process.join(timeout=10.0)  # it is about to end by itself
        process.kill()
        process.join()
        code, pid = process.exitcode or 0, process.pid
        name = f" ({signal.Signals(-code).name})" if code < 0 else ""
        number = len(self._processes)
        self.close()
        raise ActorError(f"actor {index} of {number}, process {pid}, {what}; exit code {code}{name}")

    def metrics(self) -> dict[str, float]:
        """Returns and lengths of recent episodes, in the units of the game, and the last rollout's mean raw reward."""
        return {**self._episodes.metrics(), "rollout/reward": self._mean_raw_reward}

    def state_dict(self) -> State:
        """Everything of the last boundary; waits for the actors to finish the rollout that they collect."""
        actors, ahead = self._saved_actors, self._saved_order
        if self._processes:
            if not self._arrived:
                self._arrived.append(self._answers(self._hang_seconds))
            self._tell(None)
            actors = self._answers(self._hang_seconds)
            [order] = self._ordered
            ahead = OrderState(policy=self._slots[order.slot].policy, version=order.version)
        state = PoolState(
            actors=actors,
            ahead=ahead,
            env_steps=self.env_steps,
            updates=self._updates,
            mean_raw_reward=self._mean_raw_reward,
            episodes=self._episodes,
            generator=self.generator,
            memory=self.memory,
        )
        return to_plain(state)

    def load_state_dict(self, state: State) -> None:
        """Continues from a saved state, once the next rollout is asked for.

        Raises:
            ValueError: the state is of another number of actors or environments.
        """
        saved = from_plain(PoolState, state, "pool", K=len(self._columns), B=self.num_envs)
        self.close()
        self._saved_actors, self._saved_order = saved.actors, saved.ahead
        self.env_steps = saved.env_steps
        self._updates = saved.updates
        self._mean_raw_reward = saved.mean_raw_reward
        self._episodes = saved.episodes
        self.generator.set_state(saved.generator.get_state())
        self.memory = saved.memory

    def close(self) -> None:
        """Ends the processes at once: what they hold is saved with the learner, or lost with it."""
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.join()
            process.close()
            connection.close()
        self._processes, self._connections, self._slots = [], [], []
        self._ordered.clear()
        self._arrived.clear()


def check_pool(state: State, key: str, *, num_envs: int, num_actors: int) -> None:
    """Refuses what no pool of so many actors saves, before one is built; `key` is the state's own.

    Raises:
        ValueError: names the key.
    """
    pool = from_plain(PoolState, state, key, K=num_actors, B=num_envs)
    for index, (columns, actor) in enumerate(zip(_shares(num_envs, num_actors), pool.actors or [], strict=False)):
        from_plain(CollectorState, actor, f"{key}.actors.{index}", B=columns.stop - columns.start)


def _shares(num_envs: int, num_actors: int) -> list[slice]:
    """Consecutive columns for each actor, whose numbers differ by one at most."""
    ends = [num_envs * (index + 1) // num_actors for index in range(num_actors)]
    return [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]


def _rollout(tensors: SharedTensors, policy_lag: int) -> Rollout:
    recurrent_inputs = RecurrentInputs(
        **{field.name: tensors[f"recurrent_inputs.{field.name}"] for field in fields(RecurrentInputs)}
    )
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith("recurrent_inputs.")}
    return Rollout(**others, recurrent_inputs=recurrent_inputs, policy_lag=policy_lag)
