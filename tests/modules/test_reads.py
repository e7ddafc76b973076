"""Learning reads nothing from the device between the updates of an iteration, so that a GPU never waits for the CPU."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.modules.base import RLModule
from tests.modules import test_policy_distill, test_recurrent_policy_distill
from tests.support import dreams
from tests.support.impala_worlds import make_impala, make_impala_vae, world
from tests.support.reads import Reads
from tests.support.worlds import NUM_STEPS, Batches, fit, make_collector, make_distilled, make_module

_FADING: dict[str, Any] = {"loss": "proximal", "fading_steps": 1000}
METHODS: dict[str, Callable[[Path], RLModule]] = {
    "ppo": lambda _: make_module(minibatch_size=NUM_STEPS, epochs=2),
    "ppo_distill": lambda _: make_distilled(minibatch_size=NUM_STEPS, epochs=2, distillation={"dropout": 0.5}),
    "policy_distill": lambda path: test_policy_distill.make_student(path, minibatch_size=NUM_STEPS, **_FADING),
    "recurrent_policy_distill": lambda path: test_recurrent_policy_distill.make_student(path, epochs=2),
    "impala": lambda _: make_impala(),
    "impala_vae": lambda _: make_impala_vae(vae={"minibatch_size": NUM_STEPS}),
}
_SEGMENTS = ("opening_steps: nonzero", "opening_steps: tolist")
"""Where episodes begin in the sequences of an LSTM, which is read before there is anything to wait for."""
_OF_THE_CPU = {
    "training_step: tolist": "seeds",
    "sample: __int__": "which windows of real play",
    "_gathered: nonzero": "likewise",
    "_fed: nonzero": "which windows the model's own frames are fed to",
    "_step: __float__": "Adafactor's count of steps",
    "_no_grad_trunc_normal_: item": "on a GPU they are drawn in another way",
    "_no_grad_trunc_normal_: __bool__": "likewise",
    "<lambda>: cpu": "Lightning's, after the run",
}
"""What is on the CPU whatever device learns."""


def read_in_learning(module: RLModule, batches: Iterator[Any], number: int) -> Counter[str]:
    """What is read while so many batches are made and learned from; the first is made before."""
    made = [next(batches)]
    with Reads() as reads:
        made += islice(batches, number - 1)
        fit(module, Batches(*made))
    assert len(made) == number
    return Counter({name: count for name, count in reads.counts.items() if name not in (*_OF_THE_CPU, *_SEGMENTS)})


@pytest.mark.parametrize("method", METHODS)
def test_twice_the_updates_read_no_more(method: str, tmp_path: Path) -> None:
    found = []
    for number in (1, 1 if method == "impala" else 2):  # whose iteration is one update
        module = METHODS[method](tmp_path / str(number))
        found.append(read_in_learning(module, module.batches(make_collector(world())), number))

    assert found[0] == found[1]
    assert found[0]["check: tolist"] == 1  # whether everything is finite


@pytest.mark.parametrize("kind", ["deterministic", pytest.param("stochastic", marks=pytest.mark.slow)])
@pytest.mark.parametrize("slices", [0, 3])
def test_nor_do_those_of_simple_in_either_phase(kind: str, slices: int, tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        module = dreams.module(kind, world_model={"ramp": 1})  # always fed its own frames
        replay = ReplayBuffer(tmp_path / f"replay{number}", game="noise", num_frames=dreams.K)
        source = dreams.Recorded(replay)
        for _ in range(slices):
            for _ in module.batches(source):
                pass
        found.append(read_in_learning(module, module.batches(source), number))

    assert found[0] == found[1]
