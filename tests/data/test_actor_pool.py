"""Actor processes: what they collect, what of them is saved, and how their failures are told."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_rl.data.actor_pool import ActorPool
from lightning_rl.data.collector import Collector
from lightning_rl.data.shared_memory import SharedTensors, shared
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.errors import ActorError
from lightning_rl.types import ActorOutput, RecurrentInputs, Rollout, State
from tests.support.toys import IdentityVectorEnv

OBS_SHAPE = (4, 6, 3)
NUM_STEPS, NUM_ENVS, NUM_ACTIONS = 7, 5, 3
WIDTHS = (2, 3)
SEEDS = [(11, 12), (13, 14)]
NUM_ROLLOUTS, SAVED_AFTER = 5, 2


class CountingPolicy(nn.Module):
    """Its only weight is the number of updates that it had, which its outputs show; it recalls and draws noise."""

    updates: Tensor

    def __init__(self, updates: int = 0) -> None:
        super().__init__()
        self.register_buffer("updates", torch.tensor(float(updates)))

    def act(
        self,
        obs: NDArray[Any],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        known = RecurrentInputs.initial(len(obs)) if recurrent_inputs is None else recurrent_inputs
        state = known.state if known.state.shape[1] else torch.zeros(len(obs), 2)
        heard = torch.stack([known.previous_rewards, known.previous_actions.float()], dim=1)
        return ActorOutput(
            actions=torch.randint(NUM_ACTIONS, (len(obs),), generator=generator),
            logits=torch.from_numpy(obs[:, 0, :NUM_ACTIONS, 0]).float() + self.updates,
            values=self.updates.expand(len(obs), 1).clone(),
            state=0.5 * state * ~known.starts[:, None] + heard,
            noise=torch.randn(len(obs), 2, generator=generator),
        )

    def actor(self) -> "CountingPolicy":
        return deepcopy(self)


def make_env(num_envs: int, seed: int) -> IdentityVectorEnv:
    return IdentityVectorEnv(num_envs, seed=seed, episode_length=3, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


class FailingVectorEnv(IdentityVectorEnv):
    """Fails in its third step."""

    error: type[Exception] = OverflowError

    def step(self, actions: NDArray[np.int64]) -> Any:
        if self.steps[0] == 2:
            raise self.error("three is too many")
        return super().step(actions)


class DisconnectedVectorEnv(FailingVectorEnv):
    """Loses the connection to a game server of its own, which is not the connection to the learner."""

    error = ConnectionResetError


class TruncatedVectorEnv(FailingVectorEnv):
    error = EOFError


def make_failing_env(num_envs: int, seed: int, kind: type[FailingVectorEnv] = FailingVectorEnv) -> FailingVectorEnv:
    return kind(num_envs, seed=seed, episode_length=99, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


def make_hanging_env(num_envs: int, seed: int) -> IdentityVectorEnv:
    time.sleep(600)
    raise AssertionError(f"{num_envs} environments of seed {seed} were waited for")


def pool_of(**options: Any) -> ActorPool:
    defaults: dict[str, Any] = {"num_actors": len(WIDTHS), "num_envs": NUM_ENVS, "seeds": SEEDS}
    sizes: dict[str, Any] = {"num_steps": NUM_STEPS, "obs_shape": OBS_SHAPE, "seed": 9}
    return ActorPool(options.pop("make_env", make_env), **(defaults | sizes | options))


def tensors_of(rollout: Rollout) -> dict[str, Tensor]:
    """Copies, since the next rollout but one takes the memory."""
    found = {name: value.clone() for name, value in vars(rollout).items() if isinstance(value, Tensor)}
    return found | {f"recurrent_inputs.{name}": value.clone() for name, value in vars(rollout.recurrent_inputs).items()}


def pids_of(pool: ActorPool) -> list[int]:
    return [process.pid or 0 for process in pool._processes]


def are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def exhaust(pool: ActorPool) -> None:
    """What was collected before a failure is handed out still."""
    for _ in range(2):
        pool.collect(CountingPolicy())


class History(NamedTuple):
    """What a pool did: rollouts, lags, metrics, the state in between, and the end that its actors came to."""

    rollouts: list[dict[str, Tensor]]
    lags: list[int]
    metrics: list[dict[str, float]]
    env_steps: int
    state: State
    error: str
    pids: list[int]


@pytest.fixture(scope="module")
def killed() -> History:
    """Collects, saves once in between and goes on, until its second actor is killed."""
    pool = pool_of()
    rollouts, lags, metrics, state = [], [], [], {}
    for number in range(NUM_ROLLOUTS):
        rollout = pool.collect(CountingPolicy(number))
        rollouts.append(tensors_of(rollout))
        lags.append(rollout.policy_lag)
        metrics.append(pool.metrics())
        pool.memory["rows"] = torch.full((NUM_ENVS,), float(number))
        if number + 1 == SAVED_AFTER:
            torch.randn(1, generator=pool.generator)
            state = deepcopy(pool.state_dict())
            assert repr(pool.state_dict()) == repr(state)  # saving twice at a boundary, as last and best
    pids, env_steps = pids_of(pool), pool.env_steps
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(ActorError) as error:
        exhaust(pool)
    return History(rollouts, lags, metrics, env_steps, state, str(error.value), pids)


def versions() -> Iterator[int]:
    """Updates of the policy that collects each rollout: the first two are ordered together."""
    yield from (0, *range(NUM_ROLLOUTS - 1))


def test_each_actor_collects_what_a_collector_of_its_own_would(killed: History) -> None:
    columns = []
    for width, (games, actions) in zip(WIDTHS, SEEDS, strict=True):
        collector = Collector(EpisodeStatistics(make_env(width, games)), num_steps=NUM_STEPS, seed=actions)
        columns.append([tensors_of(collector.collect(CountingPolicy(version))) for version in versions()])
    for number, parts in enumerate(zip(*columns, strict=True)):
        for name, actual in killed.rollouts[number].items():
            dim = 0 if name.startswith("recurrent_inputs.") else 1
            expected = [part[name] for part in parts]
            if name == "recurrent_inputs.state" and number == 0:  # none yet, where one process collects
                assert not actual.any()
                continue
            assert torch.equal(actual, torch.cat(expected, dim)), f"{name} of rollout {number}"
    assert not torch.equal(killed.rollouts[2]["actions"][:, :2], killed.rollouts[2]["actions"][:, 2:4])


def test_rollouts_are_one_update_late_and_never_more(killed: History) -> None:
    assert [float(rollout["behavior_values"].unique()) for rollout in killed.rollouts] == list(versions())
    assert killed.lags == [0, 1, 1, 1, 1]


def test_the_metrics_are_those_of_all_actors(killed: History) -> None:
    rewards = [rollout["rewards"] for rollout in killed.rollouts]
    assert [row["rollout/reward"] for row in killed.metrics] == pytest.approx([float(r.mean()) for r in rewards])
    ended = torch.cat(rewards[:3])[:21].unflatten(0, (7, 3)).sum(1)  # episodes of three steps: seven in three rollouts
    assert killed.metrics[2]["episode/return"] == pytest.approx(float(ended.mean()))
    assert killed.metrics[2]["episode/length"] == 3.0
    assert killed.env_steps == NUM_ROLLOUTS * NUM_STEPS * NUM_ENVS


def test_a_killed_actor_is_named_with_its_exit_code_and_all_are_ended(killed: History) -> None:
    assert killed.error == f"actor 1 of 2, process {killed.pids[1]}, died; exit code -9 (SIGKILL)"
    assert are_gone(killed.pids)


def test_continued_from_a_state_the_rollouts_are_the_same_and_a_hung_actor_is_named(
    killed: History, tmp_path: Path
) -> None:
    torch.save(killed.state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    pool = pool_of(seeds=[(1, 2), (3, 4)], seed=5, hang_seconds=5.0)
    pool.load_state_dict(state)
    assert repr(pool.state_dict()) == repr(state)  # saved again before anything was collected
    for number in range(SAVED_AFTER, NUM_ROLLOUTS):
        rollout = pool.collect(CountingPolicy(number))
        actual = tensors_of(rollout)
        unequal = [name for name, value in killed.rollouts[number].items() if not torch.equal(actual[name], value)]
        assert unequal == []
        assert (rollout.policy_lag, pool.metrics()) == (killed.lags[number], killed.metrics[number])
    assert pool.env_steps == killed.env_steps
    assert torch.equal(pool.memory["rows"], torch.full((NUM_ENVS,), 1.0))

    pids = pids_of(pool)
    os.kill(pids[0], signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(ActorError, match=rf"actor 0 of 2, process {pids[0]}, hangs: .* 5 seconds.*exit code -9"):
        exhaust(pool)
    assert time.monotonic() - start < 20
    assert are_gone(pids)


@pytest.mark.parametrize("kind", [FailingVectorEnv, DisconnectedVectorEnv, TruncatedVectorEnv])
def test_an_actor_that_raises_is_named_with_what_it_raised(
    kind: type[FailingVectorEnv], capfd: pytest.CaptureFixture[str]
) -> None:
    pool = pool_of(make_env=partial(make_failing_env, kind=kind), num_actors=1, seeds=SEEDS[:1])
    raised = rf"raised {kind.error.__name__}: three is too many; exit code 1$"
    with pytest.raises(ActorError, match=rf"actor 0 of 1, .* {raised}"):
        pool.collect(CountingPolicy())
    assert "make_failing_env" not in capfd.readouterr().out  # its traceback goes to stderr


class DyingAtItsStart:
    """Ends the process that unpickles it, as an import that fails does; its own is left alone."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)

    def __call__(self, num_envs: int, seed: int) -> IdentityVectorEnv:
        raise AssertionError(f"{num_envs} environments of seed {seed} are built in the process that ended")


