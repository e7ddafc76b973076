"""What of a run's config is its setting, how a group of runs is called, and which command repeats it."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Setting = dict[str, str]

# the trainer's options that change what is learned; of the others, the machine or a person's habits decide
_TRAINER = ("accumulate_grad_batches", "callbacks", "devices", "max_epochs", "min_epochs", "num_nodes")
_NO_SETTING = {
    "allow_inexact_resume",
    "ckpt_path",
    "config",
    "data.actor_timeout",
    "data.game",
    "data.seed",
    "run_dir",
    "seed_everything",
    "test_at_end",
    "verbose",
    "weights_only",
}
_JUDGING = ("data.predict_episodes", "data.test_env_steps", "data.test_episodes", "data.validation_episodes")
_MACHINE = ("micro_batches", "num_threads", "halves", "num_halves", "parts")
_ONE_PROCESS = {"trainer.devices": ('"auto"', "1"), "trainer.num_nodes": ("1",)}
_MAX_NAMED = 5


def setting(config: Mapping[str, Any]) -> Setting:
    """The options that set a group apart, each with its value as JSON.

    Left out are seed, game, paths, logger, options of judging, and what the machine decided: precision, device,
    threads, parts of a batch. Of a path, only that there is one counts. A game counts where a run learns several.

    Args:
        config: the content of a run's config.yaml.
    """
    found = {key: value for key, value in _flat(config) if _counts(key) and value is not None}
    games = game_names(config)
    named = {key: json.dumps(_comparable(key, value), sort_keys=True, default=str) for key, value in found.items()}
    kept = {key: value for key, value in named.items() if value not in _ONE_PROCESS.get(key, ())}
    return kept | ({"data.game": json.dumps("+".join(games))} if len(games) > 1 else {})


def game_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The games that a run learns, as its config calls them."""
    game = options(config["data"]).get("game")
    return tuple(map(str, game)) if isinstance(game, list) else (str(game),)


def method_name(config: Mapping[str, Any]) -> str:
    """The method's name by its class, for runs that no `test` has named: `ppo_distill` for `PPODistillModule`."""
    name = class_name(config["model"]).removesuffix("Module")
    if name == "ImpalaVAE":  # whose name follows an option
        return "impala_vae" if options(config["model"]).get("surprise") is None else "impala_vae_sm"
    starts = [k for k in range(1, len(name)) if name[k].isupper() and name[k + 1 : k + 2].islower()]
    words = [name[start:end] for start, end in zip([0, *starts], [*starts, len(name)], strict=True)]
    return "simple" if name == "SimPLe" else "_".join(words).lower()


def options(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the model or the data; none where the class's own are meant."""
    found: Mapping[str, Any] = part.get("init_args") or {}
    return found


def class_name(part: Mapping[str, Any]) -> str:
    """The class of the model or the data, without its module."""
    return str(part["class_path"]).rpartition(".")[2]


def group_names(methods: Sequence[str], settings: Sequence[Setting]) -> list[str]:
    """A name for each group: its method, and the options in which groups of that method differ.

    Args:
        methods: each group's method.
        settings: each group's setting, in the same order.
    """
    names: list[str] = []
    for method, own in zip(methods, settings, strict=True):
        peers = [other for name, other in zip(methods, settings, strict=True) if name == method]
        name = ", ".join([method, *_differing(own, peers)])
        names.append(name if name not in names else f"{name} #{names.count(name) + 1}")
    return names


def _differing(own: Setting, peers: Sequence[Setting]) -> list[str]:
    keys = sorted({key for peer in peers for key in peer})
    differing = [key for key in keys if len({peer.get(key) for peer in peers}) > 1]
    said = [f"{key.rpartition('.')[2]} {_plain(own[key])}" for key in differing if key in own]
    more = len(said) - _MAX_NAMED
    return said if more <= 0 else [*said[:_MAX_NAMED], f"and {more} more"]


def _plain(value: str) -> str:
    return str(json.loads(value)) if value.startswith('"') else value


def command(config: Path, seeds: Mapping[str, Sequence[int]], *, run_dir: str, together: bool) -> str:
    """The shell commands that repeat a group: each game, each seed, and the test.

    Args:
        config: config.yaml of one of its runs.
        seeds: the seeds of each game.
        run_dir: folder for the runs.
        together: whether the games are learned by one agent, as the config says.
    """
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for game, numbers in seeds.items():
        by_seeds.setdefault(tuple(numbers), []).append(game)
    return "\n".join(
        _loop(config, [] if together else games, numbers, run_dir=run_dir) for numbers, games in by_seeds.items()
    )


def _loop(config: Path, games: Sequence[str], seeds: Sequence[int], *, run_dir: str) -> str:
    folder = shlex.quote(run_dir) + ("/$game" if games else "") + "/seed_$seed"
    game = "--data.game $game " if games else ""
    fit = f"lightning-rl fit --config {shlex.quote(str(config))} {game}--seed_everything $seed --run_dir {folder}"
    test = f"lightning-rl test --ckpt_path {folder}/last.ckpt"
    loop = f"for seed in {' '.join(map(str, seeds))}; do {fit} && {test}; done"
    return loop if not games else f"for game in {' '.join(map(shlex.quote, games))}; do {loop}; done"


def _flat(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options by name, as the command line's short form has them: without `init_args`."""
    if not isinstance(config, Mapping) or not config:
        yield prefix.rstrip("."), config
        return
    for name, inner in config.items():
        yield from _flat(inner, prefix if name == "init_args" else f"{prefix}{name}.")


def _counts(key: str) -> bool:
    if key.startswith("trainer."):
        return key.split(".")[1] in _TRAINER
    return key not in _NO_SETTING and key not in _JUDGING and not any(part in _MACHINE for part in key.split("."))


def _comparable(key: str, value: Any) -> Any:
    """A value without what may differ within a group: the module of a class, the way to a file."""
    if isinstance(value, list):
        return [_comparable(key, item) for item in value]
    if not isinstance(value, str):
        return value
    if key.endswith("class_path"):
        return value.rpartition(".")[2]
    return "given" if "/" in value else value
