"""What of a run's config is its setting, how a group of runs is called, and which command repeats it."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Setting = dict[str, str]

# the trainer's options that change what is learned; of the others, the machine or a person's habits decide
_TRAINER = ("accumulate_grad_batches", "callbacks", "devices", "num_nodes")
_WATCHING = (  # Lightning's callbacks that change nothing
    "DeviceStatsMonitor",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "RichModelSummary",
    "RichProgressBar",
    "ThroughputMonitor",
    "TQDMProgressBar",
    "Timer",
)
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
_MACHINE = ("captured_acting", "micro_batches", "num_threads", "halves", "num_halves", "parts")
_USUAL = {"trainer.devices": ('"auto"', "1"), "trainer.num_nodes": ("1",), "trainer.callbacks": ("[]",)}
_OTHERS = ("model.teacher", "model.teachers", "policy_from")  # paths to other runs
_MAX_NAMED = 5


def setting(config: Mapping[str, Any]) -> Setting:
    """The options that set a group apart, each with its value as JSON.

    Left out are seed, game, logger, options of judging, and what the machine decided: precision, device, threads,
    parts of a batch. Of a path, only that there is one counts, but for those to other runs, which
    `path_forms` makes comparable. A game counts where a run learns several.

    Args:
        config: the content of a run's config.yaml.
    """
    found = {key: value for key, value in _flat(config) if _counts(key) and value is not None}
    games = game_names(config)
    named = {key: json.dumps(_comparable(key, value), sort_keys=True, default=str) for key, value in found.items()}
    kept = {key: value for key, value in named.items() if value not in _USUAL.get(key, ())}
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
    met: Counter[str] = Counter()
    names: list[str] = []
    for method, own in zip(methods, settings, strict=True):
        peers = [other for name, other in zip(methods, settings, strict=True) if name == method]
        name = ", ".join([method, *_differing(own, peers)])
        met[name] += 1
        names.append(name if met[name] == 1 else f"{name} #{met[name]}")
    return names


def _differing(own: Setting, peers: Sequence[Setting]) -> list[str]:
    """The options in which a group differs from its peers, with its values; of many, few that tell it from all."""
    keys = sorted({key for peer in peers for key in peer})
    differing = [
        key for key in keys if len({peer.get(key) for peer in peers}) > 1 and not _is_of_another_class(key, own, peers)
    ]
    named = differing if len(differing) <= _MAX_NAMED else _telling(differing, own, peers)
    said = [f"{_called(key)}{_plain(own[key])}" for key in named if key in own]
    more = sum(key in own and key not in named for key in differing)
    return [*said, f"and {more} more"] if more else said


def _is_of_another_class(key: str, own: Setting, peers: Sequence[Setting]) -> bool:
    """Whether an option is one that only another class of games or model has, so that naming the class is enough."""
    part = f"{key.partition('.')[0]}.class_path"
    others = [peer for peer in peers if peer.get(part) != own.get(part)]
    alike = [peer for peer in peers if peer.get(part) == own.get(part)]
    return key != part and len({peer.get(key) for peer in alike}) == 1 and not any(key in peer for peer in others)


def _telling(keys: Sequence[str], own: Setting, peers: Sequence[Setting]) -> list[str]:
    """Few options that tell a group from all its peers: again and again the one that tells most of them apart."""
    chosen: list[str] = []
    alike = [peer for peer in peers if peer != own]
    while alike:
        key = min(keys, key=lambda key: sum(peer.get(key) == own.get(key) for peer in alike))
        left = [peer for peer in alike if peer.get(key) == own.get(key)]
        if len(left) == len(alike):
            break
        chosen, alike = [*chosen, key], left
    return chosen


def _called(key: str) -> str:
    """An option's name before its value; a class says itself what it is of."""
    return "" if key.endswith("class_path") else f"{key.rpartition('.')[2]} "


def _plain(value: str) -> str:
    text = str(json.loads(value)) if value.startswith('"') else value
    return text.removesuffix("DataModule") or text


