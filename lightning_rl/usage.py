"""Wrong input, told in one line: what it names, what was found, what is allowed."""

import difflib
import inspect
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import yaml
from pytorch_lightning import Trainer

from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.modules.base import RLModule
from lightning_rl.types import UsageError

_MAX_CONFIG_BYTES, _MAX_CONFIG_VALUES, _MAX_CONFIG_DEPTH = 1_000_000, 20_000, 50


def module_class(class_path: str) -> type[RLModule]:
    """The method that a config names.

    Raises:
        UsageError: it is none of this package's.
    """
    found: type[RLModule] = _named("model", class_path)
    return found


def data_class(class_path: str) -> type[RolloutDataModule]:
    """The data module that a config names.

    Raises:
        UsageError: it is none of this package's.
    """
    found: type[RolloutDataModule] = _named("data", class_path)
    return found


def check_numbers(value: Any, key: str = "") -> None:
    """Refuses numbers in a config that no option means: NaN, and infinity where it is not for a bound left out.

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
        raise UsageError(f"{key} must be below 2⁶³ in size, found a number of {len(hex(value)) - 2} hexadecimal digits")


def check_configs(args: list[str]) -> None:
    """Refuses config files that would take the parser more than moments: pipes, heaps of text, aliases of aliases.

    Raises:
        UsageError: names the file and what is wrong.
    """
    for path in (Path(name) for name in values(args, "--config", "-c")):
        try:
            if path.exists() and not path.is_dir():
                _check_config(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"config: {path} is not a config: {error}") from error


def _check_config(path: Path) -> None:
    if not path.is_file() or path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"it must be a file of at most {_MAX_CONFIG_BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    with suppress(yaml.YAMLError):  # what is wrong the parser will tell
        _check_nesting(text)


def _check_nesting(text: str) -> None:
    """Counts values as they are once every alias is replaced by what it stands for."""
    sizes: dict[str | None, int] = {}
    counts: list[int] = [0]
    anchors: list[str | None] = [None]
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
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
            raise ValueError(f"more than {_MAX_CONFIG_VALUES} values, or more than {_MAX_CONFIG_DEPTH} in one another")


def asked_data_class(args: list[str]) -> str:
    """The data module that the command line or else its last config names; by default Procgen's.

    The parser must begin from its defaults: it keeps those of another one where the names are the same.
    """
    named = ["ProcgenDataModule"]
    for path in values(args, "--config", "-c"):
        with suppress(OSError, ValueError, yaml.YAMLError, TypeError, KeyError):  # what is wrong the parser will tell
            named.append(yaml.safe_load(Path(path).read_text(encoding="utf-8"))["data"]["class_path"])
    named += values(args, "--data", "--data.class_path")
    paths = {c.__name__: f"lightning_rl.{c.__name__}" for c in _CLASSES["data"]()}
    known = [paths[name] for name in (str(given).rpartition(".")[2] for given in named) if name in paths]
    return known[-1]


def _named(key: str, class_path: str) -> Any:
    for c in _CLASSES[key]():
        if f"{c.__module__}.{c.__qualname__}" == class_path or class_path.endswith(f"lightning_rl.{c.__name__}"):
            return c
    raise UsageError(f"{key} must be one of {', '.join(c.__name__ for c in _CLASSES[key]())}, found {class_path}")


def _subclasses(parent: type[Any]) -> list[Any]:
    return [child for direct in parent.__subclasses__() for child in (direct, *_subclasses(direct))]


def values(args: list[str], *names: str) -> list[str]:
    """What is given to an option, as `--name value` or `--name=value`."""
    pairs = [(*arg.split("=", 1), following)[:2] for arg, following in pairwise([*args, ""])]
    return [value for name, value in pairs if name in names]


def essence(message: str, args: list[str]) -> str:
    """What the parser's nested message is about: the key, the value found, what is allowed."""
    key = _key(message)
    if unknown := re.search(r"(?:Option|accept option) '([^']+)'|unrecognized arguments: --([\w.]+)", message):
        return _unknown(f"{key}.{unknown[1] or unknown[2]}".lstrip("."), message)
    if lacking := re.search(r"argument (--\w+): expected one argument", message):
        names = [arg for arg in args if arg.startswith(lacking[1]) and not values([arg, "--"], arg)[0].strip("-")]
        return f"{', '.join(names)}: expected a value"
    if missing := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        return f"{missing[1]} is missing; give --config FILE, as configs/ppo.yaml"
    if re.match("Problems parsing config|Unexpected config", message):
        return f"config: {', '.join(values(args, '--config', '-c'))} is not a config: {message.partition(': ')[2]}"
    return _wrong_value(key, message)


