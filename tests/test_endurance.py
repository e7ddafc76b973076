"""A run of many iterations needs no more of the machine than a short one."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import fit_args, start

ITERATIONS, LINES = 2000, 20
SIMPLE = {
    # a dozen passes, at whose ends the world model is measured and drawn; the eleventh trajectory is held out for that,
    # so that with eleven environments it happens from the first pass on
    "data__num_envs": 11,
    "data__num_steps": 72,
    "model__outer_loop__first_world_model_updates": 160,
    "model__outer_loop__world_model_updates": 160,
    "model__outer_loop__imagined_steps": 800,
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("config", "iterations_per_epoch", "options"),
    [
        ("ppo_distill", 10, {"data__num_steps": 4, "model__minibatch_size": 8}),
        ("impala_vae", 10, {"data__num_steps": 4}),
        ("simple_cpu", 1, SIMPLE),
    ],
)
def test_over_two_thousand_iterations_memory_threads_and_files_stay_flat(
    config: str, iterations_per_epoch: int, options: dict[str, Any], tmp_path: Path
) -> None:
    usage, epochs = tmp_path / "usage.csv", ITERATIONS // iterations_per_epoch
    witness = {
        "class_path": "tests.support.witness.Usage",
        "init_args": {"path": str(usage), "epochs": epochs // LINES},
    }
    args = fit_args(
        tmp_path / "run",
        config=config,
        iterations=100 * ITERATIONS,
        trainer__max_epochs=epochs,
        data__iterations_per_epoch=iterations_per_epoch,
        trainer__callbacks=[witness],
        **options,
    )
    process = start(args, tmp_path / "out.txt")
    process.join()
    assert process.exitcode == 0, (tmp_path / "out.txt").read_text()

    table = [[int(cell) for cell in line.split(",")] for line in usage.read_text().splitlines()]
    memory, threads, files = zip(*table, strict=True)
    assert len(table) == LINES
    # the first lines are from before every kind of thing was done once
    assert max(memory[LINES // 2 :]) < 1.02 * max(memory[2 : LINES // 2]), memory
    assert set(threads[2:]) == {threads[2]}, threads
    assert max(files[2:]) <= files[2], files
