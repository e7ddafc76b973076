"""`lightning-rl doctor`: what a bug report needs, what will break, and what to change."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from lightning_rl.version import __version__

_GIB = 2**30
_ENOUGH_SPACE = _GIB  # a few checkpoints, metrics and videos of a run
_ENOUGH_SHARED = 64 * 2**20  # Docker's default; each actor's unroll is some 10 MiB
_ENOUGH_FILES = 256
_PATIENCE = 120.0

_PLAY = {
    "procgen": """
import numpy as np
from lightning_rl.envs.procgen import ProcgenVectorEnv
env = ProcgenVectorEnv("coinrun", num_envs=1, seed=0)
""",
    "atari": """
import numpy as np
from lightning_rl.envs.atari import AtariVectorEnv
env = AtariVectorEnv("pong", num_envs=1, seed=0)
""",
}
_REPLAY = """
env.reset()
state = env.get_state()
frames = [env.step(np.ones(1, dtype=np.int64))[0].copy() for _ in range(4)]
env.set_state(state)
again = [env.step(np.ones(1, dtype=np.int64))[0].copy() for _ in range(4)]
assert all(map(np.array_equal, frames, again)), "a restored game went another way"
"""

_TORCH = """
import json
import torch
from lightning_rl.precision import cpu_has_bf16
cuda = torch.cuda.is_available()
print(json.dumps({
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "built_for": torch.version.cuda,
    "bf16": cpu_has_bf16(),
}))
"""


class Finding(NamedTuple):
    """One line of the report."""

    verdict: Literal["ok", "note", "bad"]
    """`bad` will break a command; `note` costs something, or is worth knowing."""
    subject: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict.upper() if self.verdict == 'bad' else self.verdict:<5}{self.subject:<22}{self.found}"
        return f"{line}: {self.advice}" if self.advice else line


def findings(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Everything that is looked at, as it is found.

    Args:
        environ: the environment variables.
    """
    yield Finding("ok", "lightning_rl", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from packages()
    yield from games()
    yield from computing(environ)
    yield allocator()
    yield logging_mode(environ)
    yield from spaces()
    yield open_files()
    yield from cluster(environ)


def packages(name: str = "lightning_rl") -> Iterator[Finding]:
    """Each dependency against the versions that the package asks for.

    Args:
        name: of the installed distribution.
    """
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


def _package(requirement: Requirement) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding("bad", requirement.name, "is not installed", f"pip install '{wanted}'")
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding("bad", requirement.name, f"{found}, wanted {requirement.specifier}", f"pip install '{wanted}'")
    return Finding("ok", requirement.name, found)


def games() -> Iterator[Finding]:
    """Whether each binding plays, and goes the same way again from a saved state, in a process of its own."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        where = f"{platform.system()} {platform.machine()}"
        yield Finding("note", "procgen", f"has no wheels for {where}", "Atari alone can be played")
        names = ["atari"]
    else:
        names = ["procgen", "atari"]
    for name in names:
        _, failure = _run(_PLAY[name] + _REPLAY)
        if failure:
            yield Finding("bad", f"games of {name}", failure, "reinstall the package above")
        else:
            yield Finding("ok", f"games of {name}", "play, and resume to the same frames")


def _run(program: str) -> tuple[str, str]:
    """What a Python program says, and its last words where it fails; a crash of compiled code is one of those."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer in {_PATIENCE:.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    words = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    return done.stdout, words[-1]


def computing(environ: Mapping[str, str], device: Path = Path("/dev/nvidia0")) -> Iterator[Finding]:
    """GPUs that torch can use, and cores.

    Args:
        environ: the environment variables.
        device: what is there on a machine with an NVIDIA GPU.
    """
    said, failure = _run(_TORCH)
    if failure:
        yield Finding("bad", "torch", failure, "reinstall it")
        return
    known = json.loads(said)
    yield gpus(known["gpus"], known["built_for"], device)
    yield processor(environ, bf16=known["bf16"])


def gpus(names: list[str], built_for: str | None, device: Path) -> Finding:
    """What torch finds beside what is there.

    Args:
        names: of the GPUs that torch can use.
        built_for: the version of CUDA that torch was built for, or None.
        device: as above.
    """
    if names:
        return Finding("ok", "GPUs", ", ".join(names))
    if not device.exists():
        return Finding("ok", "GPUs", "none; --config configs/hardware/cpu.yaml is for such a machine")
    build = f"was built for CUDA {built_for}, which the driver may not know" if built_for else "was built for CPUs"
    return Finding("bad", "GPUs", f"torch sees none, and there is {device}", f"this torch {build}; install another")


def processor(environ: Mapping[str, str], *, bf16: bool, cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Cores that this process may use, and the threads that it is told to.

    Args:
        environ: the environment variables.
        bf16: whether the processor multiplies such numbers.
        cpuinfo: what the kernel says of the processor.
    """
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    names = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    numbers = "bf16" if bf16 else "no bf16, so float32 is taken"
    found = f"{cores} cores for this process, {numbers}; {names[0] if names else platform.processor()}"
    told = environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > cores:
        return Finding("note", "processor", found, f"OMP_NUM_THREADS={told} is more than there are cores")
    return Finding("ok", "processor", found)


def allocator() -> Finding:
    """Whether freed memory can be kept, without which training on a CPU takes up to twice the time."""
    library, version = platform.libc_ver()
    if library == "glibc":
        return Finding("ok", "allocator", f"glibc {version}, told to keep freed memory")
    return Finding("note", "allocator", library or "not glibc", "training on a CPU may take up to twice the time")


def logging_mode(environ: Mapping[str, str], netrc: Path | None = None) -> Finding:
    """What Weights & Biases will do.

    Args:
        environ: the environment variables.
        netrc: where `wandb login` keeps its key; `.netrc` at home by default.
    """
    mode = environ.get("WANDB_MODE", "offline")
    if mode not in ("online", "offline", "disabled", "dryrun"):
        return Finding("bad", "wandb", f"WANDB_MODE is {mode}", "online, offline and disabled are allowed")
    place = netrc or Path(environ.get("NETRC", Path.home() / ".netrc"))
    if mode == "online" and "WANDB_API_KEY" not in environ and not place.exists():
        return Finding("bad", "wandb", "online without a key", "wandb login, or WANDB_MODE=offline")
    return Finding("ok", "wandb", mode)


def spaces(folders: Mapping[str, Path] | None = None) -> Iterator[Finding]:
    """Free space where runs, temporary files and actors' unrolls are kept, and whether it can be written.

    Args:
        folders: what is kept where; by default the working folder, the one for temporary files, and `/dev/shm`.
    """
    usual = {"run folders": Path.cwd(), "temporary files": Path(tempfile.gettempdir()), "actors": Path("/dev/shm")}
    for use, folder in (usual if folders is None else folders).items():
        enough = _ENOUGH_SHARED if use == "actors" else _ENOUGH_SPACE
        subject = f"space for {use}"
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            yield Finding("bad", subject, f"{folder} cannot be written", "give --run_dir, TMPDIR or another machine")
            continue
        free = shutil.disk_usage(folder).free
        found = f"{free / _GIB:.1f} GiB in {folder}"
        yield Finding("ok", subject, found) if free >= enough else Finding("bad", subject, found, "make room")


def open_files() -> Finding:
    """How many files a process may have open: actors and W&B take some each."""
    try:
        import resource
    except ImportError:
        return Finding("note", "open files", "unknown on this system")
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _ENOUGH_FILES:
        return Finding("note", "open files", f"at most {limit}", f"ulimit -n {4 * _ENOUGH_FILES}")
    return Finding("ok", "open files", "no limit" if limit < 0 else f"at most {limit}")


def cluster(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What a scheduler or launcher says of this process."""
    launchers = {
        "slurm": ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_RESTART_COUNT"),
        "torchrun": ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"),
    }
    for launcher, names in launchers.items():
        if names[0] in environ:
            said = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
            yield Finding("ok", launcher, said)


def main(args: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """Prints every finding.

    Args:
        args: what follows `doctor` on the command line: nothing.
        environ: the environment variables.

    Returns:
        Exit status: 1 where something will break, 2 where something was asked for.
    """
    if args:
        sys.stderr.write(f"lightning-rl: doctor takes no options, found {' '.join(args)}\n")
        return 2
    broken = 0
    for finding in findings(environ):
        broken += finding.verdict == "bad"
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{broken} of these will break\n" if broken else "nothing here will break\n")
    return 1 if broken else 0
