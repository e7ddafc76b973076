"""The parts of the benchmarks that measure nothing: arguments, arithmetic, what is read from /proc."""

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import collecting, curves, measure, memory, throughput


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


def test_throughput_by_default_is_the_published_comparison() -> None:
    options = throughput.parser().parse_args([])
    assert throughput.sizes(options) == {"num_envs": 24, "num_steps": 256, "minibatch_size": 2048, "epochs": 2}
    assert (options.pairs, options.game, options.side) == (3, "starpilot", None)


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
