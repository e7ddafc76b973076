"""Whose results stand in a folder: what is judged never replaces, and never passes for, what another run has left."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from lightning_rl.cli import export, main
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.checkpoint_files import METADATA
from tests.support.runs import fit, fit_args, load, rows
from tests.support.shared_runs import SharedRuns

LAST = ("--ckpt_path", "last")


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main(args) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


class TestJudging:
    @pytest.fixture
    def ours(self, tmp_path: Path, runs: SharedRuns) -> Path:
        return runs.copied(tmp_path / "ours", "ppo")

    @pytest.fixture
    def theirs(self, tmp_path: Path, runs: SharedRuns) -> Path:
        return runs.copied(tmp_path / "theirs", "ppo", seed_everything=7)

    @pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
    @pytest.mark.parametrize("left", ["last.ckpt", "metrics.csv", "config.yaml"])
    def test_another_runs_folder_is_refused(
        self, left: str, subcommand: str, ours: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in theirs.iterdir():
            if path.name not in (left, "test.json") and path.is_file():
                path.unlink()
        (theirs / "test.json").write_text("theirs")

        told = refused([subcommand, "--ckpt_path", str(ours / "last.ckpt"), "--run_dir", str(theirs)], capsys)

        assert f"run_dir: {theirs} holds {left} of another run than {ours / 'last.ckpt'}" in told
        assert (theirs / "test.json").read_text() == "theirs"

    def test_a_folder_with_results_of_another_run_is_refused_and_one_with_its_own_is_not(
        self, ours: Path, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (results := tmp_path / "results").mkdir()
        judge = ["test", "--run_dir", str(results), "--ckpt_path"]
        (results / "test.json").write_text(json.dumps({"run_id": load(theirs)[METADATA]["run_id"]}))

        told = refused([*judge, str(ours)], capsys)
        assert main([*judge, str(theirs)]) == 0

        assert f"run_dir: {results} holds test.json of another run" in told
        report = json.loads((results / "test.json").read_text())
        assert report["run_id"] == load(theirs)[METADATA]["run_id"] != load(ours)[METADATA]["run_id"]

    def test_a_copy_of_the_runs_own_checkpoint_is_judged_into_it(self, ours: Path, tmp_path: Path) -> None:
        (tmp_path / "copy").mkdir()
        copy = shutil.copy(ours / "last.ckpt", tmp_path / "copy" / "last.ckpt")

        judged = main(
            ["validate", "--config", str(ours / "config.yaml"), "--ckpt_path", str(copy), "--run_dir", str(ours)]
        )

        assert judged == 0

    def test_a_test_of_another_run_is_not_on_the_card(self, ours: Path, tmp_path: Path) -> None:
        checkpoint = export.load_checkpoint(["--ckpt_path", str(ours / "last.ckpt"), "--run_dir", str(tmp_path)])
        row = {"episodes": 2, "return_mean": 1.0, "return_variance": 1.0, "return_ci95": [0.5, 1.5]}
        own = {"checkpoint": "last.ckpt", "env_steps": 64, "level_sets": {"full_distribution": row}}
        found = []
        for run_id in (load(ours)[METADATA]["run_id"], "another"):
            (ours / "test.json").write_text(json.dumps(own | {"run_id": run_id}))
            found.append(export._results(checkpoint).levels)

        assert found == [{checkpoint.game: {"full_distribution": row}}, None]

    def test_a_policy_is_not_judged_into_the_run_that_it_was_exported_beside(
        self, ours: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["export", "--ckpt_path", str(ours), "--out", str(theirs / "agent")]) == 0

        told = refused(["test", "--ckpt_path", str(theirs / "agent"), "--run_dir", str(theirs)], capsys)

        assert f"run_dir: {theirs} holds last.ckpt of another run than {theirs / 'agent'}" in told

    def test_results_that_do_not_say_whose_they_are_may_be_replaced(self, ours: Path, tmp_path: Path) -> None:
        (results := tmp_path / "results").mkdir()
        (results / "test.json").write_text("{}")

        assert main(["test", "--run_dir", str(results), "--ckpt_path", str(ours)]) == 0

    def test_policies_of_one_name_have_each_their_own(
        self, ours: Path, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for run, out in ((ours, "a/agent"), (theirs, "b/agent")):
            assert main(["export", "--ckpt_path", str(run), "--out", out]) == 0
            assert main(["test", "--ckpt_path", out]) == 0

        reports = sorted((tmp_path / "checkpoints" / "judged").glob("agent-*/test.json"))

        assert sorted(json.loads(report.read_text())["checkpoint"] for report in reports) == ["a/agent", "b/agent"]


class TestRestarting:
    @pytest.fixture
    def run_dir(self, tmp_path: Path, runs: SharedRuns) -> Path:
        return runs.copied(tmp_path / "run", "ppo")

    def test_a_curve_without_its_checkpoints_is_not_begun_anew(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in run_dir.glob("*.ckpt"):
            path.unlink()
        curve = (run_dir / "metrics.csv").read_text()

        told = refused(fit_args(run_dir, *LAST, iterations=3), capsys)

        assert f"run_dir: {run_dir} holds 2 rows of a run and no last.ckpt, without which it cannot go on" in told
        assert (run_dir / "metrics.csv").read_text() == curve

    def test_one_that_was_killed_before_its_first_save_begins_anew(self, run_dir: Path) -> None:
        for path in run_dir.glob("*.ckpt"):
            path.unlink()
        lines = (run_dir / "metrics.csv").read_text().splitlines(keepends=True)
        (run_dir / "metrics.csv").write_text("".join(lines[:2]))

        fit(run_dir, *LAST, iterations=1)

        assert [row["env_steps"] for row in rows(run_dir)] == ["32"]

    def test_checkpoints_on_a_disk_that_is_not_there_are_named(
        self, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in run_dir.glob("*.ckpt"):
            path.unlink()
            path.symlink_to(tmp_path / "scratch" / path.name)

        told = refused(fit_args(run_dir, *LAST, iterations=3), capsys)

        last, there = run_dir / "last.ckpt", tmp_path / "scratch" / "last.ckpt"
        assert f"ckpt_path: {last} leads to {there}, which is not there; is the disk mounted?" in told

    def test_the_last_is_enough(self, run_dir: Path, tmp_path: Path) -> None:
        (run_dir / "previous.ckpt").unlink()
        (run_dir / "previous.ckpt").symlink_to(tmp_path / "scratch" / "previous.ckpt")

        assert [row["env_steps"] for row in rows(run_dir)] == ["32", "64"]
        assert main(fit_args(run_dir, *LAST, iterations=3)) == 0

    @pytest.mark.parametrize("is_named", [False, True])
    def test_one_that_cannot_be_read_now_is_not_taken_for_damaged(
        self, is_named: bool, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        last, check = run_dir / "last.ckpt", checkpoint_files._check_archive

        def check_or_fail(path: Path) -> None:
            if path == last:
                raise OSError(errno.EIO, "Input/output error")
            check(path)

        monkeypatch.setattr(checkpoint_files, "_check_archive", check_or_fail)

        told = refused(fit_args(run_dir, "--ckpt_path", str(last) if is_named else "last", iterations=3), capsys)

        assert f"ckpt_path: {last} cannot be read now: Input/output error" in told
        assert not (run_dir / "damaged.ckpt").exists()

    def test_what_a_killed_export_has_left_does_not_stop_it(self, run_dir: Path) -> None:
        (run_dir / ".agent.partial").mkdir()

        fit(run_dir, *LAST, iterations=3)

        assert (run_dir / ".agent.partial").is_dir()  # another process may be writing it

    def test_a_policy_to_start_with_is_said_not_to_be_read_again(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fit(run_dir, *LAST, "--policy_from", str(run_dir / "last.ckpt"), iterations=3)

        assert "policy_from is not read again: the run goes on with the policy of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["test", "--ckpt_path", "last", "--run_dir", "nowhere"], "run_dir: nowhere is not there; give another folder"),
        (["test", "--ckpt_path", "last", "--run_dir", "empty"], "run_dir: empty holds no config.yaml; give another"),
        (["test", "--ckpt_path", "last", "--run_dir", ""], "run_dir must be a path, found an empty text"),
        (["fit", "--ckpt_path", "last"], "ckpt_path: last needs --run_dir"),
        (["fit", "--seeds", "1", "--run_dir", ""], "run_dir must be a path, found an empty text"),
        (["fit", "--seeds", "1", "--run_dir", "file"], "file is no folder; give one, or a path to a new one"),
        (["fit", "--seeds", "1", "--run_dir", "file/runs"], "file is no folder; give one"),
        (["export", "--ckpt_path", "x", "--out", ""], "out must be a path, found an empty text"),
        (["report", "runs", "--out", ""], "out must be a path, found an empty text"),
        (["report", ""], "RUN must be a path, found an empty text"),
        (["bench", "--policy", ""], "policy must be a path, found an empty text"),
    ],
)
def test_paths_that_lead_nowhere_are_named(
    args: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    assert told in refused(args, capsys)


def test_a_report_may_be_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()
    shutil.copytree(Path(".github/results/ppo_starpilot_1"), tmp_path / "runs" / "one")

    assert main(["report", "~/runs", "--out", "~/page"]) == 0

    assert (tmp_path / "page" / "report.json").exists()
