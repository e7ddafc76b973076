"""What configs/cluster/ gives to schedulers: it is read without error, and its commands are ones that start a run."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from lightning_rl.cli.command import RunCLI
from lightning_rl.envs.procgen_games import GAMES
from tests.support.methods import CONFIGS, module_of
from tests.support.runs import ENV_STEPS, fit_args, load, rows

CLUSTER = CONFIGS / "cluster"
ON_CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
SWEPT = [f"configs/{name}.yaml" for name in ("ppo", "ppo_distill", "impala", "impala_vae", "simple")]
WANDB: Any = import_module("wandb.sdk.launch.sweeps.utils")  # what the agent makes a command line with


def run(
    command: list[str], folder: Path, *stand_ins: str, environment: dict[str, str], status: int = 0
) -> tuple[int, list[str]]:
    """Runs a command with programs that note how they were called; its status, and the calls in order.

    The first of them ends with `status`, `squeue` says $STATE.
    """
    for name in stand_ins:
        end = f"exit {status}" if name == stand_ins[0] else 'echo "${STATE:-}"'
        program = folder / name
        program.write_text(f'#!/bin/bash\n(IFS=$\'\\t\'; echo "{name}\t$*") >> "{folder}/calls"\n{end}\n')
        program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(command, cwd=CONFIGS.parent, env=os.environ | {"PATH": path} | environment, check=False)
    calls = folder / "calls"
    return ended.returncode, calls.read_text().splitlines() if calls.exists() else []


def started(args: list[str], monkeypatch: pytest.MonkeyPatch) -> RunCLI:
    """The run that a command line starts, built on a CPU."""
    monkeypatch.chdir(CONFIGS.parent)
    return RunCLI([*args, *ON_CPU])


def options(call: str, program: str) -> list[str]:
    """What a call gave to a program."""
    words = call.split("\t")
    return words[words.index(program) + 1 :]


def slurm(folder: Path, *, status: int, state: str = "RUNNING", **environment: str) -> tuple[int, list[str]]:
    given = {
        "CONFIG": "configs/ppo.yaml",
        "RUN_DIR": str(folder / "run"),
        "SLURM_JOB_ID": "17",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_CPUS_PER_TASK": "8",
        "STATE": state,
    }
    command = ["bash", str(CLUSTER / "slurm.sbatch"), "--data.game", "heist"]
    return run(command, folder, "srun", "squeue", "scontrol", environment=given | environment, status=status)


@pytest.mark.parametrize("path", [CLUSTER / "slurm.sbatch", CLUSTER / "torchrun.sh"], ids=lambda path: path.name)
def test_bash_reads_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("script", ["slurm.sbatch", "torchrun.sh"])
def test_a_script_without_a_run_folder_says_so_and_starts_nothing(
    script: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, calls = run(["bash", str(CLUSTER / script)], tmp_path, "srun", "torchrun", environment={"CONFIG": "x"})
    assert status != 0
    assert "RUN_DIR: give a folder that all nodes share" in capfd.readouterr().err
    assert calls == []


class TestSlurm:
    def test_starts_and_continues_the_run_by_one_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        status, [call] = slurm(tmp_path, status=0)
        assert status == 0
        args = options(call, "lightning-rl")
        assert args[args.index("--ckpt_path") + 1] == "last"
        cli = started(args, monkeypatch)
        assert (cli.run_dir, cli.datamodule.game) == (tmp_path / "run", "heist")
        assert (cli.trainer.num_devices, cli.trainer.num_nodes, cli.trainer.world_size) == (4, 2, 8)

    def test_asks_for_a_task_per_gpu_and_for_a_signal_to_the_tasks(self) -> None:
        lines = (CLUSTER / "slurm.sbatch").read_text().splitlines()
        asked = dict(
            line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH")
        )
        assert asked["ntasks-per-node"] == asked["gpus-per-node"]
        assert (asked["signal"], asked["open-mode"], asked["requeue"]) == ("USR1@120", "append", "")

    def test_queues_a_stopped_job_again(self, tmp_path: Path) -> None:
        status, calls = slurm(tmp_path, status=143)
        assert status == 143
        assert calls[-1] == "scontrol\trequeue\t17"

    @pytest.mark.parametrize("status", [0, 1, 2, 137, 138])
    def test_passes_other_statuses_on(self, status: int, tmp_path: Path) -> None:
        assert slurm(tmp_path, status=status)[0] == status
        assert "scontrol" not in (tmp_path / "calls").read_text()

    @pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", ""])
    def test_leaves_a_job_that_is_not_running_as_it_is(self, state: str, tmp_path: Path) -> None:
        assert slurm(tmp_path, status=143, state=state)[0] == 143
        assert "scontrol" not in (tmp_path / "calls").read_text()

    def test_of_an_array_each_job_is_a_seed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _, [call] = slurm(tmp_path, status=0, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_JOB_ID="16")
        cli = started(options(call, "lightning-rl"), monkeypatch)
        assert (cli.run_dir, cli.config.fit.seed_everything) == (tmp_path / "run" / "seed_3", 3)

    def test_of_an_array_the_stopped_job_alone_is_queued_again(self, tmp_path: Path) -> None:
        array = {
            "SLURM_JOB_ID": "16",
            "SLURM_ARRAY_JOB_ID": "16",
            "SLURM_ARRAY_TASK_ID": "3",
        }  # the last one's
        _, calls = slurm(tmp_path, status=143, **array)
        assert [call.split("\t")[:3] for call in calls[1:]] == [
            ["squeue", "--noheader", "--jobs"],
            ["scontrol", "requeue", "16_3"],
        ]
        assert "16_3" in calls[1].split("\t")

    def test_does_not_go_round_for_ever(self, tmp_path: Path) -> None:
        assert slurm(tmp_path, status=143, SLURM_RESTART_COUNT="3", MAX_RESTARTS="3")[0] == 143
        assert "scontrol" not in (tmp_path / "calls").read_text()


def test_torchrun_starts_the_run_on_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"CONFIG": "configs/impala_vae.yaml", "RUN_DIR": str(tmp_path / "run"), "HEAD": "node0:29500"}
    command = ["bash", str(CLUSTER / "torchrun.sh"), "--data.game", "coinrun"]
    status, [call] = run(command, tmp_path, "torchrun", environment=given)
    assert status == 0
    launch = get_args_parser().parse_args(options(call, "torchrun"))
    assert (launch.nnodes, launch.nproc_per_node, launch.max_restarts) == ("2", "4", 0)
    assert (launch.rdzv_backend, launch.rdzv_endpoint) == ("c10d", "node0:29500")
    assert (launch.module, launch.training_script) == (True, "lightning_rl")
    cli = started(launch.training_script_args, monkeypatch)
    assert (cli.run_dir, cli.datamodule.game, cli.trainer.world_size) == (tmp_path / "run", "coinrun", 8)


class TestKubernetes:
    @pytest.fixture
    def job(self) -> dict[str, Any]:
        claim, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
        assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
        return dict(job["spec"])

    def test_a_preempted_or_stopped_pod_is_replaced_and_a_refused_one_is_not(self, job: dict[str, Any]) -> None:
        pod = job["template"]["spec"]
        [container] = pod["containers"]
        first, *by_status = job["podFailurePolicy"]["rules"]
        assert first == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        told = {rule["onExitCodes"]["containerName"] for rule in by_status}
        assert told == {container["name"]}
        assert {rule["onExitCodes"]["operator"] for rule in by_status} == {"In"}
        assert [(rule["action"], rule["onExitCodes"]["values"]) for rule in by_status] == [
            ("Ignore", [143]),
            ("FailJob", [2]),
        ]
        assert (pod["restartPolicy"], job["podReplacementPolicy"]) == ("Never", "Failed")
        assert pod["terminationGracePeriodSeconds"] > 30

    def test_the_command_keeps_the_run_on_the_claim(self, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        [container] = job["template"]["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"runs": "/runs", "shared-memory": "/dev/shm"}
        assert container["command"] == ["lightning-rl"]
        assert "--ckpt_path=last" in container["args"]
        cli = started(container["args"], monkeypatch)
        assert cli.run_dir.is_relative_to(mounts["runs"])
        assert cli.trainer.num_devices == container["resources"]["limits"]["nvidia.com/gpu"]


class TestSweep:
    @pytest.fixture
    def sweep(self) -> dict[str, Any]:
        return dict(yaml.safe_load((CLUSTER / "sweep.yaml").read_text()))

    def test_it_trains_every_method_on_every_game_with_five_seeds(self, sweep: dict[str, Any]) -> None:
        assert sweep["method"] == "grid"
        assert sweep["metric"] == {"name": "validation/return", "goal": "maximize"}
        assert sweep["parameters"] == {
            "config": {"values": SWEPT},
            "data.game": {"values": list(GAMES)},
            "seed_everything": {"values": [1, 2, 3, 4, 5]},
        }

    @pytest.mark.parametrize("config", SWEPT)
    def test_its_agent_starts_a_run_in_a_folder_of_its_own(
        self, config: str, sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = {
            "data.game": {"value": GAMES[-1]},
            "config": {"value": config},  # in the midst: W&B promises no order
            "seed_everything": {"value": 5},
        }
        filled = WANDB.create_sweep_command_args({"args": values}) | {
            "env": ["/usr/bin/env"],
            "program": [sweep["program"]],
        }
        command = [
            word
            for part in WANDB.create_sweep_command(sweep["command"])
            for word in (filled[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part])
        ]
        ids = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "run1"}
        status, [call] = run(command, tmp_path, "lightning-rl", environment=ids | {"RUNS": str(tmp_path / "runs")})
        assert status == 0

        for key, value in ids.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr("lightning_rl.cli.loggers.silent_server", lambda: None)  # there is a network on a cluster
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        args = options(call, "lightning-rl")
        assert args[args.index("--ckpt_path") + 1] == "last"
        cli = started(args, monkeypatch)
        assert (cli.run_dir, cli.location.run_id) == (tmp_path / "runs" / "sweep1" / "run1", "run1")
        assert cli.method == module_of(Path(config).stem).method({})
        assert (cli.datamodule.game, cli.config.fit.seed_everything) == (GAMES[-1], 5)
        logger = cli.config.fit.trainer.logger.init_args
        assert (logger.offline, logger.id) == (False, "run1")


SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do SLURM_STEP_ID=0 SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!); done
worst=0
for task in "${tasks[@]}"; do wait "$task"; status=$?; ((status > worst)) && worst=$status; done
exit "$worst"
"""


