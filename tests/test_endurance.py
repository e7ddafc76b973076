"""A run of many iterations needs no more of the machine than a short one."""

from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli import main
from tests.runs import fit_args


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", ["ppo_distill", "impala_vae", "simple_cpu"])
def test_over_two_thousand_iterations_memory_threads_and_files_stay_flat(config: str, tmp_path: Path) -> None:
    usage = tmp_path / "usage.csv"
    options = ("--trainer.callbacks+", "tests.witness.Usage", "--trainer.callbacks.path", str(usage))
    epochs: dict[str, Any] = {"trainer__max_epochs": 2000, "iterations": 2000}
    assert main(fit_args(tmp_path / "run", *options, config=config, **epochs)) == 0
    table = [[int(cell) for cell in line.split(",")] for line in usage.read_text().splitlines()]
    memory, threads, files = zip(*table, strict=True)
    assert len(table) == 20
    assert max(memory[10:]) < 1.02 * max(memory[2:10]), memory
    assert max(threads[1:]) == threads[1]
    assert max(files[1:]) <= files[1]
