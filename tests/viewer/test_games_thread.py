import threading
from pathlib import Path

from lightning_rl.viewer.games_thread import GamesThread
from lightning_rl.viewer.hub import Hub, Window
from tests.viewer.walk import table


def test_a_game_whose_step_is_due_waits_for_no_command(tmp_path: Path) -> None:
    hub = Hub(lambda _: None)
    hub.join(Window("window"))
    games = GamesThread(table, hub, tmp_path, lambda _: None)
    games._table = table()

    def follow() -> None:
        for _ in range(5000):  # a `SimpleQueue` stops for good within some hundreds or thousands
            games.put("window", {"do": "speed", "value": 1})
            games.put("window", {"do": "speed", "value": 2})
            games._follow_commands()
            games._follow_commands()

    following = threading.Thread(target=follow, daemon=True)
    following.start()
    following.join(60)

    assert not following.is_alive()
    assert games._speed == 2
