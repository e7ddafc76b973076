import torch

from lightning_rl.modules.validation import returns_with
from lightning_rl.types import Episodes


def episodes(*returns: float, game: str = "", level_set: str = "full_distribution") -> Episodes:
    return Episodes(
        level_set=level_set,
        returns=torch.tensor(returns, dtype=torch.float64),
        lengths=torch.ones(len(returns), dtype=torch.int64),
        level_complete=None,
        game=game,
    )


def test_one_game_has_one_return_per_level_set() -> None:
    returns = returns_with({}, episodes(1.0, 2.0))
    returns = returns_with(returns, episodes(5.0, level_set="train_levels"))

    assert returns == {"validation/return": 1.5, "validation/train_levels_return": 5.0}


def test_of_several_games_each_counts_the_same_in_the_mean() -> None:
    returns = returns_with({}, episodes(1.0, 2.0, 3.0, game="maze"))
    returns = returns_with(returns, episodes(7.0, game="maze", level_set="train_levels"))
    returns = returns_with(returns, episodes(10.0, game="heist"))

    assert returns == {
        "validation/return/maze": 2.0,
        "validation/return/heist": 10.0,
        "validation/return": 6.0,
        "validation/train_levels_return/maze": 7.0,
        "validation/train_levels_return": 7.0,
    }
