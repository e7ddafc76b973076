"""Numbers that no option means, wherever they stand in a config."""

import math
from typing import Any

import pytest

from lightning_rl.cli.config_files import check_numbers
from lightning_rl.errors import UsageError


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"gamma": math.nan}, "model.gamma must be finite, found nan"),
        ({"max_norm": math.nan}, "model.max_norm must be finite, found nan"),
        ({"gamma": -math.inf}, "model.gamma must be finite, found -inf"),
        ({"init_args": {"vae": {"weights": [1.0, math.inf]}}}, "model.vae.weights.1 must be finite, found inf"),
        ({"seed": -(2**63)}, "model.seed must be below 2⁶³ in size, found a number of 16 hexadecimal digits"),
    ],
)
def test_are_refused_by_their_key(config: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as error:
        check_numbers(config, "model")
    assert str(error.value) == told


def test_others_are_taken() -> None:
    check_numbers({"max_norm": math.inf, "gamma": 1e300, "seed": 1 - 2**63, "flag": True, "name": "nan"}, "model")
