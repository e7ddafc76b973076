"""The table of the agents in `checkpoints/`, made from their cards: `python -m tests.support.shelf` writes it."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_rl.policies.folder import CARD, CONFIG, load_policy
from lightning_rl.policies.latency import policy_size

SHELF = Path(__file__).parents[2] / "checkpoints"
_BEGIN, _END = "<!-- made by python -m tests.support.shelf -->\n", "<!-- end -->\n"
_LEVELS = {"training levels": "train_levels", "all levels": "full_distribution"}


class Measured(NamedTuple):
    """A mean return on a card."""

    mean: float
    low: float
    high: float
    """The ends of the mean's 95 % interval."""
    episodes: int


def agents() -> list[Path]:
    """The folders of the shelf."""
    return sorted(path.parent for path in SHELF.glob(f"*-*/{CONFIG}"))


def size_of(agent: Path) -> int:
    """Bytes of all its files."""
    return sum(path.stat().st_size for path in agent.iterdir())


def measured(agent: Path) -> dict[tuple[str, str], Measured]:
    """What the card says, by game and level set."""
    head: dict[str, Any] = yaml.safe_load((agent / CARD).read_text(encoding="utf-8").split("---\n")[1])
    found = {}
    for result in head["model-index"][0]["results"]:
        name, levels = result["dataset"]["name"].rsplit(", ", 1)
        metric = result["metrics"][0]
        low, high = metric["args"]["ci95"]
        key = (name.split()[1], _LEVELS.get(levels, levels))
        found[key] = Measured(metric["value"], low, high, metric["args"]["episodes"])
    return found


def table() -> str:
    """The table in Markdown."""
    rows = ["| agent | env steps | weights | training levels | all levels | MB |", "|---|---|---|---|---|---|"]
    for agent in agents():
        policy = load_policy(agent)
        cells = [_returns(agent, level_set) for level_set in _LEVELS.values()]
        megabytes = f"{size_of(agent) / 1e6:.1f}"
        weights = policy_size(policy).parameters
        link = f"[{agent.name}]({agent.name}/{CARD})"
        rows.append("| " + " | ".join([link, str(policy.config.env_steps), str(weights), *cells, megabytes]) + " |")
    return "\n".join(rows) + "\n"


def _returns(agent: Path, level_set: str) -> str:
    found = {game: result for (game, levels), result in measured(agent).items() if levels == level_set}
    named = len(found) > 1
    return ", ".join(
        f"{f'{game} ' * named}{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})" for game, one in found.items()
    )


def with_table(text: str) -> str:
    """The document with the table that the cards make now."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{after}"


def main() -> None:
    """Writes the table into `checkpoints/README.md`."""
    path = SHELF / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
