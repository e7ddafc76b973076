"""Methods and games from outside: a package of a researcher's, found by its entry points or by being imported."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli.program import main
from lightning_rl.cli.registry import check_annotated
from lightning_rl.errors import UsageError
from lightning_rl.modules.ppo import PPOModule
from tests.support.methods import TINY, Options
from tests.support.runs import ENV_STEPS, load, print_into, rows, started, unlike

EXAMPLES = Path(__file__).with_name("examples")
METADATA = "Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n"
OWN: dict[str, Options] = {"a2c": {}, "corridor": {"data.game": "corridor", "model.minibatch_size": 16}}
"""What each example's tiny runs have beside those of all."""


def install(site: Path, *plugins: str) -> Path:
    """Puts the examples into a folder as an installed package that declares some of its modules."""
    package, metadata = site / "my_lab", site / "my_lab-1.0.dist-info"
    for folder in (package, metadata):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    for example in EXAMPLES.glob("*.py"):
        shutil.copy(example, package)
    (metadata / "METADATA").write_text(METADATA)
    declared = "".join(f"{name} = my_lab.{name}\n" for name in plugins)
    (metadata / "entry_points.txt").write_text(f"[lightning_rl.plugins]\n{declared}" if plugins else "")
    return site


def run_in(site: str, output: str, commands: list[list[str]], imported: str | None = None) -> None:
    """Runs commands in this process as one that has the package."""
    print_into(Path(output))
    sys.path.insert(0, site)
    if imported is not None:
        __import__(imported)
    for args in commands:
        if (status := main(args)) != 0:
            sys.exit(status)


def done(site: Path, *commands: list[str], imported: str | None = None) -> None:
    """Lets a process that has the package run commands, which must end well."""
    output = site / "output.txt"
    process = started(run_in, str(site), str(output), list(commands), imported)
    process.join()
    assert process.exitcode == 0, output.read_text()


def example_args(name: str, run_dir: Path, *args: str, iterations: int) -> list[str]:
    """The command line of a tiny run with the example's YAML."""
    options = TINY | OWN[name] | {"data.total_env_steps": iterations * ENV_STEPS}
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return ["fit", "--config", str(EXAMPLES / f"{name}.yaml"), "--run_dir", str(run_dir), *flags, *args]


@pytest.mark.parametrize(
    ("name", "method", "game"),
    [("a2c", "a2c", "dodgeball"), pytest.param("corridor", "ppo", "corridor", marks=pytest.mark.slow)],
)
def test_an_installed_example_is_trained_stopped_resumed_to_the_same_bits_and_tested(
    name: str, method: str, game: str, tmp_path: Path
) -> None:
    site = install(tmp_path / "site", name)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    done(site, example_args(name, straight, iterations=2), example_args(name, stopped, iterations=1))

    going_on = example_args(name, stopped, "--ckpt_path", "last", iterations=2)
    done(site, going_on, ["test", "--ckpt_path", str(stopped / "last.ckpt")])

    assert unlike(load(straight), load(stopped)) == []
    assert rows(stopped) == rows(straight)
    report = json.loads((stopped / "test.json").read_text())
    assert (report["method"], report["game"], report["env_steps"]) == (method, game, 2 * ENV_STEPS)


def test_what_a_program_imports_before_it_calls_main_needs_no_entry_point(tmp_path: Path) -> None:
    site = install(tmp_path / "site")

    done(site, example_args("a2c", tmp_path / "run", iterations=1), imported="my_lab.a2c")

    assert load(tmp_path / "run")["lightning_rl"]["method"] == "a2c"


STRANGERS = {
    "model": ["--model", "stranger.PPOModule"],
    "data": ["--data.class_path", "stranger.ProcgenDataModule"],
    "model.optimizer": ["--model.optimizer", "stranger.SGD"],
    "model.scheduler": ["--model.scheduler", "{class_path: stranger.LinearLR}"],
    "trainer.callbacks": ["--trainer.callbacks", "[{class_path: stranger.EarlyStopping}]"],
    "trainer.logger": ["--trainer.logger", "stranger.CSVLogger"],
}


@pytest.mark.parametrize(
    ("key", "in_a_file"),
    [
        (key, in_a_file)
        for key in STRANGERS
        for in_a_file in (False, True)
        if in_a_file or not key.startswith("trainer")
    ],
)
def test_a_class_of_another_package_is_refused_and_never_imported(
    key: str, in_a_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text("raise RuntimeError('code of a stranger runs')")
    option, value = STRANGERS[key]
    if in_a_file:
        file = tmp_path / "stranger.yaml"
        inner = value if option != "--data.class_path" else f"{{class_path: {value}}}"
        for name in reversed(key.replace("model.", "model.init_args.").split(".")):
            inner = f"{{{name}: {inner}}}"
        file.write_text(inner)
        option, value = "--config", str(file)

    assert main(["fit", "--config", "ppo", "--run_dir", str(tmp_path / "run"), option, value]) == 2

    told = capsys.readouterr().err
    assert told.startswith(f"lightning-rl: {key} must be ")
    assert "installed plug-in (lightning_rl.plugins), found stranger." in told


@pytest.mark.parametrize("given", ["own.Own", "[{class_path: own.Own}]"])
def test_a_callback_of_the_users_own_is_taken_from_the_command_line(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    (tmp_path / "own.py").write_text("from pytorch_lightning import Callback\nclass Own(Callback): pass\n")

    # what is wrong is found only after the callback
    wrong = ["--trainer.callbacks", given, "--data.num_envs", "0", "--run_dir", str(tmp_path / "run")]
    assert main(["fit", "--config", "ppo", *wrong]) == 2

    assert capsys.readouterr().err.startswith("lightning-rl: num_envs must be")


def test_lightnings_other_package_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["fit", "--config", "ppo", "--run_dir", str(tmp_path), "--trainer.callbacks"]
    assert main([*args, "lightning.pytorch.callbacks.EarlyStopping"]) == 2
    assert capsys.readouterr().err == (
        "lightning-rl: trainer.callbacks must be of pytorch_lightning, as this package is:"
        " pytorch_lightning.callbacks.EarlyStopping, found lightning.pytorch.callbacks.EarlyStopping\n"
    )


def test_an_option_without_a_type_is_refused() -> None:
    class Untyped(PPOModule):
        def __init__(self, *, size=3, **ppo: Any) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  # the fault
            super().__init__(**ppo)

    with pytest.raises(
        UsageError, match=r"^model\.size must be annotated with its type in Untyped, found no annotation$"
    ):
        check_annotated("model", Untyped)
    check_annotated("model", PPOModule)


def test_a_plug_in_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = install(tmp_path / "site", "gone")
    monkeypatch.syspath_prepend(site)

    assert main(["fit", "--config", "ppo"]) == 2

    told = capsys.readouterr().err
    assert told.startswith("lightning-rl: the plug-in my_lab.gone of my-lab cannot be imported: ModuleNotFoundError")
    assert told.endswith("repair or uninstall my-lab\n")