def leads_to_a_run(key: str) -> bool:
    """Whether an option is a path to another run, such as a teacher's."""
    return key in _OTHERS or key.startswith("model.teachers.")


def path_forms(value: str, games: Sequence[str], seed: int) -> list[str]:
    """A path of a setting as it is, and with the run's own game and seed as `{game}` and `{seed}`.

    Args:
        value: the path as JSON.
        games: the games that the run learns; only a single one is a part of a path.
        seed: the run's.
    """
    forms = [value]
    if len(games) == 1:
        forms.append(_replaced(value, games[0], "{game}"))
    return list(dict.fromkeys([*forms, *(_replaced(form, str(seed), "{seed}") for form in forms)]))


def _replaced(path: str, word: str, placeholder: str) -> str:
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", placeholder, path)


def command(
    config: Path,
    seeds: Mapping[str, Sequence[int]],
    *,
    run_dir: str,
    together: bool,
    setting: Mapping[str, str] | None = None,
) -> str:
    """The shell commands that repeat a group: each game, each seed, and the test.

    Args:
        config: config.yaml of one of its runs.
        seeds: the seeds of each game.
        run_dir: folder for the runs.
        together: whether the games are learned by one agent, as the config says.
        setting: the group's, of which the paths with a placeholder are given: they are not those of the config.
    """
    run_dir = shlex.quote(run_dir)
    paths = {key: json.loads(value) for key, value in (setting or {}).items() if leads_to_a_run(key)}
    given = "".join(
        f"{shlex.quote(f'--{key}')} {_in_shell(path)} "
        for key, path in paths.items()
        if "{game}" in path or "{seed}" in path
    )
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for game, numbers in seeds.items():
        by_seeds.setdefault(tuple(numbers), []).append(game)
    return "\n".join(
        _loop(config, [] if together else games, numbers, run_dir=run_dir, given=given)
        for numbers, games in by_seeds.items()
    )


def _in_shell(path: str) -> str:
    """A path with placeholders, within double quotes."""
    return '"' + re.sub(r'(["\\`$])', r"\\\1", path).replace("{game}", "$game").replace("{seed}", "$seed") + '"'


def _loop(config: Path, games: Sequence[str], seeds: Sequence[int], *, run_dir: str, given: str) -> str:
    folder = run_dir + ("/$game" if games else "") + "/seed_$seed"
    game = "--data.game $game " if games else ""
    options = f"{game}{given}--seed_everything $seed --run_dir {folder}"
    fit = f"lightning-rl fit --config {shlex.quote(str(config))} {options}"
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
    """A value without what may differ within a group: this package's module of a class, devices, the way to a file."""
    if key == "trainer.devices":
        return _num_devices(value)
    if key == "trainer.callbacks" and isinstance(value, list):
        value = [item for item in value if _class_of(item) not in _WATCHING]
    if isinstance(value, list):
        return [_comparable(key, item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _comparable(f"{key}.{name}", inner) for name, inner in value.items()}
    if not isinstance(value, str):
        return value
    if key.endswith("class_path"):
        return value.rpartition(".")[2] if value.startswith("lightning_rl.") else value
    return "given" if "/" in value and not leads_to_a_run(key) else value


def _class_of(callback: object) -> str:
    """Name of Lightning's class of a callback; empty for one of others."""
    path = str(callback.get("class_path")) if isinstance(callback, Mapping) else ""
    return path.rpartition(".")[2] if path.startswith(("lightning.pytorch.", "pytorch_lightning.")) else ""


def _num_devices(value: Any) -> Any:
    """How many devices: which ones, as in `[0, 1]` or `"0,1"`, changes nothing."""
    if isinstance(value, list):
        return len(value)
    if isinstance(value, str) and "," in value:
        return len([part for part in value.split(",") if part.strip()])
    return int(value) if isinstance(value, str) and value.isdigit() else value
