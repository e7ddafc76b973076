"""What `lightning-rl doctor --benchmark` measures, at tiny size."""

from typing import Literal

import pytest
import torch

from lightning_rl.cli import doctor, machine_speed
from lightning_rl.cli.finding import Finding
from lightning_rl.cli.machine_speed import Sizes, Stages


@pytest.mark.slow
def test_it_measures_each_stage_and_names_the_bound() -> None:
    num_threads = torch.get_num_threads()
    sizes = Sizes(game="dodgeball", num_envs=2, num_steps=8, minibatch_size=16, iterations=2, accelerator="cpu")

    found = list(machine_speed.findings(sizes))

    torch.set_num_threads(num_threads)
    assert [finding.subject for finding in found] == ["PPO", "games", "acting", "learning", "bound"]
    assert found[0].found.endswith("env steps/s (dodgeball, 2 × 8, 3 epochs)")
    assert float(found[0].found.split()[0]) > 0
    assert found[-1].found in ("games", "acting", "learning")


def test_the_bound_is_the_stage_that_takes_longest() -> None:
    stages = Stages(games=1.0, acting=0.5, learning=2.5)

    assert stages.bound == "learning"
    assert stages.shares == {"games": 0.25, "acting": 0.125, "learning": 0.625}


@pytest.mark.parametrize(("verdict", "status", "is_measured"), [("bad", 1, False), ("ok", 0, True)])
def test_nothing_is_measured_where_something_will_break(
    verdict: Literal["bad", "ok"],
    status: int,
    is_measured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "findings", lambda _: iter([Finding(verdict, "torch", "2.10")]))
    monkeypatch.setattr(machine_speed, "findings", lambda _: iter([Finding("note", "bound", "games")]))

    assert doctor.main(["--benchmark"], {}) == status

    assert ("bound" in capsys.readouterr().out) == is_measured
