"""The thread that owns the game: keeps the time, follows the windows' commands, and says what is to be seen."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.viewer.dream import difference
from lightning_rl.viewer.hub import Hub
from lightning_rl.viewer.messages import Command, decoded_actions, encoded_actions, message
from lightning_rl.viewer.moments import Moment
from lightning_rl.viewer.recordings import Recording, new_path
from lightning_rl.viewer.session import STEPS_A_SECOND, Scene, Session

_FRAMES_A_SECOND = 30  # sent at most
_PAUSE_AFTER_EPISODE = 0.7
_SMOOTHING = 0.9
_LONG, _AT_ONCE = 3600.0, 1e-6


class GamesThread(threading.Thread):
    """Plays one scene for all windows.

    Nothing is stepped while no window is open. Whoever takes over plays until the game is given back or the window is
    gone, which pauses the game.

    Args:
        make_scene: loads what is played; called in this thread, since that takes seconds.
        hub: the windows.
        recordings: folder for them.
        failed: is told why the scene cannot be played.
        level: to begin with; the first training level by default.
    """

    def __init__(
        self,
        make_scene: Callable[[], Scene],
        hub: Hub,
        recordings: Path,
        failed: Callable[[BaseException], None],
        *,
        level: int | None = None,
    ) -> None:
        super().__init__(name="games", daemon=True)
        self._make_scene = make_scene
        self._hub = hub
        self._folder = recordings
        self._failed = failed
        self._level = level
        self._commands: queue.SimpleQueue[tuple[str, Command]] = queue.SimpleQueue()
        self._made: dict[str, Path] = {}
        self._recording: Recording | None = None
        self._recorded = 1
        self._session: Session
        self._owner = ""
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
            self._session = Session(self._make_scene(), level=self._level)
        except BaseException as error:  # raised again by the main thread
            self._failed(error)
            return
        try:
            self._play()
        except BaseException as error:  # raised again by the main thread
            self._failed(error)
        finally:
            self._finish_recording()
            self._session.close()

    def _play(self) -> None:
        while self._follow_commands():
            if self._runs and time.monotonic() >= self._due:
                self._step()
            if self._is_changed and time.monotonic() >= self._shown_at + 1 / _FRAMES_A_SECOND:
                self._show()

    @property
    def _runs(self) -> bool:
        return len(self._hub) > 0 and not self._session.is_paused

    def _follow_commands(self) -> bool:
        """Waits for commands until there is something else to do, and follows them; false at the end."""
        waiting = []
        with contextlib.suppress(queue.Empty):
            waiting.append(self._commands.get(timeout=max(self._seconds_free(), 0.0) or _AT_ONCE))
        while not self._commands.empty():
            waiting.append(self._commands.get_nowait())
        for window, command in _without_repeated_seeks(waiting):
            if command["do"] == "stop":
                return False
            try:
                self._follow(window, command)
            except ValueError as error:
                self._hub.send(message({"type": "error", "text": str(error)[:300]}), to=window)
            self._is_changed = True
        return True

    def _seconds_free(self) -> float:
        """How long there is nothing to do but to wait for commands."""
        now = time.monotonic()
        until_shown = self._shown_at + 1 / _FRAMES_A_SECOND - now if self._is_changed else _LONG
        return min(until_shown, self._due - now if self._runs else _LONG)

    def _follow(self, window: str, command: Command) -> None:
        getattr(self, f"_do_{command['do']}")(window, **{key: item for key, item in command.items() if key != "do"})

    def _step(self) -> None:
        now = time.monotonic()
        self._session.step()
        after = self._session.now
        period = 0.0 if self._speed == 0 else 1 / (STEPS_A_SECOND * self._speed)
        if after.is_over and self._speed:
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
            self._recording.add(list(images_of(self._session.now).values())[: self._recorded])
            if self._recording.is_full:
                self._finish_recording()

    def _show(self) -> None:
        self._is_changed = False
        self._shown_at = time.monotonic()
        images = images_of(self._session.now)
        header = {"type": "frame", "labels": [*images], **self._described()}
        self._hub.send(message(header, [*images.values()]), is_frame=True)

    def _described(self) -> dict[str, Any]:
        session, now = self._session, self._session.now
        output = now.output
        return {
            "episode": now.episode.number,
            "level": now.episode.level,
            "set": session.scene.levels.set_of(now.episode.level),
            "length": now.length,
            "total": now.total,
            "reward": now.episode.rewards[now.length - 1] if now.length else 0.0,
            "action": now.episode.actions[now.length - 1] if now.length else None,
            "over": now.is_over,
            "probabilities": None if output is None else output.logits.softmax(-1)[0].tolist(),
            "values": None if output is None else output.values[0].tolist(),
            "player": session.played_by,
            "greedy": session.greedy,
            "owner": self._owner,
            "paused": session.is_paused,
            "speed": self._speed,
            "at": session.history.at,
            "known": len(session.history),
            "at_end": session.at_end,
            "recording": None if self._recording is None else self._recording.count,
            "rate": round(self._rate, 1),
            "windows": len(self._hub),
            "where": now.where,
            "horizon": session.horizon,
            "numbers": numbers_of(now),
        }

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

    def _do_hello(self, name: str, window: str) -> None:
        scene = self._session.scene
        levels = scene.levels
        about = {
            "type": "hello",
            "title": scene.title,
            "game": scene.game,
            "method": scene.method,
            "agent": scene.policy is not None,
            "actions": [{"name": action.name, "keys": action.keys} for action in scene.actions],
            "idle": self._session.idle,
            "training_levels": [levels.count, levels.first] if levels.are_told_apart else None,
            "steps_a_second": STEPS_A_SECOND,
            "world_model": scene.world_model is not None,
            "sliders": [] if scene.lens is None else list(scene.lens.sliders),
        }
        self._hub.send(message(about), to=name)
        self._do_trace(name)

    def _do_leave(self, name: str) -> None:
        if name == self._owner:  # it may connect again, and goes on where it was
            self._session.is_paused = True
            self._session.held = self._session.idle

    def _do_who(self, name: str, player: Any) -> None:
        self._session.hand_to(player)
        self._owner = name if player == "person" else ""

    def _do_greedy(self, name: str, value: bool) -> None:  # as the message says
        self._session.greedy = value

    def _do_hold(self, name: str, action: int) -> None:
        if action >= len(self._session.scene.actions):
            raise ValueError(f"action must be below {len(self._session.scene.actions)}, found {action}")
        if name == self._owner:
            self._session.held = action

    def _do_pause(self, name: str, value: bool) -> None:
        self._session.is_paused = value
        self._start_clock()

    def _do_step(self, name: str) -> None:
        self._session.is_paused = True
        self._session.step()
        self._changed_by_step()

    def _do_speed(self, name: str, value: int | float) -> None:
        self._speed = float(value)
        self._start_clock()

    def _do_restart(self, name: str) -> None:
        self._session.begin(self._session.now.episode.level)

    def _do_seek(self, name: str, at: int) -> None:
        self._session.is_paused = True
        self._session.history.seek(at)

    def _do_level(self, name: str, number: int) -> None:
        self._session.begin(number)

    def _do_beside(self, name: str, to: str) -> None:
        levels, level = self._session.scene.levels, self._session.now.episode.level
        self._session.begin(levels.beside(level, 1 if to == "next" else -1))

    def _do_set(self, name: str, levels: Any) -> None:
        self._session.begin(self._session.scene.levels.first_of(levels))

    def _do_at_end(self, name: str, value: Any) -> None:
        self._session.at_end = value

    def _do_replay(self, name: str, level: int, actions: str) -> None:
        self._session.replay(level, decoded_actions(actions))
        self._owner = ""
        self._session.is_paused = False
        self._start_clock()

    def _do_where(self, name: str, value: Any) -> None:
        self._session.go(value)

    def _do_horizon(self, name: str, value: int) -> None:
        self._session.horizon = value

    def _do_latent(self, name: str, dimension: int, value: str) -> None:
        lens = self._session.scene.lens
        if lens is None:
            raise ValueError(f"dimension must be one of an autoencoder's, which this method lacks, found {dimension}")
        lens.move(dimension, float(value))
        self._session.look_again()

    def _do_link(self, name: str) -> None:
        now = self._session.now
        if not now.episode.is_real:
            raise ValueError("a link is to be of the real game, found the world model")
        actions = encoded_actions(now.episode.actions[: now.length])
        self._hub.send(message({"type": "link", "level": now.episode.level, "actions": actions}), to=name)

    def _do_trace(self, name: str) -> None:
        episode = self._session.now.episode
        trace = {"number": episode.number, "rewards": episode.rewards, "values": episode.values}
        self._hub.send(message({"type": "trace", **trace}), to=name)

    def _do_record(self, name: str, value: bool) -> None:
        if not value:
            self._finish_recording()
        elif self._recording is None:
            path = new_path(self._folder, self._session.scene.game)
            self._recorded = len(images_of(self._session.now))  # all frames of a video have one size
            self._recording = Recording(path, frames_per_second=STEPS_A_SECOND)
            self._changed_by_step()

    def _start_clock(self) -> None:
        self._due, self._stepped_at = time.monotonic(), None


def images_of(now: Moment) -> dict[str, UInt8[NDArray[Any], "_ _ 3"]]:
    """The pictures of a moment by their names."""
    lens = {} if now.sight is None else now.sight.images
    if now.where != "both" or now.dream is None:
        return {"world model" if now.where == "model" else "game": now.frame, **lens}
    dream = now.dream.frame
    return {"game": now.frame, "world model": dream, "difference": difference(now.frame, dream), **lens}


def numbers_of(now: Moment) -> dict[str, int | float | str]:
    """What else is known of a moment, by names."""
    found: dict[str, int | float | str] = {} if now.sight is None else {**now.sight.numbers}
    if now.dream is not None:
        found |= {"Model’s step": now.dream.steps, "Model’s return": now.dream.total}
        if now.dream.distance is not None:
            found["Difference"] = now.dream.distance
            found["Parted at step"] = "not yet" if now.dream.parted is None else now.dream.parted
    return found


def _without_repeated_seeks(commands: list[tuple[str, Command]]) -> list[tuple[str, Command]]:
    """The commands, of which a slider's places on its way to the last one are left out."""
    kept = [one for one, after in pairwise(commands) if not one[1]["do"] == after[1]["do"] == "seek"]
    return kept + commands[-1:]
