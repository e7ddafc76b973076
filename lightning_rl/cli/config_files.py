"""Config files of the command line: which are given, whether they are safe to parse, and what they name."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lightning_rl.cli.registry import CLASSES, class_paths
from lightning_rl.errors import UsageError
from lightning_rl.policies.folder import WEIGHTS
from lightning_rl.runs.checkpoint_files import LAST, PREVIOUS
from lightning_rl.runs.paths import users_path

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_CONFIG_BYTES, _MAX_CONFIG_VALUES, _MAX_CONFIG_DEPTH = 1_000_000, 20_000, 50


def check_numbers(value: Any, key: str = "") -> None:
    """Refuses NaN in a config, and infinity except for upper bounds (`max_…`).

    Raises:
        UsageError: names the key.
    """
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, item in inner:
        check_numbers(item, f"{key}.{name}".lstrip(".").removesuffix(".init_args"))
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value) or not key.rpartition(".")[2].startswith("max_"):
            raise UsageError(f"{key} must be finite, found {value}")
    elif isinstance(value, int) and abs(value) >= 2**63:
        digits = len(hex(abs(value))) - 2
        raise UsageError(f"{key} must be below 2⁶³ in size, found a number of {digits} hexadecimal digits")


def check_configs(args: list[str]) -> None:
    """Refuses config files that the parser would choke on: pipes, huge files, deep nesting, aliases of aliases.

    Raises:
        UsageError: names the file and what is wrong.
    """
    for path in config_paths(args):
        try:
            if path.exists() and not path.is_dir():
                _check_config(path)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UsageError(f"config: {path} is not a config: {error}") from error


def _check_config(path: Path) -> None:
    if not path.is_file() or path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"it must be a file of at most {_MAX_CONFIG_BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    _check_nesting(text)
    _check_keys(yaml.compose(text, Loader=_Loader))


def _check_nesting(text: str) -> None:
    """Counts values as they are once every alias is replaced by what it stands for, without a call per level."""
    sizes: dict[str | None, int] = {}
    counts: list[int] = [0]
    anchors: list[str | None] = [None]
    for event in yaml.parse(text, Loader=_Loader):
        match event:
            case yaml.CollectionStartEvent():
                counts.append(1)
                anchors.append(event.anchor)
            case yaml.CollectionEndEvent():
                sizes[anchors.pop()] = size = counts.pop()
                counts[-1] += size
            case yaml.AliasEvent():
                counts[-1] += _MAX_CONFIG_VALUES if event.anchor in anchors else sizes.get(event.anchor, 1)
            case yaml.ScalarEvent():
                counts[-1] += 1
        if len(counts) > _MAX_CONFIG_DEPTH or counts[-1] > _MAX_CONFIG_VALUES:
            raise ValueError(f"more than {_MAX_CONFIG_VALUES} values, or nested more than {_MAX_CONFIG_DEPTH} deep")


def _check_keys(node: yaml.Node | None) -> None:
    """Refuses a key that stands twice in one group: YAML forbids it, but the parser would take the last."""
    lines: dict[str, int] = {}
    for item in [] if node is None or isinstance(node, yaml.ScalarNode) else node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if lines.setdefault(key.value, line) != line:
                raise ValueError(f"{key.value} is given twice, in lines {lines[key.value]} and {line}")
        _check_keys(value)


def check_order(args: list[str]) -> None:
    """Refuses an option that a later config would replace, or judge as an option of another class.

    Raises:
        UsageError: names both.
    """
    given: list[str] = []
    for arg, following in pairwise([*args, ""]):
        name, _, value = arg.partition("=")
        if name in ("--config", "-c"):
            path = value or following
            kept = set(_keys(read_config(Path(os.path.expanduser(path)))))
            for option in given:
                if any(f"{option}.".startswith(f"{key}.") or f"{key}.".startswith(f"{option}.") for key in kept):
                    raise UsageError(
                        f"{option} is given before --config {path}, which would replace it; --config comes first"
                    )
        elif name.startswith("--"):
            given.append(name.removeprefix("--").removesuffix("+").replace(".init_args", ""))


def read_config(path: Path) -> Any:
    """What a config holds; None where it cannot be read."""
    with suppress(OSError, ValueError, yaml.YAMLError):  # what is wrong the parser will tell
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    return None


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """What a config sets, without `init_args`; a group that is empty or names a class is set as a whole."""
    if not isinstance(config, dict) or not config or "class_path" in config:
        yield prefix
        return
    for name, inner in config.items():
        yield from _keys(inner, prefix if name == "init_args" else f"{prefix}.{name}".lstrip("."))


def asked_data_class(args: list[str], *, default: str | None = None) -> str:
    """Class path of the data module that the command line, or else the last config, names; by default Procgen's.

    The parser must start from this class's defaults, because it would keep those of another class for equal names.

    Args:
        args: the command line without the program's name.
        default: another default.
    """
    named = ["ProcgenDataModule", default or ""]
    for path in config_paths(args):
        with suppress(OSError, ValueError, yaml.YAMLError, TypeError, KeyError):  # what is wrong the parser will tell
            named.append(yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["class_path"])
    named += values(args, "--data", "--data.class_path")
    known = {name: class_paths(c)[0] for c in CLASSES["data"]() for name in (c.__name__, *class_paths(c))}
    return [known[str(name)] for name in named if str(name) in known][-1]


def positions(args: list[str], *names: str) -> list[tuple[int, str]]:
    """Where the values of an option stand, as `--name value` or `--name=value`, and which they are."""
    found = []
    for index, (arg, following) in enumerate(pairwise([*args, ""])):
        name, sign, value = arg.partition("=")
        if name in names and (sign or index + 1 < len(args)):
            found.append((index, value) if sign else (index + 1, following))
    return found


def values(args: list[str], *names: str) -> list[str]:
    """Values given to an option, as `--name value` or `--name=value`."""
    pairs = [(*arg.split("=", 1), following)[:2] for arg, following in pairwise([*args, ""])]
    return [value for name, value in pairs if name in names]


def config_paths(args: list[str]) -> list[Path]:
    """The config files of a command line."""
    return [Path(os.path.expanduser(name)) for name in values(args, "--config", "-c")]


def with_run_config(args: list[str]) -> list[str]:
    """Adds the run's own config.yaml if a checkpoint is named and no config is given."""
    named = values(args, "--ckpt_path")
    if not named or not named[-1] or values(args, "--config", "-c", "--model", "--model.class_path"):
        return args
    run_dirs = values(args, "--run_dir")
    given = users_path("run_dir", run_dirs[-1] if run_dirs else None)
    run_dir, checkpoint = Path(given or ""), Path(os.path.expanduser(named[-1]))
    folder = run_dir if named[-1] in ("last", "best") else checkpoint if checkpoint.is_dir() else checkpoint.parent
    config = folder / "config.yaml"
    if named[-1] in ("last", "best"):
        _check_run(named[-1], run_dir, is_given=given is not None)
    elif "://" not in named[-1] and not config.is_file():
        _check_there(checkpoint)
    return [args[0], "--config", str(config), *args[1:]] if config.is_file() else args