class LargePolicy(CountingPolicy):
    """More than a pipe holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(1 << 20))


@pytest.mark.timeout(60)
def test_an_actor_that_dies_before_it_has_read_its_policy_is_named() -> None:
    pool = pool_of(make_env=DyingAtItsStart(), num_actors=1, seeds=SEEDS[:1])

    with pytest.raises(ActorError, match=r"actor 0 of 1, .* died; exit code 3$"):
        pool.collect(LargePolicy())


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_an_actor_that_hangs_at_its_start_is_named_though_a_state_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_rl.data.actor_pool._START_SECONDS", 3.0)
    saved = pool_of(num_actors=1, seeds=SEEDS[:1]).state_dict()
    games = {"env": torch.zeros(1 << 20, dtype=torch.uint8)}  # more than a pipe holds
    pool = pool_of(make_env=make_hanging_env, num_actors=1, seeds=SEEDS[:1])
    pool.load_state_dict(saved | {"actors": [games]})

    with pytest.raises(ActorError, match=r"actor 0 of 1, .* hangs: .* 3 seconds"):
        pool.collect(CountingPolicy())


def test_a_policy_that_cannot_act_elsewhere_is_refused() -> None:
    class Local:
        def act(self, *_args: Any, **_options: Any) -> ActorOutput:
            raise AssertionError

    with pytest.raises(TypeError, match="actors need a RemotePolicy, found Local"):
        pool_of().collect(Local())


def test_shared_tensors_hold_what_they_are_given_apart_from_each_other() -> None:
    tensors: Mapping[str, Tensor] = {
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(3, 0),
        "weights": torch.randn(2, 3),
        "scalar": torch.tensor(5),
    }
    copies = shared(tensors)
    copies["flags"][:] = False
    assert torch.equal(copies["weights"], tensors["weights"])
    assert torch.equal(copies["scalar"], tensors["scalar"])
    assert copies["empty"].shape == (3, 0)
    assert tensors["flags"].any()
    with pytest.raises(ValueError, match=r"expected the tensors \['empty', 'flags', 'scalar', 'weights'\], found \[\]"):
        copies.copy_({})


def test_shared_tensors_have_no_file() -> None:
    before = set(os.listdir("/dev/shm"))
    held = SharedTensors({"frames": (torch.uint8, (1 << 20,))})
    assert set(os.listdir("/dev/shm")) == before
    assert held["frames"].shape == (1 << 20,)
