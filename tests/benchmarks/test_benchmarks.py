"""The parts of the benchmarks that measure nothing: arguments, arithmetic, what is read from /proc."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.cli.command import RunCLI
from lightning_rl.modules.acting import ActingModule
from lightning_rl.modules.impala_vae import EncodedUnrolls, ImpalaVAEModule
from lightning_rl.policies.config import NetworkConfig
from lightning_rl.policies.latency import Latency
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.types import RecurrentInputs
from tests.benchmarks import collecting, curves, deciding, gpu, impala, measure, memory, scaling, throughput, watching
from tests.benchmarks.impala_peer import PlainLearner
from tests.support.exported import new_policy, written
from tests.support.worlds import NUM_ENVS, NUM_STEPS, OBS_SHAPE, Batches, draw_rollout, fit, generator


def test_a_pair_s_ratio_is_first_over_second_and_the_median_is_of_ratios() -> None:
    # the ratio of the medians would be 3
    ratios = measure.Ratios(pairs=[(6.0, 2.0), (10.0, 1.0), (8.0, 4.0)])
    assert ratios.each == [3.0, 10.0, 2.0]
    assert str(ratios) == "median 3.00, min 2.00, max 10.00"


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        measure.Ratios(pairs=[])


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx512_bf16 amx_bf16 amx_tile", ["amx_bf16", "avx512_bf16"]),
        ("fpu avx512_bf16", ["avx512_bf16"]),
        ("fpu avx2 avx512_bf16x", []),
    ],
)
def test_bf16_features_are_whole_words_of_the_flags(flags: str, found: list[str]) -> None:
    assert measure.bf16_features(f"model name\t: amx_bf16\nflags\t\t: {flags}\n") == found


def test_a_machine_without_cpuinfo_is_said_to_have_no_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "CPUINFO", tmp_path / "missing")
    assert "neither of amx_bf16, avx512_bf16" in measure.processor()


@pytest.mark.slow
def test_watching_tells_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seconds", "1", "--episodes", "3", "--", "--game", "dodgeball"]
    monkeypatch.setattr(sys, "argv", ["watching", *options])
    watching.main()

    first, steady, fastest, memory, end = capsys.readouterr().out.splitlines()
    assert first.startswith("first frame after ")
    assert steady.startswith("at 15 a second: ")
    assert float(fastest.split()[5]) > 0
    assert re.fullmatch(r" +3 episodes +[\d.]+ MB +[\d.]+ s", memory)
    assert end == "Ctrl-C: status 0, files left: 0"


def test_deciding_compares_the_student_with_its_teacher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = {"student": 3, "teacher": 5}
    for name, size in hidden.items():
        written(tmp_path / name, new_policy(NetworkConfig(name="three_stack", channels=[2], hidden=size)))

    def known(policy: ExportedPolicy, _: bytes | None, *, threads: tuple[int, ...], **__: Any) -> Iterator[Latency]:
        assert threads == (1,)
        for batch_size in (1, 16, 256):
            yield Latency("torch float32", 1, batch_size, float(batch_size * (policy.config.network.hidden or 0)))

    monkeypatch.setattr(deciding, "latencies", known)
    deciding.main([str(tmp_path / "student"), str(tmp_path / "teacher"), "--rounds", "2"])

    *_, round_2, last = capsys.readouterr().out.splitlines()
    assert round_2 == "round 2: student {'torch float32': 48.0}, teacher {'torch float32': 80.0}"
    assert last == "torch float32: median 0.60, min 0.60, max 0.60 of the teacher's time; wanted 0.55"


def test_throughput_by_default_is_the_published_comparison() -> None:
    options = throughput.parser().parse_args([])
    assert throughput.sizes(options) == {"num_envs": 24, "num_steps": 256, "minibatch_size": 2048, "epochs": 2}
    assert (options.pairs, options.game, options.side) == (3, "starpilot", None)


def test_the_limit_of_ppo_is_that_of_the_products_of_acting_and_learning() -> None:
    assert measure.limit_of_ppo(401e9, epochs=2) == pytest.approx(935, abs=1)
    assert measure.bf16_product(size=64, seconds=0) > 0


def test_a_minibatch_is_never_more_than_the_rollout() -> None:
    options = throughput.parser().parse_args(["--num-envs", "4", "--num-steps", "8"])
    assert throughput.sizes(options)["minibatch_size"] == 32


def test_counts_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        collecting.parser().parse_args(["--rounds", "0"])
    assert "--rounds" in capsys.readouterr().err


def test_growth_is_bytes_per_byte_of_frames_added() -> None:
    frames = 3 * 2 * memory.FRAME_BYTES
    assert memory.growth(5, 8, short_peak=1000, long_peak=1000 + 2 * frames, num_envs=2) == 2.0
    with pytest.raises(ValueError, match="found 8 and 5"):
        memory.growth(8, 5, short_peak=1, long_peak=2, num_envs=2)


def test_the_peak_is_read_in_bytes() -> None:
    assert memory.peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t   123 kB\nVmRSS:\t 7 kB\n") == 123 * 1024


def test_runs_are_labelled_paths() -> None:
    assert curves.labelled("bf16=runs/a=b/metrics.csv") == ("bf16", Path("runs/a=b/metrics.csv"))
    with pytest.raises(ValueError, match="LABEL=PATH"):
        curves.labelled("metrics.csv")


@pytest.mark.parametrize(("last", "published"), [(491_520, 1), (1_000_000, 2), (40_000, 0)])
def test_published_points_are_shown_as_far_as_the_runs_go(last: int, published: int) -> None:
    figure = curves.drawn([curves.Curve("run", [(0, 1.0), (last, 2.0)])], game="starpilot")
    by_label = {str(line.get_label()): line for line in figure.axes[0].lines}
    found = by_label.get("OpenAI, training levels")
    assert (0 if found is None else np.size(found.get_xdata())) == published


def unrolls() -> EncodedUnrolls:
    """In mid-episode, of another policy than the learner's."""
    rollout = draw_rollout(1)
    rollout.actions[0] = 14  # of Procgen's fifteen
    logits = torch.randn(NUM_STEPS, NUM_ENVS, 15, generator=generator())
    noise = torch.randn(NUM_STEPS + 1, NUM_ENVS, 64, generator=generator(1))
    recurrent_inputs = RecurrentInputs(
        previous_actions=torch.arange(NUM_ENVS),
        previous_rewards=torch.tensor([0.5, -3.0, 0.0]),
        starts=torch.tensor([False, True, False]),
        state=torch.randn(NUM_ENVS, 512, generator=generator(2)),
    )
    return EncodedUnrolls(
        obs=rollout.obs,
        actions=rollout.actions,
        rewards=rollout.rewards.clamp(-1, 1),
        env_rewards=rollout.rewards,
        terminated=rollout.terminated,
        behavior_logits=logits,
        recurrent_inputs=recurrent_inputs,
        noise=noise,
        surprise_rewards=None,
        policy_lag=0,
    )


