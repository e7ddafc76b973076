"""Returns of validation, by the keys under which they are logged."""

from lightning_rl.types import Episodes

KEYS = {"train_levels": "validation/train_levels_return", "full_distribution": "validation/return"}


def returns_with(known: dict[str, float], episodes: Episodes) -> dict[str, float]:
    """The returns of a validation with those of more episodes.

    Of several games each has its own, as `<key>/<game>`, and `<key>` is the mean over the games so far: of their mean
    returns in the games' own units, each game counting the same.

    Args:
        known: the returns so far.
        episodes: of one level set, and of one game where there are several.
    """
    key, own = KEYS[episodes.level_set], float(episodes.returns.mean())
    if not episodes.game:
        return known | {key: own}
    returns = known | {f"{key}/{episodes.game}": own}
    games = [value for name, value in returns.items() if name.startswith(f"{key}/")]
    return returns | {key: sum(games) / len(games)}
