"""The layers of the package, enforced by reading its imports."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_rl"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
# the package's front door and the command's: they import what they like
DOORS = {"__init__.py", "__main__.py"}

ORDER = (
    ("version", "errors", "types", "state"),
    ("protocols",),
    ("distributed",),
    ("losses", "cpu", "gpu"),
    ("networks",),
    ("policies",),
    ("envs",),
    ("runs",),
    ("media",),
    ("data",),
    ("modules",),
    ("callbacks",),
    ("report", "viewer"),
    ("cli",),
)
"""The layers, lowest first: a file may import from its own folder and from the layers below."""

UNKNOWN = {
    "losses": {"errors", "types", "state", "protocols"},  # pure functions of tensors
    "cpu": {"protocols", "distributed"},
    "networks": {"distributed", "protocols", "state"},
    "policies": {"losses", "cpu", "distributed", "protocols"},  # what runs without Lightning and without games
    "envs": {"losses", "networks", "cpu", "policies"},
    "runs": {"protocols", "losses", "networks", "envs"},
    "media": {"losses", "networks", "policies", "envs"},
    "data": {"losses", "networks", "policies"},
    "callbacks": {"networks", "policies"},
    "viewer": {"cpu", "distributed", "networks"},
    "report": {"types", "state", "protocols", "distributed", "losses", "cpu"}
    | {"networks", "policies", "media", "data", "modules", "callbacks"},  # it starts at once, so it may load no torch
}
"""Layers below that a layer has no business with all the same."""

EXCEPTIONS: dict[str, set[str]] = {}

LIGHTNING = ("data/datamodule.py", "data/episode_datamodule.py", "modules/", "callbacks/", "cli/", "runs/")
LIBRARIES: dict[str, tuple[str, ...]] = {
    "procgen": ("envs/procgen.py",),
    "procgen_gym": ("envs/procgen.py",),
    "gym3": ("envs/procgen.py",),
    "gym": ("envs/procgen.py",),
    "ale_py": ("envs/atari.py", "envs/atari_games.py"),
    "numba": ("cpu/jit.py", "cpu/max_pool_kernels.py", "cpu/channel_norm.py"),
    "pytorch_lightning": LIGHTNING,
    "lightning_fabric": LIGHTNING,
    "lightning": (),
    "wandb": ("runs/wandb_run.py",),
    "safetensors": ("policies/folder.py",),
    "onnx": ("policies/onnx_model.py",),
    "onnxruntime": ("policies/onnx_model.py",),
    "huggingface_hub": ("policies/hub.py",),
    "jinja2": ("report/page.py",),
    "starlette": ("viewer/access.py", "viewer/server.py"),
    "uvicorn": ("viewer/serving.py",),
    "websockets": (),
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


def below(layer: str) -> set[str]:
    """What the files of a layer may import of the package."""
    [height] = [height for height, layers in enumerate(ORDER) if layer in layers]
    return {layer, *(name for layers in ORDER[:height] for name in layers)} - UNKNOWN.get(layer, set())


def layer_violations(path: str, source: str) -> list[str]:
    layer = path.split("/")[0].removesuffix(".py")
    allowed = below(layer) | EXCEPTIONS.get(path, set())
    return [
        f"{path} imports {module}: {layer} may import only {', '.join(sorted(allowed))}"
        for module in imported(source)
        if module.startswith(".") or (module.startswith("lightning_rl.") and module.split(".")[1] not in allowed)
    ]


def import_circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, directly or through others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting.extend(new)
        return seen

    return sorted(module for module in graph if module in reached(module))


def module_graph() -> dict[str, set[str]]:
    """Which modules of the package each of its modules imports."""
    modules = {
        f"lightning_rl.{path.removesuffix('.py').replace('/', '.')}": path for path in FILES if path not in DOORS
    }
    found = {module: set(imported((PACKAGE / path).read_text())) for module, path in modules.items()}
    names = {module: set(import_names((PACKAGE / path).read_text())) for module, path in modules.items()}
    return {module: (found[module] | names[module]) & modules.keys() for module in modules}


def import_names(source: str) -> Iterator[str]:
    """What `from package import module` imports, as a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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


def test_no_modules_import_each_other() -> None:
    assert import_circles(module_graph()) == []


def test_a_circle_of_imports_is_found() -> None:
    assert import_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def test_every_folder_has_its_layer() -> None:
    layers = {path.split("/")[0].removesuffix(".py") for path in FILES if path not in DOORS}

    assert layers == {name for names in ORDER for name in names}


@pytest.mark.parametrize("path", FILES)
def test_a_file_is_read_in_one_sitting(path: str) -> None:
    assert len((PACKAGE / path).read_text().splitlines()) <= 400


def test_the_root_holds_what_all_layers_know() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 8


def test_functions_are_short() -> None:
    lengths = [
        node.end_lineno - node.body[0].lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse((PACKAGE / path).read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
    ]

    assert median(lengths) <= 8


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
    message = "losses/vtrace.py imports lightning_rl.types: losses may import only distributed, losses, version"

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