def _check_run(named: str, run_dir: Path, *, is_given: bool) -> None:
    """Refuses a run folder without a config, likewise."""
    if not is_given:
        raise UsageError(f"ckpt_path: {named} needs --run_dir, the folder to continue from")
    if not (run_dir / "config.yaml").is_file():
        what = "holds no config.yaml" if run_dir.is_dir() else "is not there"
        raise UsageError(f"run_dir: {run_dir} {what}; give another folder, or --config FILE for a new run")


def _check_there(checkpoint: Path) -> None:
    """Refuses a path to nothing here, where the parser would miss a config."""
    if not checkpoint.exists():
        raise UsageError(f"ckpt_path: {checkpoint} is not there")
    if checkpoint.is_dir() and not any((checkpoint / name).exists() for name in (LAST, PREVIOUS, WEIGHTS)):
        raise UsageError(f"ckpt_path: {checkpoint} holds no {LAST}, and is no exported policy")


_SPLIT = {"PPODistillModule": ("distillation", "PPOModule"), "ImpalaVAEModule": ("vae", "ImpalaModule")}
"""Classes that once served two methods: the option whose null meant the plain method, and that method's class."""


def with_todays_classes(args: list[str]) -> list[str]:
    """Replaces configs of older runs, which name a plain method by a null option, by their text with today's class."""
    given = list(args)
    for index, path in positions(args, "--config", "-c"):
        with suppress(OSError, ValueError, yaml.YAMLError, TypeError, KeyError):  # what is wrong the parser will tell
            if (text := _with_todays_class(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))) is not None:
                given[index] = given[index].removesuffix(path) + text
    return given


def _with_todays_class(text: str) -> str | None:
    """The config with the class of the plain method; None if it needs no change."""
    config = yaml.safe_load(text)
    model = config["model"]
    option, plain = _SPLIT[model["class_path"].rpartition(".")[2]]
    if model["init_args"][option] is not None:
        return None
    rest = {key: value for key, value in model["init_args"].items() if key not in (option, "surprise")}
    return yaml.safe_dump(config | {"model": {"class_path": f"lightning_rl.{plain}", "init_args": rest}})
