import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments

SAMPLES = np.random.default_rng(0).normal(3.0, 2.0, size=17)


def moments_of(numbers: NDArray[np.float64]) -> RunningMoments:
    return RunningMoments(float(numbers.mean()), float(numbers.var()), float(len(numbers)))


@pytest.mark.parametrize("split", [1, 5, 16])
def test_merged_moments_are_those_of_all_numbers_together(split: int) -> None:
    merged = moments_of(SAMPLES[:split]).merged(moments_of(SAMPLES[split:]))

    assert merged == pytest.approx(moments_of(SAMPLES), rel=1e-12)


def test_merging_is_symmetric() -> None:
    one, other = moments_of(SAMPLES[:3]), moments_of(SAMPLES[3:])

    assert one.merged(other) == pytest.approx(other.merged(one), rel=1e-12)


def test_merging_adds_the_variance_between_the_means() -> None:
    merged = RunningMoments(2.0, 0.0, 3.0).merged(RunningMoments(6.0, 0.0, 1.0))

    assert merged == pytest.approx(RunningMoments(3.0, 3.0, 4.0), rel=1e-12)  # the moments of 2, 2, 2, 6


def test_the_initial_pseudo_observation_has_weight_1e_4() -> None:
    merged = RunningMoments().merged(moments_of(SAMPLES))

    weights = np.array([1e-4] + [1.0] * len(SAMPLES))
    values = np.array([0.0, *SAMPLES])
    mean = np.average(values, weights=weights)
    variance = np.average((values - mean) ** 2, weights=weights) + 1e-4 * 1.0 / weights.sum()
    assert merged == pytest.approx(RunningMoments(float(mean), float(variance), 17.0001), rel=1e-12)
