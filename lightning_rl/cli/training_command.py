"""The command that repeats a run, from its resolved config."""

import shlex
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer

from lightning_rl.cli.registry import data_class, module_class
from lightning_rl.modules.hyper_parameters import as_plain, constructor_options

_FOLLOWS = ("games", "num_actions", "obs_shape", "reward_values", "seed", "allow_inexact_resume")
"""Options of model and data that follow from others."""
_ELSEWHERE = ("logger", "default_root_dir", "enable_progress_bar")
"""Options of the trainer that decide what is told of a run, not what it learns."""


def training_command(config: dict[str, Any]) -> str:
    """`lightning-rl fit` with every option that differs from its default.

    Args:
        config: a resolved config, as config.yaml holds it.
    """
    words = ["lightning-rl", "fit", "--seed_everything", str(config["seed_everything"])]
    for key, owner in (("model", module_class), ("data", data_class)):
        kind = owner(config[key]["class_path"])
        options = config[key].get("init_args") or {}
        defaults = {name: as_plain(option.default) for name, option in constructor_options(kind).items()}
        words += [f"--{key}", kind.__name__]
        words += _differing(key, {name: value for name, value in options.items() if name not in _FOLLOWS}, defaults)
    own = yaml.safe_load(Path(__file__).with_name("defaults.yaml").read_text(encoding="utf-8"))["trainer"]
    defaults = {name: option.default for name, option in signature(Trainer).parameters.items()} | own
    trainer = {name: value for name, value in config.get("trainer", {}).items() if name not in _ELSEWHERE}
    begun = ["--policy_from", str(config["policy_from"])] if config.get("policy_from") else []
    return shlex.join([*words, *_differing("trainer", trainer, defaults), *begun])


def _differing(key: str, options: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    """Names and values of the options that are not the default."""
    for name, value in options.items():
        default = as_plain(defaults.get(name))
        if _is_group(value, default):
            yield from _differing(f"{key}.{name}", value, default if isinstance(default, dict) else {})
        elif value != default:
            text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6)
            yield from (f"--{key}.{name}", text.removesuffix("\n").removesuffix("\n..."))


def _is_group(value: Any, default: Any) -> bool:
    """Whether a value is given option by option, rather than as a whole: no class, no dict of numbers, no lost part.

    The parser takes null for a part of a group only where the group is given as a whole.
    """
    if not isinstance(value, dict) or not value or "class_path" in value:
        return False
    before = default if isinstance(default, dict) else {}
    return all(isinstance(key, str) and (part is not None or before.get(key) is None) for key, part in value.items())
