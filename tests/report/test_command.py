"""`lightning-rl report`, from the command line to report.json."""

import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_rl.cli import main
from lightning_rl.envs.procgen_games import GAMES, normalized_return
from lightning_rl.report import command
from lightning_rl.report.measured_rows import hours, steps_per_second
from lightning_rl.report.settings import setting
from lightning_rl.report.statistics import t_interval
from tests.support.command_lines import resolved
from tests.support.result_folders import config, metrics, results, write_run
from tests.support.shared_runs import SharedRuns


def three_seeds(folder: Path, *, model: str = "PPOModule", method: str = "ppo", full: float = 4.0) -> Path:
    for seed in (1, 2, 3):
        test = results(train=full + seed, full=full + seed / 2, method=method)
        write_run(folder / f"seed_{seed}", config(model=model, seed=seed), test, metrics(full, rows=10))
    return folder


def reported(*args: object) -> dict[str, Any]:
    """The JSON of a report that succeeds."""
    assert command.main([str(arg) for arg in args]) == 0
    out = Path(str(args[args.index("--out") + 1]))
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods of three seeds each, and a folder that is left out."""
    folder = tmp_path_factory.mktemp("json")
    three_seeds(folder / "runs" / "ppo")
    three_seeds(folder / "runs" / "impala", model="ImpalaModule", method="impala", full=5.0)
    write_run(folder / "runs" / "broken")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return reported(folder / "runs", "--out", folder / "out", "--baseline", "none")


class TestJson:
    def test_it_has_the_keys_that_others_rely_on(self, report: dict[str, Any]) -> None:
        group = report["groups"][1]
        aggregates = {f"{name}{of}" for name in ("iqm", "mean", "median", "optimality_gap") for of in ("", "_ci95")}

        assert (group["name"], group["method"], group["games"]) == ("ppo", "ppo", ["starpilot"])
        assert (group["seeds"], group["env_steps"], group["marked"]) == ({"starpilot": [1, 2, 3]}, 507_904, None)
        assert aggregates <= group["train_levels"].keys()
        assert aggregates <= group["full_distribution"].keys()
        assert group["generalization_gap"].keys() == {"mean", "mean_ci95", "games"}
        assert {"return_mean", "ci95", "runs"} <= group["per_game"]["starpilot"]["train_levels"].keys()
        [pair] = report["comparisons"]
        assert pair["groups"] == ["impala", "ppo"]
        assert pair["probability_of_improvement"] == pytest.approx((9 - 0.5) / 9)
        [left_out] = report["left_out"]
        assert (Path(left_out["folder"]).name, left_out.keys()) == ("broken", {"folder", "why"})

    def test_scores_are_normalized_and_games_are_not(self, report: dict[str, Any]) -> None:
        group = report["groups"][1]
        returns = [4.5, 5.0, 5.5]

        scores = [normalized_return("starpilot", "easy", value) or 0 for value in returns]
        assert group["full_distribution"]["mean"] == pytest.approx(sum(scores) / 3)
        in_game = group["per_game"]["starpilot"]["full_distribution"]
        assert (in_game["runs"], in_game["return_mean"]) == (returns, pytest.approx(5.0))
        low, high = t_interval(np.array(returns)) or (0, 0)
        assert in_game["ci95"] == pytest.approx([low, high])
        train = [normalized_return("starpilot", "easy", 4.0 + seed) or 0 for seed in (1, 2, 3)]
        gap = group["generalization_gap"]["mean"]
        assert gap == pytest.approx(sum(train) / 3 - sum(scores) / 3)

    def test_intervals_hold_their_values(self, report: dict[str, Any]) -> None:
        for group in report["groups"]:
            for level_set in ("train_levels", "full_distribution"):
                for name in ("iqm", "mean", "median", "optimality_gap"):
                    low, high = group[level_set][f"{name}_ci95"]
                    assert low < group[level_set][name] < high
                    assert 0.7 < group[level_set][f"{name}_coverage"] < 0.8  # three runs of one game

    def test_a_gap_has_the_interval_of_each_runs_own(self, report: dict[str, Any]) -> None:
        train, full = (
            np.array([normalized_return("starpilot", "easy", value) or 0 for value in returns])
            for returns in ([5.0, 6.0, 7.0], [4.5, 5.0, 5.5])
        )

        assert report["groups"][1]["generalization_gap"]["mean_ci95"] == pytest.approx(t_interval(train - full))

    def test_a_comparison_resamples_both_groups_by_themselves(self, tmp_path: Path) -> None:
        three_seeds(tmp_path / "runs" / "ppo")
        three_seeds(tmp_path / "runs" / "impala", model="ImpalaModule", method="impala", full=4.5)

        [pair] = reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")["comparisons"]

        draws = np.array(list(product(range(3), repeat=3)))
        ours, theirs = np.array([5.0, 5.5, 6.0])[draws], np.array([4.5, 5.0, 5.5])[draws]
        wins = (np.sign(ours[:, None, :, None] - theirs[None, :, None, :]) / 2 + 0.5).mean((2, 3))
        assert pair["ci95"] == pytest.approx(np.percentile(wins, (2.5, 97.5)))

    def test_a_profile_has_95_percent_bounds(self, report: dict[str, Any]) -> None:
        profile = report["groups"][1]["profile"]["full_distribution"]
        lowest = normalized_return("starpilot", "easy", 4.5) or 0
        above = [at > lowest for at in profile["thresholds"]]

        bounds = np.array(profile["ci95"]).T[: above.index(True) + 1]

        # of three runs, two above: none of three draws with a probability of 1/27, one or none with 7/27
        assert bounds[:-1].tolist() == [[1.0, 1.0]] * (len(bounds) - 1)
        assert bounds[-1].tolist() == [0.0, 1.0]

    def test_curves_are_of_training_and_of_validations(self, report: dict[str, Any]) -> None:
        curves = report["groups"][1]["curves"]["starpilot"]["env_steps"]

        assert curves["full_distribution"]["mean"] == [4.0]  # the last of ten rows has the one validation
        assert curves["train_levels"]["mean"][-1] == pytest.approx(4.0 + 0.2 * np.sin(10), rel=1e-4)
        assert len(curves["train_levels"]["mean"]) == 10

    def test_a_groups_speed_is_the_median_of_its_runs(self, tmp_path: Path) -> None:
        for seed, speed in ((1, 400.0), (2, 900.0), (3, 500.0)):
            rows = [row | {"time/env_steps_per_second": speed} for row in metrics(4.0)]
            write_run(tmp_path / "runs" / str(seed), config(seed=seed), results(train=5.0, full=4.0), rows)

        [group] = reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")["groups"]

        assert group["env_steps_per_second"] == pytest.approx(500)

    def test_each_run_says_what_it_cost(self, report: dict[str, Any]) -> None:
        run = report["groups"][1]["runs"][0]

        assert run["env_steps_per_second"] == pytest.approx(500)
        assert run["hours"] == pytest.approx(507_904 / 500 / 0.9 / 3600)  # a tenth of the time validates and saves

    def test_the_same_runs_give_the_same_report(self, report: dict[str, Any], folder: Path) -> None:
        assert reported(folder / "runs", "--out", folder / "out", "--baseline", "none") == report

    def test_each_group_has_its_command(self, report: dict[str, Any], folder: Path) -> None:
        config_yaml = folder / "runs" / "ppo" / "seed_1" / "config.yaml"

        assert report["groups"][1]["command"].startswith(
            f"for game in starpilot; do for seed in 1 2 3; do lightning-rl fit --config {config_yaml} --data.game $game"
        )


def test_half_a_letter_in_a_name_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "run", config(), results(train=5.0, full=4.0, method="half \ud800"))

    report = reported(tmp_path / "run", "--out", tmp_path / "out", "--baseline", "none")

    assert report["groups"][0]["method"] == "half \ud800"
    assert "half ?" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_baselines_are_groups_unless_they_are_not_wanted(tmp_path: Path) -> None:
    three_seeds(tmp_path / "runs")

    with_them = reported(tmp_path / "runs", "--out", tmp_path / "with")
    without = reported(tmp_path / "runs", "--out", tmp_path / "without", "--baseline", "none")

    assert [group["name"] for group in with_them["groups"]] == ["ppo", "OpenAI PPO", "random"]
    assert [group["name"] for group in without["groups"]] == ["ppo"]
    openai = with_them["groups"][1]
    assert len(openai["per_game"]["starpilot"]["train_levels"]["runs"]) == 3
    assert len(openai["curves"]["starpilot"]["env_steps"]["train_levels"]["x"]) == 2  # 250 k and 500 k


def test_games_missing_from_a_group_are_named_and_pairs_share_games(tmp_path: Path) -> None:
    for model, method, games in (
        ("PPOModule", "ppo", ("starpilot", "coinrun")),
        ("ImpalaModule", "impala", ("coinrun",)),
    ):
        for game in games:
            for seed in (1, 2, 3):
                test = results(train=5.0, full=seed, game=game, method=method)
                write_run(tmp_path / "runs" / method / f"{game}{seed}", config(model=model, game=game, seed=seed), test)

    report = reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")

    assert [(group["name"], group["missing_games"]) for group in report["groups"]] == [
        ("impala", ["starpilot"]),
        ("ppo", []),
    ]
    assert [pair["games"] for pair in report["comparisons"]] == [["coinrun"]]


def test_fewer_than_three_seeds_have_no_interval(tmp_path: Path) -> None:
    runs = three_seeds(tmp_path / "runs")
    for file in (runs / "seed_3").iterdir():
        file.unlink()

    [group] = reported(runs, "--out", tmp_path / "out", "--baseline", "none")["groups"]

    assert group["marked"] == "fewer than three seeds"
    assert group["full_distribution"]["iqm"] is not None
    assert group["full_distribution"]["iqm_ci95"] is None
    assert group["per_game"]["starpilot"]["full_distribution"]["ci95"] is None
    assert group["per_game"]["starpilot"]["full_distribution"]["runs"] == [4.5, 5.0]
    assert group["generalization_gap"]["mean_ci95"] is None
    assert len(group["curves"]["starpilot"]["env_steps"]["train_levels"]["runs"]) == 2


def test_atari_has_no_training_levels(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        options = config(game="MsPacman", seed=seed, data__class_path="lightning_rl.AtariDataModule")
        del options["data"]["init_args"]["distribution_mode"]
        write_run(tmp_path / "runs" / str(seed), options, results(train=None, full=500.0, game="ms_pacman"))

    [group] = reported(tmp_path / "runs", "--out", tmp_path / "out")["groups"]

    assert (group["train_levels"], group["generalization_gap"]) == (None, None)
    assert group["per_game"]["ms_pacman"]["train_levels"] is None
    assert group["full_distribution"]["mean"] == pytest.approx((500 - 307.3) / (6951.6 - 307.3))


def test_an_aggregate_says_of_which_games_and_runs_it_is(tmp_path: Path) -> None:
    three_seeds(tmp_path / "runs")
    for seed in (1, 2, 3):
        test = results(train=None, full=5.0, game="coinrun")
        write_run(tmp_path / "runs" / f"coinrun_{seed}", config(game="coinrun", seed=seed), test)

    [group] = reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")["groups"]

    of = [(group[name]["games"], group[name]["runs"]) for name in ("train_levels", "full_distribution")]
    assert of == [(["starpilot"], 3), (["coinrun", "starpilot"], 6)]
    assert group["generalization_gap"]["games"] == ["starpilot"]


def test_a_profile_reaches_the_highest_score(tmp_path: Path) -> None:
    for seed, value in ((1, 500.0), (2, 6951.6 * 3), (3, 6951.6)):
        options = config(game="MsPacman", seed=seed, data__class_path="lightning_rl.AtariDataModule")
        write_run(tmp_path / "runs" / str(seed), options, results(train=None, full=value, game="ms_pacman"))

    [group] = reported(tmp_path / "runs", "--out", tmp_path / "out")["groups"]

    profile = group["profile"]["full_distribution"]
    assert (profile["thresholds"][0], profile["thresholds"][-1], len(profile["thresholds"])) == (0, 4, 101)
    assert {0.5, 0.02} <= set(profile["thresholds"])
    assert profile["share_above"][-1] == 0


def test_the_share_of_its_teachers_return_that_a_student_keeps(tmp_path: Path) -> None:
    for seed, share in ((1, 0.9), (2, 1.0), (3, 1.1)):
        test = results(train=5.0, full=4.0, method="policy_distill")
        test["teacher_return_kept"] = {"share": share, "ci95": [share - 0.1, share + 0.1]}
        write_run(tmp_path / "runs" / str(seed), config(model="PolicyDistillModule", seed=seed), test)

    [group] = reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")["groups"]

    kept = group["teacher_return_kept"]["starpilot"]
    low, high = t_interval(np.array([0.9, 1.0, 1.1])) or (0.0, 0.0)
    test["teacher_return_kept"]["share"] = float("nan")
    write_run(tmp_path / "odd", config(model="PolicyDistillModule", seed=4), test)
    odd = reported(tmp_path / "odd", "--out", tmp_path / "odd_out", "--baseline", "none")["groups"][0]
    assert odd["teacher_return_kept"] == {}
    assert kept == {"mean": pytest.approx(1.0), "ci95": [low, high], "runs": [0.9, 1.0, 1.1]}
    assert "Students and teachers" in (tmp_path / "out" / "report.html").read_text()


def test_modes_are_told_apart(tmp_path: Path) -> None:
    for mode, model, method in (("easy", "PPOModule", "ppo"), ("hard", "ImpalaModule", "impala")):
        for seed in (1, 2, 3):
            options = config(model=model, seed=seed, data__init_args__distribution_mode=mode)
            test = results(train=5.0, full=4.0, mode=mode, method=method)
            write_run(tmp_path / "runs" / f"{mode}_{seed}", options, test, metrics(4.0))

    reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")

    html = (tmp_path / "out" / "report.html").read_text()
    for mode in ("easy", "hard"):
        assert f"<td>starpilot ({mode})</td>" in html
        assert f">starpilot ({mode}): return in training</text>" in html
    assert "starpilot: return" not in html


def test_a_game_without_a_published_scale_is_reported_raw(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        options = config(seed=seed, data__init_args__distribution_mode="extreme")
        write_run(tmp_path / "runs" / str(seed), options, results(train=3.0, full=2.0, mode="extreme"))

    [group] = reported(tmp_path / "runs", "--out", tmp_path / "out")["groups"]

    of = {key: group["full_distribution"].pop(key) for key in ("games", "runs")}
    assert of == {"games": [], "runs": 0}
    assert set(group["full_distribution"].values()) == {None}
    assert group["per_game"]["starpilot"]["full_distribution"]["return_mean"] == 2.0


def test_only_what_counts_at_equal_env_steps_is_compared(tmp_path: Path) -> None:
    three_seeds(tmp_path / "runs" / "ppo")
    for seed in (1, 2, 3):
        test = results(train=5.0, full=4.0, method="simple", env_steps=19_200)
        write_run(tmp_path / "runs" / f"simple_{seed}", config(model="SimPLeModule", seed=seed), test)

    report = reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")

    assert {group["name"]: group["env_steps"] for group in report["groups"]} == {"ppo": 507_904, "simple": 19_200}
    assert report["comparisons"] == []


def test_a_few_runs_comparison_is_marked(tmp_path: Path) -> None:
    three_seeds(tmp_path / "runs" / "ppo")
    three_seeds(tmp_path / "runs" / "impala", model="ImpalaModule", method="impala", full=9.0)

    [pair] = reported(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "none")["comparisons"]

    assert pair["ci95"] == [1.0, 1.0]
    assert pair["ci95_coverage"] < 0.9
    html = (tmp_path / "out" / "report.html").read_text()
    row = html[html.index('id="comparisons"') :]
    assert 'title="under 90 %"' in row[: row.index("</table>")]


class TestFaults:
    def test_each_is_one_line_and_the_rest_is_reported(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        three_seeds(tmp_path / "good")
        (tmp_path / "empty").mkdir()
        missing = tmp_path / "missing"

        reported(tmp_path / "good", tmp_path / "empty", missing, "--out", tmp_path / "out")

        lines = capsys.readouterr().err.splitlines()
        assert [
            line.startswith(f"lightning-rl: {folder}: ")
            for line, folder in zip(lines, (tmp_path / "empty", missing), strict=True)
        ] == [True] * 2

    def test_nothing_left_is_status_2_and_nothing_is_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main([str(tmp_path / "missing"), "--out", str(tmp_path / "out")]) == 2

        assert capsys.readouterr().err.splitlines()[-1] == "lightning-rl: no run is left to report"
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ([], "the following arguments are required: RUN"),
            (["RUN", "--baseline", "some"], "argument --baseline: invalid choice: 'some' (choose from 'all', 'none')"),
            (["RUN", "--colour"], "unrecognized arguments: --colour"),
        ],
    )
    def test_a_wrong_option_is_one_line(
        self, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(args) == 2
        assert capsys.readouterr().err == f"lightning-rl: {message}\n"

    @pytest.mark.parametrize("name", ["report.html", "report.json", "report.md", "pictures/mean.svg"])
    def test_only_an_earlier_report_is_replaced(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        three_seeds(tmp_path / "runs")
        theirs = tmp_path / "out" / name
        theirs.parent.mkdir(parents=True)
        theirs.write_text("{}")

        assert command.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2

        assert f"another program's {name}" in capsys.readouterr().err
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [theirs]
        assert theirs.read_text() == "{}"

    def test_pictures_of_games_that_are_no_longer_reported_are_removed(self, tmp_path: Path) -> None:
        write_run(
            tmp_path / "coinrun", config(game="coinrun"), results(train=5.0, full=4.0, game="coinrun"), metrics(4)
        )
        three_seeds(tmp_path / "runs")
        pictures = tmp_path / "out" / "pictures"
        reported(tmp_path / "coinrun", "--out", tmp_path / "out")
        assert len(list(pictures.glob("*-coinrun.svg"))) == 4
        (pictures / "photo.png").write_bytes(b"mine")

        reported(tmp_path / "runs", "--out", tmp_path / "out")

        assert list(pictures.glob("*-coinrun.svg")) == []
        assert len(list(pictures.glob("*-starpilot.svg"))) == 4
        assert (pictures / "photo.png").read_bytes() == b"mine"

    def test_other_files_are_left_alone(self, tmp_path: Path) -> None:
        three_seeds(tmp_path / "runs")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")

        for _ in range(2):
            reported(tmp_path / "runs", "--out", tmp_path / "out")

        files = ["notes.txt", "pictures", "report.html", "report.json", "report.md"]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files

    def test_a_file_is_no_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "out").write_text("mine")

        assert command.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        assert "--out must be a folder, found the file" in capsys.readouterr().err


def test_it_starts_where_torch_and_lightning_are_missing(tmp_path: Path) -> None:
    three_seeds(tmp_path / "runs")
    missing = ("torch", "pytorch_lightning", "lightning_fabric", "wandb", "procgen", "ale_py", "numba", "matplotlib")
    program = (
        f"import sys; sys.modules |= dict.fromkeys({missing}); sys.argv[1:] = ['report', 'runs'];"
        "from lightning_rl.__main__ import run; run()"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *("report/report.html", "report/report.json", "report/report.md"),
        "report/pictures",
    ]


def test_rows_that_only_learn_tell_their_time() -> None:
    own = {"env_steps": "3600", "time/validating": "0.25", "time/saving": "0"}
    rows = [
        own | {"time/env_steps_per_second": "1", "time/seconds": "4800"},
        own | {"time/env_steps_per_second": "0", "time/seconds": "2400"},
    ]

    assert hours(rows).tolist() == pytest.approx([4 / 3, 2])
    assert steps_per_second(rows) == pytest.approx(3600 / (0.75 * 7200))


def test_the_speed_of_a_run_that_goes_on_with_anothers_checkpoint_is_its_own() -> None:
    own = {"time/validating": "0", "time/saving": "0", "time/env_steps_per_second": "500", "time/seconds": "2"}
    rows = [own | {"env_steps": str(5_000_000 + 1000 * number)} for number in range(1, 5)]

    assert steps_per_second(rows) == pytest.approx(500)
    assert steps_per_second([{**own, "env_steps": "1000"}, {**own, "env_steps": "2000"}]) == pytest.approx(500)


def test_hours_need_every_rows_speed() -> None:
    rows = [{"env_steps": "3600", "time/env_steps_per_second": "1"}, {"env_steps": "7200"}]

    assert hours(rows)[0] == 1.0
    assert np.isnan(hours(rows)[1])
    assert np.isnan(steps_per_second(rows))
    assert steps_per_second(rows[:1]) == 1.0


def test_rows_that_only_learn_do_not_tell_their_time() -> None:
    rows = [{"env_steps": "3600", "time/env_steps_per_second": speed} for speed in ("1.0", "0.0")]

    assert np.isnan(hours(rows)[1])
    assert np.isnan(steps_per_second(rows))


@pytest.mark.slow
def test_sixteen_games_five_seeds_and_six_methods_take_under_30_seconds(tmp_path: Path) -> None:
    methods = ("PPOModule", "PPODistillModule", "ImpalaModule", "ImpalaVAEModule", "SimPLeModule", "MyModule")
    for number, model in enumerate(methods):
        for game in GAMES:
            for seed in range(1, 6):
                last = 3 + number + seed / 10
                test = results(train=last + 1, full=last, game=game, method=model)
                rows = metrics(last, rows=500)
                write_run(
                    tmp_path / "runs" / model / f"{game}{seed}", config(model=model, game=game, seed=seed), test, rows
                )
    program = [sys.executable, "-m", "lightning_rl", "report", "runs"]

    start = time.monotonic()
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start

    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 30


@pytest.mark.slow
def test_a_run_of_fit_and_test_is_read(runs: SharedRuns, tmp_path: Path) -> None:
    run = runs.copied(tmp_path / "run", "ppo")
    assert main(["test", "--ckpt_path", str(run / "last.ckpt"), "--run_dir", str(run)]) == 0

    [group] = reported(run, "--out", tmp_path / "out", "--baseline", "none")["groups"]

    tested = json.loads((run / "test.json").read_text())
    in_game = group["per_game"][tested["game"]]
    assert (group["method"], group["env_steps"], group["source"]) == ("ppo", tested["env_steps"], "test.json")
    for level_set in ("train_levels", "full_distribution"):
        assert in_game[level_set]["runs"] == [tested["level_sets"][level_set]["return_mean"]]
        assert group[level_set]["mean"] == pytest.approx(tested["level_sets"][level_set]["normalized_return"])
    assert group["runs"][0]["hours"] > 0


@pytest.mark.parametrize("config_name", ["ppo", "simple"])
def test_a_machines_overlay_is_no_setting(config_name: str) -> None:
    assert setting(resolved(config_name, "hardware/cpu")) == setting(resolved(config_name, "hardware/gpu"))
