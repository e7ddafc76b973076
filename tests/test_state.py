"""What is saved of a state, and what is made of it again or refused."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
import torch
from jaxtyping import Float32, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.state import from_plain, like, to_plain, validate_state


class Moments(NamedTuple):
    mean: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Inner:
    sums: Float32[Tensor, "B 2"]

    def __post_init__(self) -> None:
        if (self.sums < 0).any():
            raise ValueError(f"sums must be at least 0, found {float(self.sums.min())}")


@dataclass(frozen=True, kw_only=True)
class Example:
    count: int
    name: str
    best: float | None
    steps: Int64[NDArray[Any], "B"]
    inner: Inner
    games: Annotated[list[bytes], "B"]
    moments: Moments
    pair: tuple[int, str]
    memory: dict[str, Shaped[Tensor, "B ..."]]
    generator: torch.Generator
    replay: Annotated[list[int], "R"] | None = None


def example(**changes: Any) -> Example:
    values: dict[str, Any] = {
        "count": 3,
        "name": "maze",
        "best": None,
        "steps": np.arange(2),
        "inner": Inner(sums=torch.ones(2, 2)),
        "games": [b"ab", b"c"],
        "moments": Moments(0.5, 2.0),
        "pair": (1, "x"),
        "memory": {"sums": torch.zeros(2), "rows": torch.zeros(2, 3, dtype=torch.bool)},
        "generator": torch.Generator().manual_seed(5),
    }
    return Example(**values | changes)


def test_what_is_saved_are_tensors_numbers_strings_and_containers_of_them() -> None:
    plain = to_plain(example())

    assert plain.pop("generator").tolist() == torch.Generator().manual_seed(5).get_state().tolist()
    assert plain.pop("steps").tolist() == [0, 1]
    assert plain.pop("inner")["sums"].tolist() == [[1, 1], [1, 1]]
    assert [game.tolist() for game in plain.pop("games")] == [[97, 98], [99]]
    assert {name: rows.shape for name, rows in plain.pop("memory").items()} == {"sums": (2,), "rows": (2, 3)}
    assert plain == {"count": 3, "name": "maze", "best": None, "moments": [0.5, 2.0], "pair": [1, "x"]}


def test_a_state_is_made_again_of_what_was_saved() -> None:
    saved = from_plain(Example, to_plain(example(best=0.5, replay=[7])), "example", B=2)

    assert (saved.count, saved.best, saved.moments, saved.pair) == (3, 0.5, Moments(0.5, 2.0), (1, "x"))
    assert (saved.games, saved.replay, saved.steps.tolist()) == ([b"ab", b"c"], [7], [0, 1])
    assert torch.equal(saved.inner.sums, torch.ones(2, 2))
    assert torch.rand(1, generator=saved.generator) == torch.rand(1, generator=torch.Generator().manual_seed(5))


def test_nothing_that_is_saved_or_made_again_shares_memory() -> None:
    state = example()
    plain = to_plain(state)
    again = from_plain(Example, plain, "example")

    state.steps[:] = state.inner.sums[:] = 9
    again.steps[:] = again.memory["sums"][:] = 8

    assert plain["steps"].tolist() == [0, 1]
    assert plain["inner"]["sums"].tolist() == [[1, 1], [1, 1]]
    assert plain["memory"]["sums"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("count", True, "example.count must be an int from 0 on, found True"),
        ("count", -1, "example.count must be an int from 0 on, found -1"),
        ("count", 2**63, r"example.count must be an int from 0 on, found 9.22e\+18"),
        ("name", 3, "example.name must be a str, found 3"),
        ("best", 1, "example.best must be a float or None, found 1"),
        (
            "steps",
            torch.zeros(2),
            r"steps must be an int64 tensor of shape \(2\), found a float32 tensor of ",
        ),
        ("steps", torch.zeros(3, dtype=torch.int64), r"tensor of shape \(2\), found an int64 tensor of shape \(3\)"),
        ("steps", [0, 1], "steps must be an int64 tensor of shape .*, found a list of 2"),
        ("inner", {}, r"example.inner.sums must be a float32 tensor of shape \(2, 2\), found nothing"),
        ("inner", {"sums": torch.full((2, 2), -1.0)}, "example.inner.sums must be at least 0, found -1.0"),
        ("inner", None, "example.inner must be a dict, found None"),
        ("games", [torch.zeros(1, dtype=torch.uint8)], "example.games must be a list of 2, found a list of 1"),
        ("games", torch.zeros(2), r"example.games must be a list of 2, found a float32 tensor of shape \(2\)"),
        ("games", [1, 2], r"example.games.0 must be a uint8 tensor of shape \(_\), found 1"),
        ("moments", [1.0], "example.moments must be a list of 2, found a list of 1"),
        ("moments", [1.0, "x"], "example.moments.1 must be a float, found a str"),
        ("pair", [1], "example.pair must be a list of 2, found a list of 1"),
        ("memory", {1: torch.zeros(2)}, "the key 1 of example.memory must be a str, found 1"),
        ("memory", {"x": torch.zeros(3)}, r"memory.x must be a tensor of shape \(2, ...\), found a .* \(3\)"),
        ("generator", torch.zeros(5056, dtype=torch.uint8), "example.generator must be the state of a generator"),
        ("generator", "x", "example.generator must be the state of a generator, found a str"),
        ("replay", "x", "example.replay must be a list or None, found a str"),
        ("replay", [1.5], "example.replay.0 must be an int from 0 on, found 1.5"),
    ],
)
def test_what_is_not_as_declared_is_named_by_its_key(key: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        from_plain(Example, to_plain(example()) | {key: value}, "example", B=2)


def test_a_missing_key_is_named_and_an_unknown_one_ignored() -> None:
    plain = to_plain(example())
    assert from_plain(Example, plain | {"more": 1}, "example").count == 3
    del plain["pair"]
    with pytest.raises(ValueError, match=r"example\.pair must be a list of 2, found nothing"):
        from_plain(Example, plain, "example")


def test_a_size_is_one_throughout_a_state() -> None:
    with pytest.raises(ValueError, match=r"inner.sums must be a float32 tensor of shape \(2, 2\), found"):
        from_plain(Example, to_plain(example()) | {"inner": {"sums": torch.zeros(3, 2)}}, "example")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("n", 1.5, "it.n must be an int from 0 on, found 1.5"),
        ("x", "y", "x must be an int from 0 on or a float, found a str"),
        ("t", torch.zeros(2), r"t must be a float tensor of shape \(3\), found a float32 tensor of shape \(2\)"),
        ("t", torch.zeros(3, dtype=torch.int64), "found an int64 tensor"),
        ("flags", torch.zeros(2), "flags must be a bool tensor of shape .*, found a float32"),
        ("pair", [None], "pair must be a list of 2, found a list of 1"),
    ],
)
def test_what_is_like_an_example_differs_in_numbers_only(path: str, value: Any, told: str) -> None:
    given = {"n": 1, "x": 0.5, "t": torch.zeros(3), "flags": torch.ones(2, dtype=torch.bool), "pair": (1, None)}
    other = {"n": 2, "x": 3, "t": torch.ones(3, dtype=torch.bfloat16), "flags": ~given["flags"], "pair": [2, None]}  # type: ignore[operator]
    validate_state(other, like(given))

    with pytest.raises(ValueError, match=told.removeprefix("it.")):
        validate_state(other | {path: value}, like(given))
