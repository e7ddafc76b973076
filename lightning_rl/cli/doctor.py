"""`lightning-rl doctor`: looks at this machine and installation, and says what will break and what to change.

It prints a line for each package, for the games, GPUs, cores, memory, the allocator, Weights & Biases, free space, open
files, and the cluster job that it runs in. Its exit status is 1 where a line begins with BAD.

`lightning-rl doctor --benchmark` then trains PPO for about a minute, and says how fast this machine plays, acts and
learns, and which of the three is the bound.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_rl.cli.finding import Finding
from lightning_rl.cpu.allocator import keep_freed_memory
from lightning_rl.cpu.cores import usable_cores
from lightning_rl.runs.wandb_key import has_key
from lightning_rl.version import __version__

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_GIB = 2**30
_ENOUGH_SPACE = _GIB  # a few checkpoints, metrics and videos of a run
_ENOUGH_MEMORY = 4 * _GIB  # PPO's rollouts, and what learning from them takes
_ENOUGH_FILES = 256
_PATIENCE = 120.0
_BENCHMARK = "--benchmark"
_REFUSED = "lightning_rl.errors.UsageError: "

_GAMES = {
    "procgen": "from lightning_rl.envs.procgen import ProcgenVectorEnv as Env; game = 'coinrun'",
    "atari": "from lightning_rl.envs.atari import AtariVectorEnv as Env; game = 'pong'",
}
_REPLAY = """
import numpy as np
env = Env(game, num_envs=1, seed=0)
env.reset()
def play():
    return [env.step(np.array([step // 4 % 6]))[0].copy() for step in range(24)]
play()
state = env.get_state()
frames = play()
if all(np.array_equal(frame, frames[0]) for frame in frames):
    raise SystemExit("the game stands still")
env.set_state(state)
if not all(map(np.array_equal, frames, play())):
    raise SystemExit("a restored game went another way")
"""
_TORCH = """
import json
import torch
from lightning_rl.cpu.bfloat16 import cpu_has_bf16
cuda = torch.cuda.is_available()
print(json.dumps({
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "built_for": torch.version.cuda,
    "bf16": cpu_has_bf16(),
}))
"""


def findings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that is looked at, as it is found; what cannot be looked at is a finding, too.

    Args:
        environ: the environment variables.
    """
    yield Finding("ok", "lightning_rl", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "packages": packages,
        "games": games,
        "computing": lambda: computing(environ),
        "memory": memory,
        "allocator": lambda: [allocator(environ)],
        "wandb": lambda: [logging_mode(environ)],
        "space": lambda: spaces(environ),
        "open files": lambda: [open_files()],
        "cluster": lambda: cluster(environ),
    }
    for subject, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # a broken machine is what this is for
            yield Finding("bad", subject, f"{type(error).__name__}: {error}", "this could not be looked at")


def packages(name: str = "lightning_rl") -> Iterator[Finding]:
    """Each dependency against the versions that the package asks for.

    Args:
        name: of the installed distribution.
    """
    from packaging.requirements import Requirement  # it may be what is missing

    try:
        asked = metadata.requires(name) or []
        python = metadata.metadata(name)["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Finding("note", name, "is not installed, so no versions are known", "pip install -e . in its folder")
        return
    if platform.python_version() not in Requirement(f"python{python}").specifier:
        yield Finding("bad", "python", f"{platform.python_version()}, wanted {python}", "make a venv of another Python")
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        yield _package(requirement)
        yield from _extras(requirement)


def _package(requirement: "Requirement") -> Finding:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    remedy = f"pip install '{requirement.name}{extras}{requirement.specifier}'"
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding("bad", requirement.name, "is not installed", remedy)
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding("bad", requirement.name, f"{found}, wanted {requirement.specifier}", remedy)
    return Finding("ok", requirement.name, found)


def _extras(requirement: "Requirement") -> Iterator[Finding]:
    """What the extras of a requirement add and is wrong."""
    from packaging.requirements import Requirement

    try:
        asked = metadata.requires(requirement.name) or []
    except metadata.PackageNotFoundError:
        return
    for added in map(Requirement, asked):
        wanted = any(added.marker and added.marker.evaluate({"extra": extra}) for extra in requirement.extras)
        finding = _package(added) if wanted else None
        if finding is not None and finding.verdict == "bad":
            yield finding


def games() -> Iterator[Finding]:
    """Whether each binding plays, and goes the same way again from a saved state, in a process of its own."""
    names = list(_GAMES)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        names.remove("procgen")
        where = f"{platform.system()} {platform.machine()}"
        yield Finding("note", "games of procgen", f"have no wheels for {where}", "Atari's can be played")
    for name in names:
        _, failure = _run(_GAMES[name] + _REPLAY)
        if failure.startswith(_REFUSED):  # it says what to do
            yield Finding("bad", f"games of {name}", failure.removeprefix(_REFUSED))
        elif failure:
            yield Finding("bad", f"games of {name}", failure, "install their package again")
        else:
            yield Finding("ok", f"games of {name}", "play, and resume to the same frames")


def _run(program: str) -> tuple[str, str]:
    """What a Python program says, and how it fails, where it does; a crash of compiled code has a signal's name."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer in {_PATIENCE:g} s"
    if done.returncode == 0:
        return done.stdout, ""
    if done.returncode < 0:
        return done.stdout, f"killed by {signal.Signals(-done.returncode).name}"
    words = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    return done.stdout, words[-1]


def computing(environ: Mapping[str, str]) -> Iterator[Finding]:
    """GPUs that torch can use, and cores.

    Args:
        environ: the environment variables.
    """
    said, failure = _run(_TORCH)
    if failure:
        yield Finding("bad", "torch", failure, "install it again")
        return
    known = json.loads(said)
    devices = [str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    yield gpus(known["gpus"], known["built_for"], devices, environ)
    yield processor(environ, bf16=known["bf16"])


def gpus(names: list[str], built_for: str | None, devices: list[str], environ: Mapping[str, str]) -> Finding:
    """What torch finds beside what is there.

    Args:
        names: of the GPUs that torch can use.
        built_for: the version of CUDA that torch was built for, or None.
        devices: files of GPUs.
        environ: the environment variables.
    """
    if names:
        return Finding("ok", "GPUs", ", ".join(names))
    if not devices:
        return Finding("ok", "GPUs", "none; `fit` takes precision and threads from the processor")
    if "CUDA_VISIBLE_DEVICES" in environ:
        return Finding("note", "GPUs", f"CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']} hides them")
    there = f"there is {devices[0]}, and torch sees no GPU"
    if built_for is None:
        return Finding("note", "GPUs", there, "this torch was built for CPUs; another build would use it")
    return Finding("bad", "GPUs", there, f"this torch was built for CUDA {built_for}, which the driver may not know")


def processor(environ: Mapping[str, str], *, bf16: bool, root: Path = Path("/")) -> Finding:
    """Cores that this process may use, and the threads that it is told to.

    Args:
        environ: the environment variables.
        bf16: whether the processor multiplies such numbers.
        root: where the kernel's files are.
    """
    cpuinfo = _text(root / "proc/cpuinfo").splitlines()
    names = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    cores = usable_cores(root)
    numbers = "bf16" if bf16 else "no bf16, so float32 is taken"
    found = f"{cores:g} cores for this process, {numbers}; {names[0] if names else platform.processor()}"
    told = environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > cores:
        return Finding("note", "processor", found, f"OMP_NUM_THREADS={told} is more than there are cores")
    return Finding("ok", "processor", found)


def memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Memory that is free, within the limit of the container.

    Args:
        root: where the kernel's files are.
    """
    lines = _text(root / "proc/meminfo").splitlines()
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    limit, used = (_text(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory.current"))
    if limit.isdigit() and used.isdigit():
        free.append(int(limit) - int(used))
    if free:
        found = f"{min(free) / _GIB:.1f} GiB free"
        yield Finding("ok" if min(free) >= _ENOUGH_MEMORY else "note", "memory", found)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def allocator(environ: Mapping[str, str]) -> Finding:
    """Whether freed memory can be kept, without which training on a CPU takes up to twice the time.

    Args:
        environ: the environment variables.
    """
    if "malloc" in environ.get("LD_PRELOAD", ""):
        return Finding("note", "allocator", f"LD_PRELOAD={environ['LD_PRELOAD']}", "it has habits of its own")
    if keep_freed_memory():
        return Finding("ok", "allocator", "glibc's, told to keep freed memory")
    return Finding("note", "allocator", "not glibc's", "training on a CPU may take up to twice the time")


def logging_mode(environ: Mapping[str, str]) -> Finding:
    """What Weights & Biases will do.

    Args:
        environ: the environment variables.
    """
    mode = environ.get("WANDB_MODE", "offline")
    if mode not in ("online", "offline", "disabled"):
        return Finding("note", "wandb", "offline", f"that is what WANDB_MODE={mode} is taken for")
    if mode == "online" and not has_key(environ):
        return Finding("bad", "wandb", "online without a key", "wandb login, or WANDB_MODE=offline")
    return Finding("ok", "wandb", mode)


def spaces(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Free space where runs and temporary files are kept, and whether it can be written.

    Args:
        environ: the environment variables.
    """
    remedies = {"run folders": "work in another folder", "temporary files": "set TMPDIR to another"}
    for use, remedy in remedies.items():
        folder = Path.cwd() if use == "run folders" else Path(environ.get("TMPDIR") or tempfile.gettempdir())
        subject = f"space for {use}"
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            yield Finding("bad", subject, f"{folder} cannot be written", remedy)
            continue
        free = shutil.disk_usage(folder).free
        found = f"{free / _GIB:.1f} GiB in {folder}"
        yield Finding("ok", subject, found) if free >= _ENOUGH_SPACE else Finding("bad", subject, found, "make room")


def open_files() -> Finding:
    """How many files a process may have open: actors and W&B take some each."""
    import resource  # not on every system

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _ENOUGH_FILES:
        return Finding("note", "open files", f"at most {limit}", f"ulimit -n {4 * _ENOUGH_FILES}")
    return Finding("ok", "open files", "no limit" if limit < 0 else f"at most {limit}")


def cluster(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What a scheduler or launcher says of this process.

    Args:
        environ: the environment variables.
    """
    launchers = {
        "slurm": ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_RESTART_COUNT"),
        "torchrun": ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"),
    }
    for launcher, names in launchers.items():
        if names[0] in environ:
            said = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
            yield Finding("ok", launcher, said)


def main(args: list[str], environ: Mapping[str, str]) -> int:
    """Prints every finding.

    Args:
        args: what follows `doctor` on the command line: nothing, --benchmark or --help.
        environ: the environment variables.

    Returns:
        Exit status: 1 where something will break, 2 where something else was asked for.
    """
    if args in (["--help"], ["-h"]):
        sys.stdout.write(__doc__ or "")
        return 0
    if args not in ([], [_BENCHMARK]):
        sys.stderr.write(f"lightning-rl: doctor takes {_BENCHMARK} alone, found {' '.join(args)}\n")
        return 2
    broken = _shown(findings(environ))
    sys.stdout.write(f"{broken} of these will break\n" if broken else "nothing here will break\n")
    if args and not broken:
        from lightning_rl.cli import machine_speed  # whose imports may be what is missing

        _shown(machine_speed.findings(machine_speed.usual_sizes()))
    return 1 if broken else 0


def _shown(found: Iterable[Finding]) -> int:
    """Prints the findings as they come; how many of them will break."""
    broken = 0
    for finding in found:
        broken += finding.verdict == "bad"
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
    return broken
