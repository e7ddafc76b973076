"""One-line error messages: the key, what was found, what is allowed."""

import contextlib
import difflib
import re
import sys
from dataclasses import is_dataclass
from typing import get_args

from pytorch_lightning import Trainer

from lightning_rl.cli.config_files import values
from lightning_rl.cli.registry import CLASSES, PLUGINS, none_of, trusted_packages
from lightning_rl.modules.hyper_parameters import constructor_options

_MAX_LINE = 2000  # characters of a message


def short_message(message: str, args: list[str]) -> str:
    """The parser's nested message in one line: the key, the value found, what is allowed.

    Args:
        message: of jsonargparse.
        args: the command line.
    """
    key = _key(message)
    if unknown := re.search(r"(?:Option|accept option) '([^']+)'|unrecognized arguments: --([\w.]+)", message):
        return _unknown(f"{key}.{unknown[1] or unknown[2]}".lstrip("."), message)
    if lacking := re.search(r"argument (--\w+): expected one argument", message):
        names = [arg for arg in args if arg.startswith(lacking[1]) and not values([arg, "--"], arg)[0].strip("-")]
        return f"{', '.join(names)}: expected a value"
    if missing := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        remedy = "" if key else "; give --config FILE, or the name of a shipped one, as ppo"
        return f"{key}.{missing[1]} is missing{remedy}".lstrip(".")
    if re.match("Problems parsing config|Unexpected config", message):
        return f"config: {', '.join(values(args, '--config', '-c'))} is not a config: {message.partition(': ')[2]}"
    return _wrong_value(key, message)


def _key(message: str) -> str:
    """The key of the innermost message, which is indented furthest."""
    keys, depth = [], -1
    for indent, name in re.findall(r'^( *)(?:- )?Parser key "([^"]+)"', message, re.MULTILINE):
        if len(indent) > depth:
            keys.append(name)
            depth = len(indent)
    return ".".join(keys)


_NO_REASON = "Expected|Does|Import path|Not a valid|Problem with|a class path|a dict with"
"""Beginnings of lines that only list the allowed types."""


_KEYS_OF_CLASSES = {"loggers.logger.Logger": "trainer.logger", "callbacks.callback.Callback": "trainer.callbacks"}
"""Options whose classes the parser builds; what goes wrong then comes without the key."""


def _of_a_class(key: str, message: str) -> str | None:
    """Why a class could not be found or built; None where it is not about that."""
    options = [option for base, option in _KEYS_OF_CLASSES.items() if base in message]
    option = key or next(iter(options), "")
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        return f"{option} must be a class, named by its import path, found {unknown[1]}"
    failed = re.search(r"^( *)- Problem with given class_path '([^']*)':\n((?:\1 +.*(?:\n|$))+)", message, re.MULTILINE)
    if failed is None or re.search(r"^ *- |Parser key", failed[3], re.MULTILINE):
        return None
    name = failed[2].rpartition(".")[2] if failed[2].startswith("pytorch_lightning.") else failed[2]
    return f"{option}: {name}: {failed[3]}".lstrip(": ")


def _wrong_value(key: str, message: str) -> str:
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    if (wrong := _wrong_class(key, message, value and value[1])) is not None:
        return wrong
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


def _wrong_class(key: str, message: str, value: str | None) -> str | None:
    """What is wrong with a class, if anything is."""
    if key in CLASSES and re.search("import path|class_path '|Import path", message):
        found = re.search(r"class_path'(?::|, val=) ?'([^']+)'", value) if value else None
        return none_of(key, found[1] if found else str(value))
    if refused := re.search(r"Importing '([^']+)' is not allowed", message):
        return _foreign(key, refused[1])
    if other := re.search(r"Expected '([^']+)' to be a subclass of (?:Union\[)?(\w+)", message):
        return f"{key} must be a subclass of {other[2]}, found {other[1]}"
    return _of_a_class(key, message)


def _foreign(key: str, class_path: str) -> str:
    """A class that no config may name."""
    package, _, name = class_path.partition(".pytorch.")
    if package == "lightning" and name:
        return f"{key} must be of pytorch_lightning, as this package is: pytorch_lightning.{name}, found {class_path}"
    trusted = ", ".join(trusted_packages())
    return f"{key} must be a class of {trusted} or of an installed plug-in ({PLUGINS}), found {class_path}"


def _unknown(option: str, message: str) -> str:
    parent, _, name = option.replace(".init_args", "").rpartition(".")
    if name == "class_path":
        return f"{parent} takes class_path and init_args, found {message.rpartition('Given value: ')[2]}"
    if not parent and (found := [key for key in ("data", "model", "trainer") if name in _options(key, lacking="")]):
        return f"{option} is not an option; did you mean {' or '.join(f'{key}.{name}' for key in found)}?"
    allowed = _options(parent, lacking=name)
    near = [f"{parent}.{other}".lstrip(".") for other in difflib.get_close_matches(name, allowed, n=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(allowed)}"
    return f"{option} is not an option; {hint}" if allowed else f"{option} is not an option"


_OWN_OPTIONS = [
    "config",
    "model",
    "data",
    "trainer",
    "seed_everything",
    "run_dir",
    "seeds",
    "seeds_at_once",
    "ckpt_path",
    "policy_from",
    "allow_inexact_resume",
    "test_at_end",
]


def _options(parent: str, *, lacking: str) -> list[str]:
    """Names of the options under a key of the config; none if the key belongs to another program.

    Classes that have the option `lacking` are left out, because they did not refuse it.
    """
    head, *rest = parent.split(".")
    owners = [Trainer] if head == "trainer" else CLASSES.get(head, list)()
    for name in rest:
        annotations = [constructor_options(c)[name].annotation for c in owners if name in _names(c)]
        parts = [part for annotation in annotations for part in (annotation, *get_args(annotation))]
        owners = [part for part in parts if is_dataclass(part) and isinstance(part, type)]
    refusing = [_names(owner) for owner in owners if lacking not in _names(owner)]
    return list(dict.fromkeys(name for names in refusing for name in names)) if parent else _OWN_OPTIONS


def _names(owner: type) -> list[str]:
    return list(constructor_options(owner))


def say(message: str) -> None:
    """Prints a message to stderr as one line, without control characters and shortened."""
    line = "".join(char if char.isprintable() else "�" for char in " ".join(message.split()))
    line = re.sub(r"(\S{80})\S{200,}(\S{80})", r"\1…\2", line)
    with contextlib.suppress(OSError):  # stderr may be a file on a full disk
        sys.stderr.write(f"lightning-rl: {line[:_MAX_LINE]}\n")
        sys.stderr.flush()
