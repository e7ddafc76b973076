"""Exchanges saved games between the two bindings of Procgen, which are for different Pythons.

    python3.12 -m tests.exchange_games save FOLDER     plays every game, and saves it in mid-episode with what follows
    python3.13 -m tests.exchange_games compare FOLDER  continues the saved games, and says what of it is different

Exits with 1 where rewards, ends, levels or saved states differ, or more pixels than another version of Qt explains.
"""

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_rl.envs.procgen import ProcgenVectorEnv, installed_binding
from lightning_rl.envs.procgen_games import GAMES

NUM_ENVS, STEPS_BEFORE, STEPS_AFTER = 3, 100, 300
MAX_PIXELS = 0.001
"""Share of the pixels that may differ."""

Arrays = dict[str, NDArray[Any]]


def actions(num_steps: int, seed: int) -> NDArray[np.int64]:
    """The same in every process."""
    return np.random.default_rng(seed).integers(15, size=(num_steps, NUM_ENVS))


def state_arrays(state: dict[str, Any], name: str) -> Arrays:
    """The bytes of each game, and their checksums."""
    return {f"{name}{index}": game.numpy() for index, game in enumerate(state["games"])}


def continued(env: ProcgenVectorEnv, first: NDArray[np.uint8]) -> Arrays:
    """What follows: frames, rewards, ends, levels, and the games at the end of it."""
    frames, steps = [first], []
    for chosen in actions(STEPS_AFTER, 1):
        obs, rewards, terminated, _, info = env.step(chosen)
        frames.append(obs)
        steps.append((rewards, terminated, info["level_seed"], info["level_complete"]))
    names = ("rewards", "terminated", "level_seed", "level_complete")
    found = {name: np.stack(column) for name, column in zip(names, zip(*steps, strict=True), strict=True)}
    return found | state_arrays(env.get_state(), "after") | {"frames": np.stack(frames)}


def build(game: str, mode: str, seed: int) -> ProcgenVectorEnv:
    """A few games on the training levels."""
    return ProcgenVectorEnv(game, num_envs=NUM_ENVS, distribution_mode=mode, num_levels=200, seed=seed, num_threads=0)


def save(folder: Path, games: tuple[str, ...] = GAMES) -> None:
    """Plays and saves every game, easy and hard."""
    folder.mkdir(parents=True, exist_ok=True)
    for game in games:
        for mode in ("easy", "hard"):
            env = build(game, mode, seed=3)
            for chosen in actions(STEPS_BEFORE, 0):
                obs = env.step(chosen)[0]
            saved = state_arrays(env.get_state(), "before")
            np.savez_compressed(folder / f"{game}-{mode}.npz", **saved, **continued(env, obs))
            env.close()


def compare(folder: Path) -> Iterator[tuple[str, list[str], float]]:
    """Each game's name, what is different in it, and the share of differing pixels."""
    for path in sorted(folder.glob("*.npz")):
        expected = np.load(path)
        game, mode = path.stem.split("-")
        env = build(game, mode, seed=99)
        state = env.get_state()
        for index in range(NUM_ENVS):
            state["games"][index] = torch.from_numpy(expected[f"before{index}"])
        state["crc32"] = [zlib.crc32(expected[f"before{index}"].tobytes()) for index in range(NUM_ENVS)]
        found = continued(env, env.set_state(state))
        env.close()
        pixels = float((found.pop("frames") != expected["frames"]).any(axis=-1).mean())
        yield path.stem, [name for name, value in found.items() if not np.array_equal(value, expected[name])], pixels


def main(command: str, folder: Path) -> int:
    """Saves or compares; the exit status."""
    if command == "save":
        save(folder)
        sys.stdout.write(f"{installed_binding()}: saved {len(list(folder.glob('*.npz')))} in {folder}\n")
        return 0
    bad = total = drawn = 0
    for name, differing, pixels in compare(folder):
        total, bad, drawn = total + 1, bad + bool(differing or pixels > MAX_PIXELS), drawn + bool(pixels)
        sys.stdout.write(f"{name:<18} {', '.join(differing) or 'equal'}, {100 * pixels:.4f} % of the pixels differ\n")
    sys.stdout.write(f"{installed_binding()}: {total - bad} of {total} go on alike, {drawn} drawn differently\n")
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
