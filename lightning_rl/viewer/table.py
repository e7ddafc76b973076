"""The games that are played at once, who plays them, and what the windows' commands do to them."""

from itertools import count
from math import isfinite, isqrt
from typing import Any

from lightning_rl.viewer.levels import checked_level
from lightning_rl.viewer.messages import Command, decoded_actions, encoded_actions
from lightning_rl.viewer.moments import Moment, Where
from lightning_rl.viewer.scene import STEPS_A_SECOND, Scene, Show
from lightning_rl.viewer.session import REMEMBERED, AtEnd, PlayedBy, Session


class Table:
    """One game or several side by side, of which one is chosen: it can be played by a person, rewound and kept.

    Several games share the memory of the last minute. Those of one scene are consecutive levels; several scenes take
    turns.

    Args:
        show: what can be played.
        level: to begin with; the first training level by default.
        horizon: see `Session`; its own by default.
        temperature: likewise.

    Attributes:
        sessions: the games.
        chosen: number of the chosen one.
        owner: name of the window whose person plays; empty while none does.
    """

    def __init__(
        self, show: Show, *, level: int | None = None, horizon: int | None = None, temperature: float | None = None
    ) -> None:
        self.show = show
        self._numbers = count()
        self.sessions = [Session(show.scenes[0], level=level, numbers=self._numbers)]
        self.chosen = 0
        self.owner = ""
        if horizon is not None:
            if horizon < 0:
                raise ValueError(f"horizon must be at least 0, found {horizon}")
            self.session.horizon = horizon
        if temperature is not None:
            self.session.temperature = temperature

    @property
    def session(self) -> Session:
        """The chosen game."""
        return self.sessions[self.chosen]

    @property
    def now(self) -> Moment:
        """What the chosen game shows."""
        return self.session.now

    @property
    def columns(self) -> int:
        """Games beside each other."""
        return isqrt(len(self.sessions) - 1) + 1

    @property
    def is_paused(self) -> bool:
        """Whether time stands still."""
        return any(session.is_paused for session in self.sessions)

    @is_paused.setter
    def is_paused(self, value: bool) -> None:
        """Lets time stand still, or go on, in every game."""
        for session in self.sessions:
            session.is_paused = value

    def step(self) -> None:
        """One step of every game."""
        for session in self.sessions:
            session.step()

    def close(self) -> None:
        """Ends the games."""
        for session in self.sessions:
            session.close()

    def leave(self, window: str) -> None:
        """Pauses where the window that plays is gone: it may connect again, and goes on where it was."""
        if window == self.owner:
            self.is_paused = True
            self.session.held = self.session.idle

    def follow(self, window: str, command: Command) -> dict[str, Any] | None:
        """Does what a window asks for.

        Returns:
            What that window is to be told, if anything.

        Raises:
            ValueError: it cannot be done; says why in one line.
        """
        options = {key: item for key, item in command.items() if key != "do"}
        answer: dict[str, Any] | None = getattr(self, f"_do_{command['do']}")(window, **options)
        return answer

    def _do_hello(self, name: str, window: str) -> dict[str, Any]:
        scene, levels, episodes = self.session.scene, self.session.scene.levels, self.show.episodes
        return {
            "type": "hello",
            "title": self.show.title,
            "games": [one.game for one in self.show.scenes],
            "method": scene.method,
            "agent": scene.policy is not None,
            "actions": [{"name": action.name, "keys": action.keys} for action in scene.actions],
            "idle": self.session.idle,
            "training_levels": [levels.count, levels.first] if levels.are_told_apart else None,
            "steps_a_second": STEPS_A_SECOND,
            "world_model": scene.world_model is not None,
            "real_frames": scene.real_frames is not None,
            "sliders": [] if scene.lens is None else list(scene.lens.sliders),
            "episodes": 0 if episodes is None else len(episodes.rows),
        }

    def _do_who(self, name: str, player: PlayedBy) -> None:
        for session in self.sessions if player != "person" else [self.session]:
            session.hand_to(player)
        self.owner = name if player == "person" else ""

    def _do_greedy(self, name: str, value: bool) -> None:  # as the message says
        for session in self.sessions:
            session.greedy = value

    def _do_hold(self, name: str, action: int) -> None:
        if action >= len(self.session.scene.actions):
            raise ValueError(f"action must be below {len(self.session.scene.actions)}, found {action}")
        if name == self.owner:
            self.session.held = action

    def _do_restart(self, name: str) -> None:
        for session in self.sessions:
            session.again()

    def _do_seek(self, name: str, at: int) -> None:
        self.is_paused = True
        self.session.history.seek(at)

    def _do_level(self, name: str, number: int) -> None:
        self._lay_out(number)

    def _do_beside(self, name: str, to: str) -> None:
        levels, first = self.session.scene.levels, self.sessions[0]
        level, stride = first.now.episode.level, first.stride
        self._lay_out(levels.first_of("training") if level is None else levels.beside(level, _SIGNS[to] * stride))

    def _do_set(self, name: str, levels: Any) -> None:
        self._lay_out(self.session.scene.levels.first_of(levels))

    def _lay_out(self, level: int) -> None:
        """Begins a level, and the ones after it in the other games."""
        for number, session in enumerate(self.sessions):
            ahead = number // len(self._scenes_shown)
            session.begin(session.scene.levels.beside(level, ahead) if ahead else level)

    @property
    def _scenes_shown(self) -> set[str]:
        return {session.scene.game for session in self.sessions}

    def _do_at_end(self, name: str, value: AtEnd) -> None:
        for session in self.sessions:
            session.at_end = value

    def _do_game(self, name: str, value: str) -> None:
        self._show_one(value)

    def _do_grid(self, name: str, number: int) -> None:
        """Shows so many games: the chosen one, and others beside it."""
        first, scenes = self.session, self.show.scenes
        if first.now.where != "game":
            first.go("game")
        own, level, others = scenes.index(first.scene), first.now.episode.level, []
        for place in range(1, number):
            scene, ahead = scenes[(own + place) % len(scenes)], place // len(scenes)
            start = scene.levels.first_of("training") if level is None else level
            others.append(self._like(first, scene, scene.levels.beside(start, ahead) if ahead else start))
        self._keep_only(first)
        first.history.forget_later()  # or the moment that is shown would be another one in a smaller memory
        self.sessions += others
        for session in self.sessions:
            session.stride = -(-number // len(scenes))
            session.history.limit(max(REMEMBERED // number, 2))

    def _do_choose(self, name: str, number: int) -> None:
        if number >= len(self.sessions):
            raise ValueError(f"number must be below {len(self.sessions)}, found {number}")
        before = self.session
        self.chosen = number
        if before.played_by == "person" and before is not self.session:
            before.hand_to("random" if before.scene.policy is None else "agent")
            self.session.hand_to("person")

    def _keep_only(self, kept: Session) -> None:
        for session in self.sessions:
            if session is not kept:
                session.close()
        self.sessions, self.chosen = [kept], 0
        kept.stride = 1
        kept.history.limit(REMEMBERED)

    def _show_one(self, game: str) -> Session:
        """One game alone: the chosen session where it is of this game, else another one, which nobody plays."""
        before, scene = self.session, self.show.scene_of(game)
        if before.scene is not scene:
            of_game = [session for session in self.sessions if session.scene is scene]
            kept = of_game[0] if of_game else self._like(before, scene, before.now.episode.level)
            self.sessions.append(kept)
            self.chosen, self.owner = self.sessions.index(kept), ""
        self._keep_only(self.session)
        return self.session

    def _like(self, other: Session, scene: Scene, level: int | None) -> Session:
        """Another session with the same settings, which the agent plays, or chance."""
        made = Session(scene, level=level, numbers=self._numbers)
        if other.played_by == "random":
            made.hand_to("random")
        for name in ("greedy", "at_end", "is_paused", "horizon"):
            setattr(made, name, getattr(other, name))
        return made

    def _do_episodes(self, name: str) -> dict[str, Any]:
        rows = [] if self.show.episodes is None else self.show.episodes.rows
        return {
            "type": "episodes",
            "rows": [
                [*row[:4], row.episode_return if isfinite(row.episode_return) else None, row.length] for row in rows
            ],
        }

    def _do_episode(self, name: str, number: int) -> None:
        self._replay_recorded(number, None)

    def _do_replay_episode(self, name: str, number: int, actions: str) -> None:
        self._replay_recorded(number, decoded_actions(actions))

    def _replay_recorded(self, number: int, actions: list[int] | None) -> None:
        if self.show.episodes is None:
            raise ValueError(f"number must be of an episode of test, of which there are none here, found {number}")
        recorded = self.show.episodes.read(number)
        self.show.scene_of(recorded.game).check_actions(recorded.actions if actions is None else actions)
        self._show_one(recorded.game).replay_recorded(recorded, actions)
        self._go_on()

    def _do_replay(self, name: str, game: str, level: int, actions: str) -> None:
        found = decoded_actions(actions)
        self.show.scene_of(game).check_actions(found)  # before other games are closed for it
        checked_level(level)
        self._show_one(game).replay(level, found)
        self._go_on()

    def _go_on(self) -> None:
        self.owner = ""
        self.is_paused = False

    def _do_where(self, name: str, value: Where) -> None:
        self._keep_only(self.session)
        self.session.go(value)

    def _do_real_frame(self, name: str) -> None:
        self._keep_only(self.session)
        self.session.dream_of_replay()

    def _do_horizon(self, name: str, value: int) -> None:
        for session in self.sessions:
            session.horizon = value

    def _do_temperature(self, name: str, value: str) -> None:
        self.session.temperature = float(value) if value else None

    def _do_latent(self, name: str, dimension: int, value: str) -> None:
        lens = self.session.scene.lens
        if lens is None:
            raise ValueError(f"dimension must be one of an autoencoder's, which this method lacks, found {dimension}")
        lens.move(dimension, float(value))
        self.session.look_again()

    def _do_link(self, name: str) -> dict[str, Any]:
        episode, length = self.now.episode, self.now.length
        if not episode.is_real:
            raise ValueError("a link is to be of the real game, found the world model")
        begun = {"level": episode.level} if episode.recorded is None else {"episode": episode.recorded.number}
        actions = encoded_actions(episode.actions[:length])
        return {"type": "link", "game": self.session.scene.game, **begun, "actions": actions}

    def _do_trace(self, name: str) -> dict[str, Any]:
        episode = self.now.episode
        return {"type": "trace", "number": episode.number, "rewards": episode.rewards, "values": episode.values}


_SIGNS = {"next": 1, "previous": -1}
