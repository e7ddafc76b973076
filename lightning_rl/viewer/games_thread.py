"""The thread that owns the game: keeps the time, follows the windows' commands, and says what is to be seen."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from lightning_rl.errors import UsageError
from lightning_rl.viewer.description import described, pictures_of
from lightning_rl.viewer.hub import Hub
from lightning_rl.viewer.messages import Command, message
from lightning_rl.viewer.recordings import Recording, new_path
from lightning_rl.viewer.scene import STEPS_A_SECOND
from lightning_rl.viewer.table import Table

_FRAMES_A_SECOND = 30  # sent at most
_PAUSE_AFTER_EPISODE = 0.7
_SMOOTHING = 0.9
_LONG = 3600.0


class GamesThread(threading.Thread):
    """Plays the same games for all windows.

    Nothing is stepped while no window is open. Whoever takes over plays until the game is given back or the window is
    gone, which pauses the game.

    Args:
        make_table: loads what is played; called in this thread, since that takes seconds.
        hub: the windows.
        recordings: folder for them.
        failed: is told why it cannot be played.
    """

    def __init__(
        self,
        make_table: Callable[[], Table],
        hub: Hub,
        recordings: Path,
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="games", daemon=True)
        self._make_table = make_table
        self._hub = hub
        self._folder = recordings
        self._failed = failed
        # not a SimpleQueue: with a timeout that is over at once, Python's own may wait for ever
        self._commands: queue.Queue[tuple[str, Command]] = queue.Queue()
        self._made: dict[str, Path] = {}
        self._recording: Recording | None = None
        self._table: Table
        self._speed = 1.0
        self._due = 0.0
        self._shown_at = 0.0
        self._rate = 0.0
        self._stepped_at: float | None = None
        self._is_changed = True

    def put(self, window: str, command: Command) -> None:
        """Takes a command of a window."""
        self._commands.put((window, command))

    def recording(self, name: str) -> Path | None:
        """The file of a finished recording."""
        return self._made.get(name)

    def stop(self) -> None:
        """Ends the thread after the step that it is at."""
        self.put("", {"do": "stop"})

    def run(self) -> None:
        """Plays until `stop`."""
        try:
            self._table = self._make_table()
        except BaseException as error:  # raised again by the main thread
            self._failed(error)
            return
        try:
            self._play()
        except BaseException as error:  # raised again by the main thread
            self._failed(error)
        finally:
            self._finish_recording()
            self._table.close()

    def _play(self) -> None:
        while self._follow_commands():
            if self._runs and time.monotonic() >= self._due:
                self._step()
            if self._is_changed and time.monotonic() >= self._shown_at + 1 / _FRAMES_A_SECOND:
                self._show()

    @property
    def _runs(self) -> bool:
        return len(self._hub) > 0 and not self._table.is_paused

    def _follow_commands(self) -> bool:
        """Waits for commands until there is something else to do, and follows them; false at the end."""
        waiting = []
        with contextlib.suppress(queue.Empty):
            waiting.append(self._commands.get(timeout=max(self._seconds_free(), 0.0)))
        while not self._commands.empty():
            waiting.append(self._commands.get_nowait())
        for window, command in _without_repeated_seeks(waiting):
            if command["do"] == "stop":
                return False
            try:
                self._follow(window, command)
            except (ValueError, UsageError) as error:
                self._hub.send(message({"type": "error", "text": str(error)[:300]}), to=window)
            self._is_changed = True
        return True

    def _seconds_free(self) -> float:
        """How long there is nothing to do but to wait for commands."""
        now = time.monotonic()
        until_shown = self._shown_at + 1 / _FRAMES_A_SECOND - now if self._is_changed else _LONG
        return min(until_shown, self._due - now if self._runs else _LONG)

    def _follow(self, window: str, command: Command) -> None:
        own = getattr(self, f"_do_{command['do']}", None)
        if own is not None:
            own(window, **{key: item for key, item in command.items() if key != "do"})
            return
        was_paused = self._table.is_paused
        answer = self._table.follow(window, command)
        if was_paused and not self._table.is_paused:
            self._start_clock()
        if answer is not None:
            self._hub.send(message(answer), to=window)
        if command["do"] == "hello":
            self._follow(window, {"do": "trace"})

    def _step(self) -> None:
        now = time.monotonic()
        self._table.step()
        after = self._table.now
        period = 0.0 if self._speed == 0 else 1 / (STEPS_A_SECOND * self._speed)
        if after.is_over and self._speed and len(self._table.sessions) == 1:
            period = max(period, _PAUSE_AFTER_EPISODE)
        # a step that took longer than its time does not make the next ones hurry
        self._due = max(self._due + period, now)
        if self._stepped_at is not None and not after.is_over:
            self._rate = _SMOOTHING * self._rate + (1 - _SMOOTHING) / max(now - self._stepped_at, 1e-4)
        self._stepped_at = now
        self._changed_by_step()

    def _changed_by_step(self) -> None:
        self._is_changed = True
        if self._recording is not None:
            self._recording.add(list(pictures_of(self._table).values()))
            if self._recording.is_full:
                self._finish_recording()

    def _show(self) -> None:
        self._is_changed = False
        self._shown_at = time.monotonic()
        images = pictures_of(self._table)
        header = {
            "type": "frame",
            "labels": [*images],
            **described(self._table),
            "speed": self._speed,
            "recording": None if self._recording is None else self._recording.count,
            "rate": round(self._rate, 1),
            "windows": len(self._hub),
        }
        self._hub.send(message(header, [*images.values()]), is_frame=True)

    def _finish_recording(self) -> None:
        if self._recording is None:
            return
        recording, self._recording = self._recording, None
        error = recording.finish()
        if error is not None:
            self._hub.send(message({"type": "error", "text": f"The recording failed: {error}"}))
            return
        self._made[recording.path.name] = recording.path
        self._hub.send(message({"type": "recorded", "name": recording.path.name, "path": str(recording.path)}))

    def _do_leave(self, name: str) -> None:
        self._table.leave(name)

    def _do_pause(self, name: str, value: bool) -> None:
        self._table.is_paused = value
        self._start_clock()

    def _do_step(self, name: str) -> None:
        self._table.is_paused = True
        self._table.step()
        self._changed_by_step()

    def _do_speed(self, name: str, value: int | float) -> None:
        self._speed = float(value)
        self._start_clock()

    def _do_record(self, name: str, value: bool) -> None:
        if not value:
            self._finish_recording()
        elif self._recording is None:
            path = new_path(self._folder, self._table.session.scene.game)
            pictures = pictures_of(self._table)
            columns = self._table.columns if len(self._table.sessions) > 1 else len(pictures)
            self._recording = Recording(path, len(pictures), columns, frames_per_second=STEPS_A_SECOND)
            self._changed_by_step()

    def _start_clock(self) -> None:
        self._due, self._stepped_at = time.monotonic(), None


def _without_repeated_seeks(commands: list[tuple[str, Command]]) -> list[tuple[str, Command]]:
    """The commands, of which a slider's places on its way to the last one are left out."""
    kept = [one for one, after in pairwise(commands) if not one[1]["do"] == after[1]["do"] == "seek"]
    return kept + commands[-1:]
