"""What `lightning-rl doctor` says of machines that lack something."""

import os
import platform
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import lightning_rl
from lightning_rl.cli import doctor
from lightning_rl.cli.finding import Finding

_Usage = namedtuple("_Usage", "total used free")


@pytest.mark.slow
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
    assert doctor.main(["--verbose"], {}) == 2
    assert capsys.readouterr().err == "lightning-rl: doctor takes --benchmark alone, found --verbose\n"


def test_its_help_is_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--help"], {}) == 0
    assert "exit status is 1" in capsys.readouterr().out


def test_it_starts_where_everything_else_is_missing() -> None:
    others = ("torch", "numpy", "pytorch_lightning", "packaging", "procgen", "ale_py")
    program = f"import sys; sys.modules |= dict.fromkeys({others}); from lightning_rl.cli import doctor"

    _, failure = doctor._run(program + "; print(next(iter(doctor.findings({}))))")

    assert failure == ""


def test_what_cannot_be_looked_at_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[Finding]:
        raise FileNotFoundError("no usable folder")

    for check in ("packages", "games", "computing", "spaces"):
        monkeypatch.setattr(doctor, check, broken)

    found = list(doctor.findings({}))

    bad = [finding.subject for finding in found if finding.verdict == "bad"]
    assert bad == ["packages", "games", "computing", "space"]
    assert {finding.subject for finding in found} >= {"memory", "allocator", "wandb", "open files"}
    assert all(str(finding)[31] == " " for finding in found)


def test_its_status_is_1_where_something_will_break(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        Finding("ok", "this", "is fine"),
        Finding("bad", "that", "is not", "mend it"),
        Finding("note", "more", "x"),
    ]
    monkeypatch.setattr(doctor, "findings", lambda _: iter(found))

    assert doctor.main([], {}) == 1
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

    def test_what_an_extra_adds_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = {"lightning_rl": ["numpy[fast]"], "numpy": ["no-such-package>=2; extra == 'fast'", "nor-this"]}
        monkeypatch.setattr(metadata, "requires", asked.get)

        found, missing = doctor.packages()

        assert (found.subject, found.verdict) == ("numpy", "ok")
        assert missing == Finding("bad", "no-such-package", "is not installed", "pip install 'no-such-package>=2'")

    def test_a_remedy_keeps_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (finding,) = self.verdicts(monkeypatch, "no-such-package[all]>=3")

        assert finding.advice == "pip install 'no-such-package[all]>=3'"

    def test_a_source_tree_has_no_versions_to_hold_against(self) -> None:
        (finding,) = doctor.packages("no-such-package")

        assert finding.verdict == "note"


class TestPrograms:
    def test_a_crash_of_compiled_code_is_told(self) -> None:
        assert doctor._run("import os; print('x'); os.abort()") == ("x\n", "killed by SIGABRT")

    def test_the_last_words_of_an_error_are_told(self) -> None:
        words = "ModuleNotFoundError: No module named 'no_such_module'"
        assert doctor._run("print(1); import no_such_module") == ("1\n", words)

    def test_one_that_hangs_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_PATIENCE", 0.5)

        assert doctor._run("import time; time.sleep(60)") == ("", "no answer in 0.5 s")


