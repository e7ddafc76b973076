"""What the page is told of a moment: pictures, numbers, and how they are called."""

from math import isclose
from typing import Any

from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.viewer.dream import difference
from lightning_rl.viewer.moments import Moment
from lightning_rl.viewer.session import Session
from lightning_rl.viewer.table import Table

Image = UInt8[NDArray[Any], "_ _ 3"]


def described(table: Table) -> dict[str, Any]:
    """All that is known of the chosen game, and what it takes to tell several apart."""
    session, now = table.session, table.now
    output = now.output
    return {
        "game": session.scene.game,
        "episode": now.episode.number,
        "level": now.episode.level,
        "set": None if now.episode.level is None else session.scene.levels.set_of(now.episode.level),
        "length": now.length,
        "total": now.total,
        "reward": now.episode.rewards[now.length - 1] if now.length else 0.0,
        "action": now.episode.actions[now.length - 1] if now.length else None,
        "over": now.is_over,
        "probabilities": None if output is None else output.logits.softmax(-1)[0].tolist(),
        "values": None if output is None else output.values[0].tolist(),
        "player": session.played_by,
        "greedy": session.greedy,
        "owner": table.owner,
        "paused": table.is_paused,
        "at": session.history.at,
        "known": len(session.history),
        "at_end": session.at_end,
        "where": now.where,
        "horizon": session.horizon,
        "temperature": session.temperature,
        "numbers": numbers_of(now),
        "recorded": None if now.episode.recorded is None else now.episode.recorded.number,
        "outcome": outcome_of(now),
        "count": len(table.sessions),
        "columns": table.columns,
        "chosen": table.chosen,
    }


def pictures_of(table: Table) -> dict[str, Image]:
    """What is shown, by name: the games side by side, or all pictures of the only one."""
    if len(table.sessions) == 1:
        return images_of(table.now)
    return {f"{place + 1}: {_named(table, session)}": session.now.frame for place, session in enumerate(table.sessions)}


def _named(table: Table, session: Session) -> str:
    game = f"{session.scene.game}, " if len(table.show.scenes) > 1 else ""
    over = " (over)" if session.now.is_over else ""
    return f"{game}level {session.now.episode.level}, return {session.now.total:g}{over}"


def images_of(now: Moment) -> dict[str, Image]:
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
        if now.dream.is_of_replay:
            found["Began at"] = "a real frame"
        if now.dream.distance is not None:
            found["Difference"] = now.dream.distance
            found["Parted at step"] = "not yet" if now.dream.parted is None else now.dream.parted
    return found


def outcome_of(now: Moment) -> str | None:
    """Whether a recorded episode came out as it was recorded; None before its end, or where another one plays it."""
    recorded = now.episode.recorded
    if recorded is None or (now.length < len(recorded.actions) and not now.is_over):
        return None
    if now.episode.actions[: now.length] != list(recorded.actions)[: now.length]:
        return None
    if (
        now.is_over
        and now.length == len(recorded.actions)
        and isclose(now.total, recorded.episode_return, abs_tol=1e-6)
    ):
        return "As it was recorded"
    return (
        f"Another episode was recorded, of return {recorded.episode_return:g} in {len(recorded.actions)} steps:"
        " the games have changed"
    )
