"""What `lightning-rl doctor` says of machines that lack something."""

import os
import platform
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

import lightning_rl
from lightning_rl import doctor
from lightning_rl.doctor import Finding

_Usage = namedtuple("_Usage", "total used free")


def test_this_installation_is_sound() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_rl", "doctor"], capture_output=True, text=True, timeout=250, check=False
    )

    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("BAD")] == []
    assert (done.returncode, done.stderr, lines[-1]) == (0, "", "nothing here will break")
    said = " ".join(done.stdout.split())
    assert f"ok torch {metadata.version('torch')}" in said
    for game in ("procgen", "atari"):
        assert f"ok games of {game} play, and resume to the same frames" in said


def test_it_takes_no_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--verbose"]) == 2
    assert capsys.readouterr().err == "lightning-rl: doctor takes no options, found --verbose\n"


def test_its_status_is_1_where_something_will_break(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        Finding("ok", "this", "is fine"),
        Finding("bad", "that", "is not", "mend it"),
        Finding("note", "more", "x"),
    ]
    monkeypatch.setattr(doctor, "findings", lambda _: iter(found))

    assert doctor.main([]) == 1
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["ok", "this", "is", "fine"],
        ["BAD", "that", "is", "not:", "mend", "it"],
        ["note", "more", "x"],
        ["1", "of", "these", "will", "break"],
    ]


class TestPackages:
    def verdicts(self, monkeypatch: pytest.MonkeyPatch, *asked: str) -> list[Finding]:
        monkeypatch.setattr(metadata, "requires", lambda _: list(asked))
        return list(doctor.packages())

    def test_one_that_is_too_old_or_new_is_named_with_the_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = metadata.version("numpy")

        (finding,) = self.verdicts(monkeypatch, f"numpy<{found}")

        assert finding == Finding("bad", "numpy", f"{found}, wanted <{found}", f"pip install 'numpy<{found}'")

    def test_one_that_is_missing_is_named_with_the_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (finding,) = self.verdicts(monkeypatch, "no-such-package>=3")

        assert finding == Finding("bad", "no-such-package", "is not installed", "pip install 'no-such-package>=3'")

    def test_those_of_extras_and_of_other_systems_are_not_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        others = ("no-such-package; extra == 'test'", "no-such-package; platform_system == 'Plan 9'")

        assert self.verdicts(monkeypatch, *others) == []

    def test_a_source_tree_has_no_versions_to_hold_against(self) -> None:
        (finding,) = doctor.packages("no-such-package")

        assert finding.verdict == "note"


class TestPrograms:
    def test_a_crash_of_compiled_code_is_told(self) -> None:
        assert doctor._run("import os; os.abort()") == ("", "ended with status -6")

    def test_the_last_words_of_an_error_are_told(self) -> None:
        assert (
            doctor._run("print(1); import no_such_module")[1] == "ModuleNotFoundError: No module named 'no_such_module'"
        )

    def test_one_that_hangs_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_PATIENCE", 0.5)

        assert doctor._run("import time; time.sleep(60)") == ("", "no answer in 0 s")

    def test_games_that_do_not_play_are_bad(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_PLAY", dict.fromkeys(doctor._PLAY, "raise ImportError('libGL')\n"))
        monkeypatch.setattr(platform, "system", lambda: "Linux")
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")

        assert [(f.verdict, f.subject, f.found) for f in doctor.games()] == [
            ("bad", "games of procgen", "ImportError: libGL"),
            ("bad", "games of atari", "ImportError: libGL"),
        ]

    def test_elsewhere_procgen_is_not_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_PLAY", dict.fromkeys(doctor._PLAY, ""))
        monkeypatch.setattr(doctor, "_REPLAY", "")
        monkeypatch.setattr(platform, "machine", lambda: "arm64")

        assert [(f.verdict, f.subject) for f in doctor.games()] == [("note", "procgen"), ("ok", "games of atari")]


class TestMachine:
    def test_a_gpu_that_torch_does_not_see_is_bad(self, tmp_path: Path) -> None:
        device = tmp_path / "nvidia0"

        assert doctor.gpus([], None, device).verdict == "ok"
        device.touch()
        assert doctor.gpus([], None, device).verdict == "bad"
        assert "CUDA 12.8" in doctor.gpus([], "12.8", device).advice
        assert doctor.gpus(["A100", "A100"], "12.8", device) == Finding("ok", "GPUs", "A100, A100")

    @pytest.mark.parametrize(("threads", "verdict"), [("1", "ok"), ("100000", "note"), ("", "ok")])
    def test_more_threads_than_cores_are_noted(self, threads: str, verdict: str, tmp_path: Path) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text("processor\t: 0\nmodel name\t: Z80\nmodel name\t: Z80\n")

        finding = doctor.processor({"OMP_NUM_THREADS": threads}, bf16=False, cpuinfo=cpuinfo)

        cores = len(os.sched_getaffinity(0))
        assert finding.found == f"{cores} cores for this process, no bf16, so float32 is taken; Z80"
        assert finding.verdict == verdict

    def test_another_allocator_is_noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))

        assert doctor.allocator().verdict == "note"

    def test_full_and_unwritable_folders_are_bad(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folders = {"run folders": tmp_path, "temporary files": tmp_path / "missing"}
        assert [f.verdict for f in doctor.spaces(folders)] == ["ok", "bad"]
        monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(2**40, 2**40, 2**20))

        full, _ = doctor.spaces(folders)

        assert full == Finding("bad", "space for run folders", f"0.0 GiB in {tmp_path}", "make room")

    def test_a_job_says_which_it_is(self) -> None:
        environ = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "RANK": "0"}

        assert list(doctor.cluster(environ)) == [Finding("ok", "slurm", "SLURM_JOB_ID=7, SLURM_NTASKS=8")]


class TestLogging:
    @pytest.mark.parametrize(
        ("environ", "verdict"),
        [
            ({}, "ok"),
            ({"WANDB_MODE": "disabled"}, "ok"),
            ({"WANDB_MODE": "on"}, "bad"),
            ({"WANDB_MODE": "online"}, "bad"),
            ({"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40}, "ok"),
        ],
    )
    def test_online_needs_a_key(self, environ: dict[str, str], verdict: str, tmp_path: Path) -> None:
        finding = doctor.logging_mode(environ, tmp_path / "netrc")

        assert finding.verdict == verdict
        assert "0" * 40 not in str(finding)

    def test_the_key_of_wandb_login_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "netrc").touch()

        assert doctor.logging_mode({"WANDB_MODE": "online"}, tmp_path / "netrc").verdict == "ok"


class TestFrontDoor:
    def test_importing_the_package_imports_nothing_else(self) -> None:
        program = "import sys, lightning_rl; print([m for m in ('torch', 'pytorch_lightning') if m in sys.modules])"

        assert doctor._run(program) == ("[]\n", "")

    @pytest.mark.parametrize("name", lightning_rl.__all__)
    def test_every_name_is_there(self, name: str) -> None:
        assert getattr(getattr(lightning_rl, name), "__name__", name) == name
        assert name in dir(lightning_rl)

    def test_another_name_is_not(self) -> None:
        with pytest.raises(AttributeError, match="module lightning_rl has no attribute PPO"):
            _ = lightning_rl.PPO