@pytest.mark.slow
def test_a_job_of_two_tasks_is_stopped_queued_again_and_continued(tmp_path: Path) -> None:
    """Slurm's signal goes to all processes of the step; `srun` ends with the highest status."""
    run_dir, folder = tmp_path / "run", tmp_path / "bin"
    folder.mkdir()
    python = f'exec {sys.executable} -m lightning_rl "$@"'
    says = f"(IFS=$'\\t'; echo \"$0\t$*\") >> {folder}/calls"
    for name, text in {
        "srun": SRUN,
        "lightning-rl": f"#!/bin/bash\n{python}\n",
        "squeue": "#!/bin/bash\necho RUNNING\n",
        "scontrol": f"#!/bin/bash\n{says}\n",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    numbers = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    environment = numbers | {
        "CONFIG": "configs/ppo.yaml",
        "RUN_DIR": str(run_dir),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "lightning-rl",
        "SLURM_CPUS_PER_TASK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(CONFIGS.parent),
        "WANDB_MODE": "offline",
    }
    tiny = fit_args(run_dir, iterations=10**6, trainer__logger=None)
    options = tiny[tiny.index("--run_dir") + 2 :]

    def job(*args: str) -> subprocess.Popen[bytes]:
        command = ["bash", str(CLUSTER / "slurm.sbatch"), *options, *args]
        return subprocess.Popen(command, cwd=CONFIGS.parent, env=os.environ | environment)

    stopped = job()
    try:
        while len(rows(run_dir)) < 2:
            assert stopped.poll() is None
            time.sleep(0.1)
        for pid in _step(stopped.pid):
            os.kill(pid, signal.SIGTERM)
        assert stopped.wait(120) == 143
    finally:
        stopped.kill()
    assert (folder / "calls").read_text().endswith("requeue\t17\n")
    env_steps = int(rows(run_dir)[-1]["env_steps"])
    assert load(run_dir)["ProcgenDataModule"]["env_steps"] == env_steps

    assert job("--data.total_env_steps", str(env_steps + 2 * ENV_STEPS)).wait(240) == 0
    assert int(rows(run_dir)[-1]["env_steps"]) == env_steps + 2 * ENV_STEPS


def _step(shell: int) -> list[int]:
    """The processes below `srun`, which is all that the shell has started."""
    [srun] = _children(shell)
    found = _children(srun)
    for pid in found:
        found += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    return [int(text) for path in Path(f"/proc/{pid}/task").glob("*/children") for text in path.read_text().split()]