def test_impala_s_peer_computes_what_the_module_does() -> None:
    module, batch = impala.build("with_vae", OBS_SHAPE), unrolls()
    assert isinstance(module, ImpalaVAEModule)
    peer = PlainLearner(module, OBS_SHAPE)
    weights, losses = module.weights(batch), module.objective(batch, generator()).losses

    found = peer.update(batch)
    fit(module, Batches(batch))

    assert found == pytest.approx(
        {name: weights[name] * float(loss.detach()) for name, loss in losses.items()}, rel=1e-5
    )
    for (name, theirs), ours in zip(peer.model.named_parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("side", impala.SIDES)
def test_impala_measures_each_side(side: str) -> None:
    found = impala.measured(side, unrolls(), updates=1)

    assert found.keys() == ({"update"} if side == "peer" else {"update", "lstm"})
    assert all(seconds > 0 for seconds in found.values())


def test_impala_by_default_is_the_published_batch() -> None:
    options = impala.parser().parse_args([])
    assert (options.num_envs, options.num_steps, options.rounds, options.game) == (32, [80, 20], 3, "starpilot")


@pytest.mark.parametrize("method", scaling.METHODS)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_scaling_compares_runs_that_the_command_takes(method: str, num_ranks: int, tmp_path: Path) -> None:
    _, _, _, *args = scaling.command(method, tmp_path / "run", num_ranks=num_ranks, game="maze", epochs=1)
    cli = RunCLI(args)
    assert (cli.trainer.world_size, cli.method, cli.game) == (num_ranks, method, "maze")
    assert cli.model.micro_batches.num_threads == 1


GPU_SIZES = "--num-envs 2 --num-steps 4 --minibatch-size 8 --epochs 1 --unrolls 2 4 --updates 1 --rollouts 1"
GPU_WAYS = [way for way in gpu.WAYS if not way.compiles]  # compiling takes a minute


def on_a_cpu(out: Path, *parts: str) -> dict[str, Any]:
    given = ["--accelerator", "cpu", "--seconds", "0", "--games", "maze", "--out", str(out), "--parts", *parts]
    found = gpu.main([*given, *GPU_SIZES.split(), *["--hidden", "8", "--dreams", "2", "3"]], ways=GPU_WAYS)
    assert json.loads(out.read_text()) == found
    assert not ActingModule.captures
    return found


def test_the_gpu_script_measures_every_way_of_ppo_at_tiny_size_on_a_cpu(tmp_path: Path) -> None:
    rates = on_a_cpu(tmp_path / "gpu.json", "ppo")["ppo"]["maze"]

    assert rates.keys() == {"eager", "captured acting", "two halves", "no waiting"}
    assert all(row["factor_over_eager"] > 0 for row in rates.values()), rates


@pytest.mark.slow
def test_the_gpu_script_measures_the_other_methods_too_and_compares_what_was_learned(tmp_path: Path) -> None:
    found = on_a_cpu(tmp_path / "gpu.json", "impala_vae", "simple", "equality")

    for rates in (found["impala_vae"], found["simple"]):
        assert rates.keys() == {"eager", "no waiting"}
        assert all(row["factor_over_eager"] > 0 for row in rates.values()), rates
    assert found["equality"]["same_bits"]
    assert found["equality"]["updates"] == 20


def test_a_way_that_fails_leaves_the_others_their_figures() -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("no compiler\nat all")

    known = {name: {"env_steps_per_second": rate} for name, rate in (("eager", 4.0), ("final", 6.0))}
    rates = {"eager": known["eager"], "compiled": gpu.tried(fails), "final": known["final"]}

    assert gpu.add_factors(rates)["final"] == {"env_steps_per_second": 6.0, "factor": 1.5, "factor_over_eager": 1.5}
    assert rates["compiled"] == {"error": "RuntimeError: no compiler"}
