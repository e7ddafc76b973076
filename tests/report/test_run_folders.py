"""Folders that are damaged, foreign, unfinished or mixed: one line each, and the rest is reported."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_rl.report.groups import grouped
from lightning_rl.report.run_folders import read_runs
from tests.support.result_folders import config, metrics, results, write_run


def left_out(*paths: Path) -> list[tuple[str, str]]:
    """What is left out of these folders: the folder's name, and why."""
    runs, found = read_runs(paths)
    _, more = grouped(runs)
    return [(Path(folder).name, why) for folder, why in (*found, *more)]


def good_run(folder: Path) -> Path:
    return write_run(folder, test=results(train=5.0, full=4.0))


def missing(folder: Path) -> None:
    """There is nothing at this path."""


def a_file(folder: Path) -> None:
    folder.write_bytes(b"weights")


def empty(folder: Path) -> None:
    folder.mkdir()


def no_results(folder: Path) -> None:
    write_run(folder)


def no_config(folder: Path) -> None:
    (good_run(folder) / "config.yaml").unlink()


def torn_config(folder: Path) -> None:
    (good_run(folder) / "config.yaml").write_text("model: {class_path: lightning_rl.PPO")


def config_with_code(folder: Path) -> None:
    (good_run(folder) / "config.yaml").write_text("!!python/object/apply:os.system ['touch executed']")


def foreign_config(folder: Path) -> None:
    (good_run(folder) / "config.yaml").write_text("defaults: [env: atari]")


def bomb(folder: Path) -> None:
    levels = "".join(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 9))
    (good_run(folder) / "config.yaml").write_text(f"a0: &a0 [1, 1, 1]\n{levels}")


def torn_test(folder: Path) -> None:
    (good_run(folder) / "test.json").write_text('{"method": "ppo", "ga')


def foreign_test(folder: Path) -> None:
    (good_run(folder) / "test.json").write_text('{"accuracy": 0.9}')


def no_number(folder: Path) -> None:
    write_run(folder, test=results(train=5.0, full=float("nan")))


def no_level_sets(folder: Path) -> None:
    write_run(folder, test=results(train=5.0, full=4.0) | {"level_sets": []})


def another_game(folder: Path) -> None:
    write_run(folder, test=results(train=5.0, full=4.0, game="coinrun"))


def another_mode(folder: Path) -> None:
    write_run(folder, test=results(train=5.0, full=4.0, mode="hard"))


def greedy_play(folder: Path) -> None:
    write_run(folder, test=results(train=5.0, full=4.0) | {"greedy": True})


def half_a_letter(folder: Path) -> None:
    write_run(folder, test=results(train=5.0, full=4.0, game="\ud800"))


def foreign_metrics(folder: Path) -> None:
    (write_run(folder, rows=metrics(4.0)) / "metrics.csv").write_text("epoch,loss\n1,0.5\n")


def binary_metrics(folder: Path) -> None:
    (write_run(folder, rows=metrics(4.0)) / "metrics.csv").write_bytes(b"\xff\xfe\x00\n")


def no_numbers(folder: Path) -> None:
    (write_run(folder, rows=metrics(4.0)) / "metrics.csv").write_text("env_steps,validation/return\n500000,much\n")


def no_row(folder: Path) -> None:
    (write_run(folder, rows=metrics(4.0)) / "metrics.csv").write_text("env_steps,validation/return\n")


def no_validation(folder: Path) -> None:
    write_run(folder, rows=[{"env_steps": 500_000, "episode/return": 4.0}])


def unfinished(folder: Path) -> None:
    write_run(folder, rows=metrics(4.0, env_steps=100_000))


def nested(folder: Path) -> None:
    (good_run(folder) / "test.json").write_text("[" * 100_000)


def no_game(folder: Path) -> None:
    write_run(folder, config(game=[]), results(train=5.0, full=4.0))


def long_cell(folder: Path) -> None:
    (write_run(folder, rows=metrics(4.0)) / "metrics.csv").write_text(f"env_steps,note\n500000,{'x' * 140_000}\n")


def endless_steps(folder: Path) -> None:
    text = f"env_steps,validation/return\n{'9' * 400},4.0\n"
    (write_run(folder, rows=metrics(4.0)) / "metrics.csv").write_text(text)


def endless_return(folder: Path) -> None:
    test = results(train=5.0, full=4.0)
    test["level_sets"]["full_distribution"]["return_mean"] = 10**400
    write_run(folder, test=test)


def no_steps(folder: Path) -> None:
    write_run(folder, test=results(train=5.0, full=4.0, env_steps=0))


def unreadable(folder: Path) -> None:
    (good_run(folder) / "config.yaml").unlink()
    (folder / "config.yaml").mkdir()