class TestGames:
    @pytest.fixture(autouse=True)
    def linux(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "system", lambda: "Linux")
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    @pytest.mark.parametrize(
        ("frame", "restored", "verdict", "found"),
        [
            ("self.step_", "state", "ok", "play, and resume to the same frames"),
            ("self.step_", "state + 1", "bad", "a restored game went another way"),
            ("7", "state", "bad", "the game stands still"),
        ],
    )
    def test_games_must_move_and_be_restored(
        self, frame: str, restored: str, verdict: str, found: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toy = f"""
import numpy as np
game = "toy"
class Env:
    def __init__(self, game, num_envs, seed): self.step_ = 0
    def reset(self): pass
    def step(self, actions):
        self.step_ += 1
        return np.array([{frame}]), None
    def get_state(self): return self.step_
    def set_state(self, state): self.step_ = {restored}
"""
        monkeypatch.setattr(doctor, "_GAMES", {"procgen": toy, "atari": "raise ImportError('libGL')\n"})

        first, second = doctor.games()

        assert (first.verdict, first.found) == (verdict, found)
        assert (second.verdict, second.subject, second.found) == ("bad", "games of atari", "ImportError: libGL")

    def test_what_the_games_say_themselves_needs_no_advice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refused = "from lightning_rl.errors import UsageError; raise UsageError('they need libGL.so.1')\n"
        monkeypatch.setattr(doctor, "_GAMES", {"atari": refused})
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")

        assert list(doctor.games()) == [Finding("bad", "games of atari", "they need libGL.so.1")]

    def test_elsewhere_procgen_is_not_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_GAMES", dict.fromkeys(doctor._GAMES, ""))
        monkeypatch.setattr(doctor, "_REPLAY", "")
        monkeypatch.setattr(platform, "machine", lambda: "arm64")

        found = [(f.verdict, f.subject) for f in doctor.games()]

        assert found == [("note", "games of procgen"), ("ok", "games of atari")]


class TestMachine:
    @pytest.mark.parametrize(
        ("names", "built_for", "devices", "environ", "verdict"),
        [
            ([], None, [], {}, "ok"),
            ([], None, ["/dev/nvidia3"], {}, "note"),
            ([], "12.8", ["/dev/nvidia3"], {}, "bad"),
            ([], "12.8", ["/dev/nvidia3"], {"CUDA_VISIBLE_DEVICES": ""}, "note"),
            (["A100"], "12.8", ["/dev/nvidia3"], {}, "ok"),
        ],
    )
    def test_a_gpu_that_torch_should_see_and_does_not_is_bad(
        self, names: list[str], built_for: str | None, devices: list[str], environ: dict[str, str], verdict: str
    ) -> None:
        assert doctor.gpus(names, built_for, devices, environ).verdict == verdict

    @pytest.mark.parametrize(("threads", "verdict"), [("1", "ok"), ("100000", "note"), ("", "ok")])
    def test_more_threads_than_cores_are_noted(self, threads: str, verdict: str, tmp_path: Path) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Z80\nmodel name\t: Z80\n")

        finding = doctor.processor({"OMP_NUM_THREADS": threads}, bf16=False, root=tmp_path)

        cores = len(os.sched_getaffinity(0))
        assert finding.found == f"{cores} cores for this process, no bf16, so float32 is taken; Z80"
        assert finding.verdict == verdict

    def test_a_containers_limits_count(self, tmp_path: Path) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "meminfo").write_text("MemTotal: 99999999 kB\nMemAvailable: 67108864 kB\n")
        assert list(doctor.memory(tmp_path)) == [Finding("ok", "memory", "64.0 GiB free")]
        cgroup = tmp_path / "sys" / "fs" / "cgroup"
        cgroup.mkdir(parents=True)
        for name, text in {"cpu.max": "50000 100000", "memory.max": str(3 * 2**30), "memory.current": "0"}.items():
            (cgroup / name).write_text(f"{text}\n")

        assert list(doctor.memory(tmp_path)) == [Finding("note", "memory", "3.0 GiB free")]
        assert doctor.processor({}, bf16=True, root=tmp_path).found.startswith("0.5 cores for this process, bf16")
        (cgroup / "cpu.max").write_text("max 100000\n")
        assert not doctor.processor({}, bf16=True, root=tmp_path).found.startswith("0.5")

    def test_another_allocator_is_noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert doctor.allocator({}).verdict == "ok"
        assert doctor.allocator({"LD_PRELOAD": "/usr/lib/libjemalloc.so"}).verdict == "note"
        monkeypatch.setattr(doctor, "keep_freed_memory", lambda: False)
        assert doctor.allocator({}).verdict == "note"

    def test_full_and_unwritable_folders_are_bad(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        missing = tmp_path / "missing"
        found, unwritable = doctor.spaces({"TMPDIR": str(missing)})
        assert found.verdict == "ok"
        assert unwritable == Finding(
            "bad", "space for temporary files", f"{missing} cannot be written", "set TMPDIR to another"
        )
        monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(2**40, 2**40, 2**20))

        full, _ = doctor.spaces({})

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
            ({"WANDB_MODE": "on"}, "note"),
            ({"WANDB_MODE": "online"}, "bad"),
            ({"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40}, "ok"),
        ],
    )
    def test_online_needs_a_key(self, environ: dict[str, str], verdict: str, tmp_path: Path) -> None:
        finding = doctor.logging_mode({**environ, "NETRC": str(tmp_path / "netrc")})

        assert finding.verdict == verdict
        assert "0" * 40 not in str(finding)

    def test_the_key_of_wandb_login_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "netrc").touch()

        assert doctor.logging_mode({"WANDB_MODE": "online", "NETRC": str(tmp_path / "netrc")}).verdict == "ok"


class TestFrontDoor:
    def test_importing_the_package_imports_nothing_else(self) -> None:
        program = "import sys, lightning_rl; print([m for m in ('torch', 'pytorch_lightning') if m in sys.modules])"

        assert doctor._run(program) == ("[]\n", "")

    @pytest.mark.parametrize("name", lightning_rl.__all__)
    def test_every_name_is_there(self, name: str) -> None:
        assert getattr(getattr(lightning_rl, name), "__name__", name) == name
        assert name in dir(lightning_rl)

    def test_its_lists_agree(self) -> None:
        assert sorted(lightning_rl.__all__) == sorted([*lightning_rl._HOMES, "__version__"])

    def test_another_name_is_not(self) -> None:
        with pytest.raises(AttributeError, match="module lightning_rl has no attribute PPO"):
            _ = lightning_rl.PPO  # type: ignore[attr-defined]
