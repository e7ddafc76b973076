"""A run of many iterations needs no more of the machine than a short one."""

from pathlib import Path

import pytest

from tests.support.methods import METHODS, Options
from tests.support.runs import fit_args, start

ITERATIONS, LINES = 2000, 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("config", "options"), [(config, row.enduring) for config, row in METHODS.items() if row.enduring is not None]
)
def test_over_two_thousand_iterations_memory_threads_and_files_stay_flat(
    config: str, options: Options, tmp_path: Path
) -> None:
    iterations_per_epoch = options.get("data.iterations_per_epoch", 1)
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
