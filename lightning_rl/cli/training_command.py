"""The command that repeats a run, from its resolved config."""

import json
import shlex
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer

from lightning_rl.cli.registry import data_class, module_class
from lightning_rl.modules.hyper_parameters import as_plain, constructor_options

_FOLLOWS = ("num_actions", "obs_shape", "reward_values", "seed", "allow_inexact_resume")
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
    return shlex.join([*words, *_differing("trainer", trainer, defaults)])


def _differing(key: str, options: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    """Names and values of the options that are not the default."""
    for name, value in options.items():
        default = as_plain(defaults.get(name))
        if isinstance(value, dict) and "class_path" not in value:
            yield from _differing(f"{key}.{name}", value, default if isinstance(default, dict) else {})
        elif value != default:
            yield from (f"--{key}.{name}", value if isinstance(value, str) else json.dumps(value))
