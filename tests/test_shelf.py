"""The agents in `checkpoints/`: their table is that of their cards, and each of them plays as its card says."""

import json
from pathlib import Path

import pytest

from lightning_rl.cli.program import main
from lightning_rl.policies.folder import AUTOENCODER, CARD, CONFIG, VIDEO, WEIGHTS, WORLD_MODEL, load_policy
from tests.support.shelf import SHELF, agents, measured, size_of, with_table

EACH = pytest.mark.parametrize("agent", agents(), ids=lambda path: path.name)
_MAX_BYTES = {AUTOENCODER: 6e6, WORLD_MODEL: 16e6}


def test_the_table_is_that_of_the_cards() -> None:
    text = (SHELF / "README.md").read_text(encoding="utf-8")
    assert with_table(text) == text


@EACH
def test_an_agent_is_small_and_complete(agent: Path) -> None:
    names = {path.name for path in agent.iterdir()}
    extras = names & _MAX_BYTES.keys()
    assert names - extras == {CARD, CONFIG, VIDEO, WEIGHTS}
    assert size_of(agent) < max([1.5e6, *(_MAX_BYTES[name] for name in extras)])
    config = load_policy(agent).config
    games = [config.game] if isinstance(config.game, str) else config.game
    assert agent.name.startswith(f"{config.method}-".replace("_", "-"))
    assert {game for game, _ in measured(agent)} == set(games)
    assert config.dtype == "bfloat16"


@pytest.mark.slow
@EACH
def test_an_agent_plays_as_its_card_says(agent: Path, tmp_path: Path) -> None:
    assert main(["test", "--ckpt_path", str(agent), "--run_dir", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "test.json").read_text(encoding="utf-8"))
    games = report.get("games", {report["game"]: report})
    played = {
        (game, name): row["return_mean"] for game, found in games.items() for name, row in found["level_sets"].items()
    }
    outside = {
        key: (played[key], one)
        for key, one in measured(agent).items()
        if key in played and not one.low <= played[key] <= one.high
    }
    assert outside == {}