FAULTS: dict[Callable[[Path], None], str] = {
    missing: "is not there",
    a_file: "is no folder: give the run folder",
    empty: "holds no run: expected config.yaml beside test.json or metrics.csv",
    no_results: "holds config.yaml and no test.json or metrics.csv",
    no_config: "holds test.json and no config.yaml",
    bomb: "config.yaml is not of this package: more than 100000 values",
    torn_config: "config.yaml is not YAML: while parsing a flow mapping",
    config_with_code: "config.yaml is not YAML: could not determine a constructor",
    foreign_config: "config.yaml is not of this package: no model.class_path",
    torn_test: "test.json is not JSON: Unterminated string",
    foreign_test: "test.json is not of this package: no method",
    no_number: "test.json: return_mean of full_distribution must be a finite number, found nan",
    no_level_sets: "test.json has no level_sets.full_distribution",
    another_game: "test.json is of another run: game coinrun, config.yaml has starpilot",
    half_a_letter: "test.json is of another run: game \ufffd, ",
    foreign_metrics: "metrics.csv is damaged: expected 'env_steps' as the first column",
    binary_metrics: "metrics.csv is no text",
    no_numbers: "metrics.csv is damaged: could not convert string to float: 'much'",
    no_row: "metrics.csv has no row, and there is no test.json",
    no_validation: "metrics.csv has no validation/return, and there is no test.json",
    unfinished: "is unfinished: 100000 of 500000 env steps",
    nested: "is nested too deeply",
    another_mode: "test.json is of another way to play: distribution_mode hard, config.yaml has easy",
    greedy_play: "test.json is of another way to play: greedy True, config.yaml has False",
    no_game: "config.yaml is not of this package: no data.game",
    long_cell: "field larger than field limit",
    endless_steps: "metrics.csv is damaged: a number is larger than 1e+15",
    endless_return: "test.json: return_mean of full_distribution must be a finite number, found 1000",
    no_steps: "test.json: env_steps must be positive",
    unreadable: "config.yaml cannot be read: Is a directory",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_a_folder_with_a_fault_is_named_in_one_line(fault: Callable[[Path], None], tmp_path: Path) -> None:
    fault(tmp_path / "run")

    [(name, why)] = left_out(tmp_path / "run")

    assert name == "run"
    assert why.startswith(FAULTS[fault])
    assert "\n" not in why
    assert not Path("executed").exists()


def test_the_rest_of_a_mixture_is_read(tmp_path: Path) -> None:
    faults = [fault for fault in FAULTS if fault not in (missing, empty, a_file)]
    for number, fault in enumerate(faults):
        fault(tmp_path / f"{number:02}")
    (tmp_path / "notes.txt").write_text("files between folders are no fault")
    (tmp_path / "pictures").mkdir()
    good = [write_run(tmp_path / f"z{n}", config(seed=n), results(train=5.0, full=4.0)) for n in (1, 2)]

    runs, found = read_runs([tmp_path])

    assert [run.folder for run in runs] == good
    assert [Path(folder).name for folder, _ in found] == [f"{number:02}" for number in range(len(faults))]


def test_a_torn_last_row_is_no_fault(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows=metrics(4.0))
    with (run / "metrics.csv").open("a") as file:
        file.write("520000,3.")

    [found], _ = read_runs([run])

    assert found.env_steps == 507_904


def test_a_run_counts_once_however_it_is_given(tmp_path: Path) -> None:
    run = good_run(tmp_path / "a" / "run")
    (tmp_path / "link").symlink_to(run)
    (run / "loop").symlink_to(tmp_path)

    runs, found = read_runs([run, tmp_path, tmp_path / "a", tmp_path / "link", Path(f"{run}/../run")])

    assert (len(runs), found) == (1, [])


def test_a_copy_of_a_run_counts_once(tmp_path: Path) -> None:
    first, _ = good_run(tmp_path / "a"), good_run(tmp_path / "b")

    assert left_out(tmp_path) == [("b", f"seed 1 of starpilot counts already, in {first}")]


def test_an_option_with_keys_of_several_kinds_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config(model__init_args__table=[{1: "a", "b": 2}]), results(train=5.0, full=4.0))

    assert [found.folder for found in read_runs([run])[0]] == [run]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    good_run(tmp_path / "runs" / "run")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")

    runs, found = read_runs([tmp_path])

    assert (len(runs), found) == (1, [])


@pytest.mark.parametrize("name", ["<script>alert(1)<", "two\nlines", "\x1b[31mred", os.fsdecode(b"not\xffutf8")])
def test_a_strange_name_is_one_printable_line(name: str, tmp_path: Path) -> None:
    no_results(tmp_path / name)

    _, [(folder, _)] = read_runs([tmp_path])

    assert folder.isprintable()
