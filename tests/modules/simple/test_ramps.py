"""Probabilities that grow."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from lightning_rl.modules.simple.ramps import exponential_ramp, linear_ramp


@pytest.mark.parametrize("ramp", [linear_ramp, exponential_ramp])
def test_a_ramp_starts_at_a_hundredth_and_stays_at_one(ramp: Callable[[int, int], float]) -> None:
    assert ramp(0, 700) == pytest.approx(0.01)
    assert ramp(700, 700) == ramp(70_000, 700) == 1.0


def test_a_linear_ramp_is_halfway_in_the_middle() -> None:
    assert linear_ramp(350, 700) == pytest.approx((0.01 + 1) / 2)


def test_an_exponential_ramp_grows_by_one_factor() -> None:
    values = [exponential_ramp(step, 7) for step in range(8)]

    ratios = [later / earlier for earlier, later in pairwise(values)]
    assert ratios == pytest.approx([math.exp(-math.log(0.01) / 7)] * 7)
