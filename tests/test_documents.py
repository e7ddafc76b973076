"""The documents: the programs take every command in them, every link leads somewhere, and what exists is in them."""

import argparse
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from itertools import groupby, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytorch_lightning import Trainer

from lightning_rl.cli import bench, export, play, replay
from lightning_rl.cli.registry import CLASSES, data_class, module_class
from lightning_rl.envs.procgen_games import GAMES
from lightning_rl.modules.hyper_parameters import constructor_options
from lightning_rl.report.command import main as report
from lightning_rl.report.command import parser as report_parser
from tests.support.command_lines import parsed
from tests.support.methods import CONFIGS

ROOT = CONFIGS.parent
FOLDERS = (".", ".github", "checkpoints", "configs", "configs/cluster", "tests", "tests/benchmarks", "tests/examples")
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.md"))
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*\.(py|yaml|sh|sbatch|md|toml)|(lightning_rl|tests|configs|\.github)(/[\w.-]+)*/?")
PLACEHOLDERS = {"N": "1", "NAME": "heist"}
WRITTEN = {"config.yaml", "report.md"}  # into run folders and reports

OURS = ("lightning-rl ", "python -m ", "pytest -", "pip ", "wandb ")
"""How commands in the prose begin."""
OTHERS = ("python3", "source", "ruff", "mypy", "apt-get", "dnf")
"""Programs whose command lines are not looked into."""
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MARKERS = {marker.partition(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}


def fences(document: str, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(DOCUMENTS[document]) if language in languages]


def spans(text: str) -> list[str]:
    return SPAN.findall(FENCE.sub("", text))


def commands() -> Iterator[str]:
    """The lines of blocks that are commands, and what in the prose begins with a program."""
    for document, text in DOCUMENTS.items():
        for line in "".join(fences(document, "bash")).splitlines():
            yield from (shlex.join(words) for words in _joined_by_and(shlex.split(line, comments=True)))
        yield from (shlex.join(shlex.split(span)) for span in spans(text) if span.startswith(OURS))


def _joined_by_and(words: list[str]) -> list[list[str]]:
    return [list(group) for is_and, group in groupby(words, key=lambda word: word == "&&") if not is_and]


class _ParsedError(Exception):
    """The arguments of a program were parsed; the program need not run."""


def _parser_of(args: list[str]) -> Callable[[], argparse.ArgumentParser] | None:
    """What parses a command that takes no options of Lightning's subcommands."""
    if replay.is_asked_for(args):
        return replay.parser
    return {"bench": bench.parser, "report": report_parser}.get(args[0])


def check_fit(args: list[str]) -> None:
    """Arguments of `lightning-rl` that it takes; classes and game are ones that there are."""
    if args in (["doctor"], ["doctor", "--benchmark"]):  # `tests/cli/test_doctor.py` runs it
        return
    if (alone := _parser_of(args)) is not None:
        alone().parse_args(args[1:])
        return
    if args[0] in (with_test := {"export": export.parser, "play": play.parser}):
        args = ["test", *with_test[args[0]]().parse_known_args(args[1:])[1]]
    if args == ["test"]:  # `play --game`
        return
    if "--config" not in args and "--ckpt_path" in args:  # a run folder's config.yaml would be taken
        args = [args[0], "--config", "configs/ppo.yaml", *args[1:]]
    if any(arg.endswith(("help", "--version", "--print_config")) for arg in args):
        with pytest.raises(SystemExit, match=r"^0$"):  # once it has shown what was asked for
            parsed(args)
        return
    options = parsed(args)
    module_class(options.model.class_path)
    data_class(options.data.class_path).games_named(options.data.init_args.game)


def check_module(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments of `python` that name a module of the tests, and options that it takes."""
    assert args[0] == "-m"
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise _ParsedError

    monkeypatch.setattr(sys, "argv", args[1:])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda parser, *_: only_parse(parser))
    with pytest.raises(_ParsedError):
        import_module(args[1]).main()


def check_pytest(args: list[str]) -> None:
    """Markers and paths that there are."""
    for name, value in pairwise(["", *args]):
        if name == "-m":
            assert set(value.split()) - {"not", "and", "or"} <= MARKERS
        elif not value.startswith("-"):
            assert (ROOT / value).exists()


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_a_command_is_one_that_its_program_takes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    variables = dict(word.split("=", 1) for word in takewhile(re.compile("[A-Z_]+=").match, words))
    program, *args = words[len(variables) :]
    match program.removeprefix(".venv/bin/"):
        case "lightning-rl":
            check_fit(args)
        case "python":
            check_module(args, monkeypatch)
        case "pytest":
            check_pytest(args)
        case "sbatch" | "bash":
            options = args[args.index("--array") + 2 :] if "--array" in args else args
            assert Path(options[0]).is_file()
            check_fit(["fit", "--config", variables["CONFIG"], *options[1:]])
        case "kubectl" | "wandb":
            assert [word for word in args if word.endswith(".yaml") and not Path(word).is_file()] == []
        case "pip":
            extras = re.findall(r"\.\[(\w+)\]", " ".join(args))
            assert set(extras) <= PROJECT["project"]["optional-dependencies"].keys()
        case other:
            assert other in OTHERS


class Option(NamedTuple):
    """An option in the prose: its name, its value where one is shown, and a config that has it."""

    name: str
    value: str | None
    config: str


def options() -> Iterator[Option]:
    for text in DOCUMENTS.values():
        for section in re.split(r"^## ", text, flags=re.MULTILINE):
            used = re.search(r"lightning-rl fit --config configs/(\w+)\.yaml", section)
            config = "ppo" if used is None else used[1]
            for span in spans(section):
                if span.startswith("--"):
                    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(span)]
                    for name, value in pairwise([*words, "--"]):
                        if name.startswith("--"):
                            yield Option(name[2:], None if value.startswith("--") else value, config)
                elif re.fullmatch(r"(model|data|trainer)(\.[a-z_]+)+", span):
                    yield Option(span, None, config)


@cache
def with_options_shown(config: str) -> dict[str, Any]:
    """What a config becomes with all options that the prose shows a value of."""
    shown = [option for option in options() if option.config == config and option.value is not None]
    shown.sort(key=lambda option: -option.name.count("."))  # no logger has no options that could follow
    flags = [f"--{name}={value}" for name, value, _ in shown if not is_of_another_program(name)]
    return parsed(["fit", "--config", str(CONFIGS / f"{config}.yaml"), *flags]).as_dict()


def options_of(*parsers: argparse.ArgumentParser) -> set[str]:
    """The options of commands that have a parser of their own."""
    return {text.removeprefix("--") for parser in parsers for text in parser._option_string_actions}


@cache
def is_of_another_program(name: str) -> bool:
    """Whether an option, by its name, is one of a command with a parser of its own or a program among the tests."""
    if name in options_of(export.parser(), bench.parser(), play.parser(), replay.parser(), report_parser()):
        return True
    programs = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    return "." not in name and any(f'add_argument("--{name}"' in program for program in programs)


@pytest.mark.parametrize("config", sorted({option.config for option in options()}))
def test_options_take_the_values_shown(config: str) -> None:
    with_options_shown(config)


def test_every_option_exists() -> None:
    known = {"config", "print_config", "help"}
    for config in {option.config for option in options()}:
        known |= set(_keys(with_options_shown(config)))
    named = {option.name for option in options()}
    assert [name for name in sorted(named - known) if not is_of_another_program(name)] == []


def test_every_option_of_a_class_is_explained() -> None:
    set_by_the_command = {"data.seed", "data.allow_inexact_resume", "model.num_actions", "model.obs_shape"}
    named = {f"{option.name}." for option in options()}
    own = {
        f"{key}.{name}"
        for key, classes in CLASSES.items()
        for owner in classes()
        if owner.__module__.startswith("lightning_rl.")
        for name in constructor_options(owner)
    }
    own -= set_by_the_command | {"model.reward_values", "model.games"}  # the games' own
    assert [name for name in sorted(own) if not any(other.startswith(f"{name}.") for other in named)] == []


def _keys(config: dict[str, Any], above: str = "") -> Iterator[str]:
    """The options of a config, as the command line takes them, with and without `init_args`."""
    for key, value in config.items():
        name = f"{above}{key}"
        yield from (name, name.replace(".init_args", ""))
        if isinstance(value, dict):
            yield from _keys(value, f"{name}.")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    targets = {"".join(found) for found in LINK.findall(FENCE.sub("", DOCUMENTS[document]))}
    lost = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"https?://", target):
            continue
        file = folder / path if path else ROOT / document
        if not file.exists() or (anchor and anchor not in _anchors(file.read_text(encoding="utf-8"))):
            lost.append(target)
    assert lost == []


def _anchors(text: str) -> list[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@cache
def tree() -> str:
    """All paths of the repository, each with a slash before it and a space behind."""
    roots = (ROOT / name for name in ("lightning_rl", "tests", "configs", ".github"))
    paths = [*ROOT.glob("*.*"), *(path for root in roots for path in (root, *root.rglob("*")))]
    return " ".join(f"/{path.relative_to(ROOT).as_posix()}" for path in paths) + " "


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_is_there(document: str) -> None:
    blocks = " ".join(fences(document, "text")).replace(",", " ").split()
    named = {name.rstrip("/") for name in (*spans(DOCUMENTS[document]), *blocks) if PATH.fullmatch(name)}
    assert [name for name in sorted(named - WRITTEN) if f"/{name} " not in tree()] == []


def test_every_config_is_in_the_documents() -> None:
    files = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*") if path.is_file()}
    said = {f"cluster/{link}" for link, _ in LINK.findall(DOCUMENTS["configs/cluster/README.md"])}
    said.update(spans(DOCUMENTS["configs/README.md"]))
    assert [name for name in sorted(files - said) if not name.endswith(".md")] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/results/*/metrics.csv")), ids=lambda path: path.parent.name)
def test_every_metric_of_a_run_is_explained(path: Path) -> None:
    columns = path.read_text(encoding="utf-8").partition("\n")[0].split(",")
    # of several games, each with its name at the end
    columns = [column.rpartition("/")[0] if column.rpartition("/")[2] in GAMES else column for column in columns]
    assert [column for column in columns if column not in spans(DOCUMENTS["configs/README.md"])] == []


def reports() -> Iterator[tuple[str, str]]:
    """Documents, and what they say to report of the kept results."""
    for document in DOCUMENTS:
        for line in "".join(fences(document, "bash")).splitlines():
            if line.startswith("lightning-rl report .github/results"):
                yield document, line.removeprefix("lightning-rl report ")


@pytest.mark.parametrize(("document", "runs"), list(reports()))
def test_tables_are_those_of_the_report(document: str, runs: str, tmp_path: Path) -> None:
    folders = [str(path) for pattern in runs.split() for path in sorted(ROOT.glob(pattern))]
    assert report([*folders, "--out", str(tmp_path)]) == 0
    games, _, _ = (tmp_path / "report.md").read_text(encoding="utf-8").partition("## Probability")
    tables = [game.partition("|")[2].partition("\n\n")[0] for game in games.split("\n## ")[1:]]
    assert tables
    assert [table for table in tables if f"|{table}" not in DOCUMENTS[document]] == []


def test_the_readme_is_short() -> None:
    assert len(DOCUMENTS["README.md"].split()) <= 1100


def test_the_readme_has_a_command_to_start_and_one_to_test() -> None:
    lines = [line for line in DOCUMENTS["README.md"].splitlines() if line.startswith("python3 -m venv .venv ")]
    start, test = lines
    assert start.endswith(".venv/bin/pip install -e . && .venv/bin/lightning-rl fit --config configs/quickstart.yaml")
    assert test.endswith(".venv/bin/pip install -e '.[test]' && .venv/bin/pytest")


@pytest.mark.filterwarnings("ignore:.*tensorboardX")  # Lightning's default logger is not the command's
def test_the_example_in_python_trains_what_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", lambda _, *args: fitted.extend(args))
    [example] = fences("README.md", "python")
    names: dict[str, Any] = {}

    exec(example, names)

    assert fitted == [names["module"], names["data"]]