def _key(message: str) -> str:
    """The key that the innermost message is about; an inner one stands further to the right."""
    keys, depth = [], -1
    for indent, name in re.findall(r'^( *)(?:- )?Parser key "([^"]+)"', message, re.MULTILINE):
        if len(indent) > depth:
            keys.append(name)
            depth = len(indent)
    return ".".join(keys)


_NO_REASON = "Expected|Does|Import path|Not a valid|Problem with|a class path|a dict with"
"""What the parser says of every kind of value that would have been allowed."""


def _wrong_value(key: str, message: str) -> str:
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    if key in _CLASSES and re.search("import path|class_path '|Import path", message):
        found = re.search(r"class_path'(?::|, val=) ?'([^']+)'", value[1]) if value else None
        names = ", ".join(c.__name__ for c in _CLASSES[key]())
        return f"{key} must be one of {names}, found {found[1] if found else value and value[1]}"
    reasons = [line for line in re.findall(r"^ *- (.*)", message, re.MULTILINE) if not re.match(_NO_REASON, line)]
    if reasons and "Parser key" not in reasons[-1]:
        return str(reasons[-1])
    if value and (wanted := dict.fromkeys(re.findall("Problem with given (class_path)|subclass of (\\w+)", message))):
        kinds = ["class_path and init_args" if problem else name for problem, name in wanted]
        return f"{key} must be {' or '.join(kinds)}, found {value[1]}"
    expected = re.findall(r"Expected an? (<class '[^']+'>|typing\.Literal\[[^]]*])", message)
    if not expected or not value:
        return re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    types = expected[:1] if "Got value" in message else list(dict.fromkeys(expected))
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", " or ".join(types)).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[(.*?)]", r"one of \1", text)
    return f"{key} must be {text}, found {value[1]}"


def _unknown(option: str, message: str) -> str:
    parent, _, name = option.replace(".init_args", "").rpartition(".")
    if name == "class_path":
        return f"{parent} takes class_path and init_args, found {message.rpartition('Given value: ')[2]}"
    allowed = _options(parent, lacking=name)
    near = [f"{parent}.{other}".lstrip(".") for other in difflib.get_close_matches(name, allowed, n=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(allowed)}"
    return f"{option} is not an option; {hint}" if allowed else f"{option} is not an option"


_CLASSES: dict[str, Callable[[], list[Any]]] = {
    "model": lambda: _subclasses(RLModule),
    "data": lambda: _subclasses(RolloutDataModule),
}
_OWN_OPTIONS = [
    "config",
    "model",
    "data",
    "trainer",
    "seed_everything",
    "run_dir",
    "ckpt_path",
    "policy_from",
    "allow_inexact_resume",
]


def _options(parent: str, *, lacking: str) -> list[str]:
    """Names of the options under a key of the config; none where the key is another program's.

    Of the classes that the key may stand for, those that know `lacking` are not the one that refused it.
    """
    head, *rest = parent.split(".")
    owners = [Trainer] if head == "trainer" else _CLASSES.get(head, list)()
    for name in rest:
        annotations = [inspect.signature(c).parameters[name].annotation for c in owners if name in _names(c)]
        owners = [part for annotation in annotations for part in get_args(annotation) if is_dataclass(part)]
    refusing = [_names(owner) for owner in owners if lacking not in _names(owner)]
    return list(dict.fromkeys(name for names in refusing for name in names)) if parent else _OWN_OPTIONS


def _names(owner: type) -> list[str]:
    return list(inspect.signature(owner).parameters)
