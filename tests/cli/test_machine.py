"""What the machine decides where nothing is given: precision, parts and threads; and what a resumed run keeps."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace

from lightning_rl.cli import machine
from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.machine import left_open, look, to_judge_on
from lightning_rl.cpu import bfloat16
from lightning_rl.cpu.bfloat16 import cpu_has_bf16
from lightning_rl.cpu.cores import usable_cores
from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.runs.checkpoint_files import METADATA
from tests.support.command_lines import refusal
from tests.support.methods import CONFIGS
from tests.support.runs import fit_args, load
from tests.support.shared_runs import SharedRuns

PPO = ["fit", "--config", str(CONFIGS / "ppo.yaml"), "--model.network", "two_conv"]
CPU = ["--config", str(CONFIGS / "hardware/cpu.yaml")]
FLAGS = {"amx": "amx_bf16 amx_tile", "avx512": "avx512_bf16 avx512f", "none": "avx2 fma"}
SHORT: dict[str, Any] = {"model__network": "two_conv", "trainer__precision": None}

group: Any = Namespace  # whose constructor has no annotations


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this machine one with a processor of the given flags, and cores."""

    def fake(flags: str, *, cores: float = 2.0) -> None:
        (tmp_path / "cpuinfo").write_text(f"flags : fpu {FLAGS[flags]}\n")
        monkeypatch.setattr(bfloat16, "cpu_has_bf16", partial(cpu_has_bf16, tmp_path / "cpuinfo"))
        monkeypatch.setattr(machine, "usable_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return fake


def built(args: list[str], tmp_path: Path) -> tuple[RunCLI, dict[str, Any]]:
    """The command, and what it would write into config.yaml."""
    cli = RunCLI([*args, "--run_dir", str(tmp_path / "run")])
    return cli, yaml.safe_load(cli.subcommand_parser.dump(cli.saved_config, skip_none=False))


@pytest.mark.parametrize(("flags", "precision"), [("amx", "bf16-mixed"), ("avx512", "bf16-mixed"), ("none", "32-true")])
def test_ppo_alone_is_ppo_with_the_cpus_overlay_but_for_the_accelerator(
    flags: str, precision: str, processor: Any, tmp_path: Path
) -> None:
    processor(flags)
    cli, alone = built(PPO, tmp_path)
    _, overlaid = built([*PPO[:3], *CPU, *PPO[3:]], tmp_path)

    assert overlaid["trainer"].pop("accelerator") == "cpu"
    assert alone["trainer"].pop("accelerator") == "auto"
    assert [options.pop("config", None) is not None for options in (alone, overlaid)]
    assert alone == overlaid
    assert alone["trainer"]["precision"] == precision
    assert cli.model.micro_batches == MicroBatchConfig(size=256, num_threads=2)
    assert cli.model.hparams["micro_batches"] == cli.model.micro_batches
    bf16 = "bf16" if precision == "bf16-mixed" else "no bf16"
    assert cli._remarks == [
        f"this CPU has {bf16} and 2 cores for a rank: --trainer.precision {precision},"
        " --model.micro_batches.size 256, --model.micro_batches.num_threads 2"
    ]


@pytest.mark.parametrize(
    ("given", "precision", "parts"),
    [
        (["--trainer.precision", "32-true"], "32-true", (256, 3)),
        (["--model.micro_batches", "null"], "bf16-mixed", None),
        (["--model.init_args.micro_batches=null", "--trainer.precision=32"], 32, None),
        (["--model.micro_batches.size", "64"], "bf16-mixed", (64, 2)),
        (CPU, "bf16-mixed", (256, 2)),
    ],
)
def test_what_is_given_is_obeyed(
    given: list[str], precision: str | int, parts: tuple[int, int] | None, processor: Any, tmp_path: Path
) -> None:
    processor("amx", cores=3)
    cli, config = built([*PPO[:3], *given, *PPO[3:]], tmp_path)
    assert config["trainer"]["precision"] == precision
    found = cli.model.micro_batches
    assert (found and (found.size, found.num_threads)) == parts


def test_null_in_a_config_is_given_too(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "trainer: {precision: null}\nmodel: {init_args: {micro_batches: null}}\ndata: {init_args: {halves: null}}\n"
    )
    assert left_open([*PPO, "--config", str(config)]) == frozenset()
    assert left_open(PPO) == {"trainer.precision", "model.micro_batches", "data.halves"}


def test_threads_are_the_cores_of_a_rank_and_no_more_than_there_are_parts(
    processor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def threads(cores: float, **trainer: Any) -> int:
        processor("none", cores=cores)
        found = look(group(**({"accelerator": "cpu", "devices": "auto"} | trainer)))
        assert found is not None
        assert found.micro_batches is not None
        return found.micro_batches.num_threads

    assert [threads(0.5), threads(1), threads(5.5), threads(96)] == [1, 1, 5, 8]
    assert [threads(6, devices=2), threads(1, devices=2)] == [3, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert threads(6) == 2

    limit = tmp_path / "sys/fs/cgroup/cpu.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 0.5


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_computes_in_bf16_where_it_can_and_minibatches_at_once(
    bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, is_bf16_supported=lambda **_: bf16)
    monkeypatch.setattr(torch, "cuda", cuda)
    for accelerator in ("auto", "gpu"):
        found = look(group(**{"accelerator": accelerator, "devices": "auto"}))
        assert found is not None
        assert (found.precision, found.micro_batches) == (precision, None)
    found = look(group(**{"accelerator": "cpu", "devices": "auto"}))
    assert found is not None
    assert found.micro_batches is not None


@pytest.mark.slow
def test_a_resumed_run_keeps_what_it_was_trained_with(
    processor: Any, tmp_path: Path, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.copied(tmp_path / "run", "ppo", model__micro_batches__num_threads=2, **SHORT)
    assert load(run)[METADATA]["precision"] == yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"]
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)

    def saved_as(precision: str | None) -> list[str]:
        checkpoint[METADATA].pop("precision", None)
        if precision is not None:
            checkpoint[METADATA]["precision"] = precision
        torch.save(checkpoint, run / "last.ckpt")
        args = fit_args(run, "--ckpt_path", "last", iterations=3, **SHORT)
        del args[args.index("--model.micro_batches") : args.index("--model.micro_batches") + 2]
        return args

    processor("none", cores=5)
    for precision in ("32-true", None):  # which older files do not say
        cli = RunCLI(saved_as(precision))
        assert cli.trainer.precision == "32-true"
        assert cli.model.micro_batches == MicroBatchConfig(size=256, num_threads=2)
        assert cli._remarks == []

    refused = (
        "trained with trainer.precision bf16-mixed, which this CPU does not have; give --trainer.precision 32-true"
    )
    assert refused in refusal(saved_as("bf16-mixed"), capsys)
    assert refused in refusal([*saved_as("bf16-mixed"), "--trainer.precision", "bf16-mixed"], capsys)
    assert RunCLI([*saved_as("bf16-mixed"), "--trainer.precision", "32-true"]).trainer.precision == "32-true"
    processor("amx")
    assert RunCLI(saved_as("bf16-mixed")).trainer.precision == "bf16-mixed"
    assert RunCLI(saved_as("32-true")).trainer.precision == "32-true"


def test_a_gpu_that_is_not_there_is_told(
    processor: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("none")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    told = refusal([*PPO, "--trainer.accelerator", "gpu"], capsys)

    assert "trainer.accelerator must be cpu or auto where torch sees no GPU, found gpu; `lightning-rl doctor`" in told


@pytest.mark.parametrize(
    ("trained", "has_gpu", "judged"),
    [
        (("gpu", "16-mixed"), False, ("cpu", "32-true")),
        (("cuda", "bf16-mixed"), False, ("cpu", "bf16-mixed")),
        (("gpu", "16-mixed"), True, ("gpu", "16-mixed")),
        (("auto", "32-true"), False, ("auto", "32-true")),
    ],
)
def test_an_agent_is_judged_where_this_machine_can(
    trained: tuple[str, str], judged: tuple[str, str], *, has_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    assert to_judge_on(*trained) == judged
