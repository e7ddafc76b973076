"""The layers of the package, enforced by reading its imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_rl"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
# the package's front door and the command's: they import what they like
DOORS = {"__init__.py", "__main__.py"}

NAMES = {path.split("/")[0].removesuffix(".py") for path in FILES}

LAYERS = {
    "ranks": {"moments"},
    "losses": {"losses", "moments"},
    "networks": {"networks", "types"},
    "envs": {"envs", "types", "moments"},
    "data": {"data", "types", "durable", "ranks", "schema"},
    "modules": {"modules", "data", "networks", "losses", "types", "moments", "precision", "ranks"},
    "loggers": {"types"},
    "media": {"loggers", "types"},
    "progress": {"types"},
    "checkpoints": {"types", "durable", "schema"},
    "callbacks": {
        "callbacks",
        "checkpoints",
        "progress",
        "media",
        "loggers",
        "modules",
        "data",
        "types",
        "ranks",
        "durable",
        "lifetime",
        "schema",
    },
    "usage": {"data", "modules", "types"},
    "doctor": {"allocator", "version"},
    "cli": NAMES - {"cli", "__main__"},
}
"""What the files of each layer may import of the package; a file at the top that is not here, nothing."""

EXCEPTIONS = {
    "data/datamodule.py": {"envs"},
    "data/procgen.py": {"envs"},
    "data/atari.py": {"envs"},
    "data/actors.py": {"envs", "allocator", "lifetime"},
    "data/collector.py": {"envs"},
    "modules/simple.py": {"envs"},
}

LIGHTNING = (
    "data/datamodule.py",
    "modules/",
    "callbacks/",
    "cli.py",
    "checkpoints.py",
    "loggers.py",
    "progress.py",
    "usage.py",
)
LIBRARIES: dict[str, tuple[str, ...]] = {
    "procgen": ("envs/procgen.py",),
    "gym3": ("envs/procgen.py",),
    "gym": ("envs/procgen.py",),
    "ale_py": ("envs/atari.py",),
    "numba": ("networks/compiled.py", "networks/max_pool.py", "networks/channel_norm.py"),
    "pytorch_lightning": LIGHTNING,
    "lightning_fabric": LIGHTNING,
    "lightning": (),
    "wandb": ("loggers.py",),
}
"""Where libraries that only some files know may be imported."""


def imported(source: str) -> Iterator[str]:
    """Every module that `source` imports, at the top or inside a function, by statement or by name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module="lightning_rl", names=names, level=0):
                yield from (f"lightning_rl.{alias.name}" for alias in names)
            case ast.ImportFrom(module=module, level=level):
                yield "." * level + (module or "")
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str() as name), *_],
            ):
                yield name


def layer_violations(path: str, source: str) -> list[str]:
    layer = path.split("/")[0].removesuffix(".py")
    allowed = LAYERS.get(layer, set()) | EXCEPTIONS.get(path, set())
    return [
        f"{path} imports {module}: {layer} may import only {', '.join(sorted(allowed)) or 'nothing of the package'}"
        for module in imported(source)
        if module.startswith(".") or (module.startswith("lightning_rl.") and module.split(".")[1] not in allowed)
    ]


def library_violations(path: str, source: str) -> list[str]:
    return [
        f"{path} imports {module}: only {', '.join(LIBRARIES[library]) or 'no file'} may"
        for module in imported(source)
        if (library := module.split(".")[0]) in LIBRARIES and not path.startswith(LIBRARIES[library])
    ]


def undocumented(path: str, source: str) -> list[str]:
    """The module, public classes and functions, and public methods of public classes that have no docstring."""

    def missing(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[str]:
        if ast.get_docstring(node) is None:
            yield name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                yield from missing(child, f"{name}.{child.name}")

    return list(missing(ast.parse(source), path))


@pytest.mark.parametrize("path", [path for path in FILES if path not in DOORS])
def test_a_file_imports_only_the_layers_below_it(path: str) -> None:
    assert layer_violations(path, (PACKAGE / path).read_text()) == []


@pytest.mark.parametrize("path", FILES)
def test_a_library_is_imported_only_where_it_belongs(path: str) -> None:
    assert library_violations(path, (PACKAGE / path).read_text()) == []


@pytest.mark.parametrize("path", FILES)
def test_everything_public_has_a_docstring(path: str) -> None:
    assert undocumented(path, (PACKAGE / path).read_text()) == []


def test_no_file_is_a_drawer() -> None:
    names = {part.removesuffix(".py").strip("_") for path in FILES for part in path.split("/")}

    assert names.isdisjoint({"utils", "util", "helpers", "helper", "common", "misc", "tools"})


@pytest.mark.parametrize(
    "source",
    [
        "import lightning_rl.types",
        "from lightning_rl.types import Rollout",
        "from lightning_rl import types",
        "def late():\n    from lightning_rl.types import Rollout",
        "from importlib import import_module\nimport_module('lightning_rl.types')",
    ],
)
def test_an_import_across_layers_is_found_and_named(source: str) -> None:
    message = "losses/vtrace.py imports lightning_rl.types: losses may import only losses, moments"

    assert layer_violations("losses/vtrace.py", source) == [message]


def test_a_relative_import_is_found() -> None:
    assert len(layer_violations("losses/vtrace.py", "from ..types import Rollout")) == 1


@pytest.mark.parametrize(
    "source", ["import procgen", "from procgen import env", "import importlib as i\ni.import_module('procgen')"]
)
def test_a_library_in_the_wrong_file_is_found(source: str) -> None:
    assert len(library_violations("data/datamodule.py", source)) == 1


def test_a_missing_docstring_is_found() -> None:
    source = '"""Module."""\nclass Net:\n    """Net."""\n    def act(self): ...\n    def _own(self): ...\n'

    assert undocumented("a.py", source) == ["a.py.Net.act"]
