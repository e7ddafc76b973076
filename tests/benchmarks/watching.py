"""`lightning-rl play` as a person meets it: time to the first frame, frames a second, and memory over many episodes.

What follows `--` is the command line of `play`, as `-- --ckpt_path RUN` or `-- --game starpilot`.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

_PATIENCE = 600.0


def heard(socket: ClientConnection, fits: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The next message that something holds for."""
    while True:
        content = socket.recv(timeout=_PATIENCE)
        assert isinstance(content, bytes)
        header: dict[str, Any] = json.loads(content[4 : 4 + int.from_bytes(content[:4], "big")])
        if header["type"] == "frame" and fits(header):
            return header


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def rate(socket: ClientConnection, speed: float, seconds: float) -> tuple[float, float]:
    """Steps and frames a second at a speed; 0 is as fast as it goes."""
    socket.send(json.dumps({"do": "speed", "value": speed}))
    before = heard(socket, lambda frame: frame["speed"] == speed)
    begun, steps, frames = time.monotonic(), 0, 0
    while time.monotonic() < begun + seconds:
        after = heard(socket, lambda _: True)
        steps += after["length"] - (before["length"] if after["episode"] == before["episode"] else 0)
        frames, before = frames + 1, after
    passed = time.monotonic() - begun
    return steps / passed, frames / passed


def watch(socket: ClientConnection, pid: int, episodes: int) -> None:
    """Prints the memory while so many episodes are watched as fast as they go."""
    socket.send(json.dumps({"do": "speed", "value": 0}))
    first = heard(socket, lambda _: True)["episode"]
    marks = sorted({number for number in (10, 100, 200, 500, 700, 1000, episodes) if number <= episodes})
    begun = time.monotonic()
    for mark in marks:
        heard(socket, lambda frame, at=first + mark: frame["episode"] >= at)  # type: ignore[misc]
        sys.stdout.write(f"{mark:6} episodes  {megabytes(pid):7.1f} MB  {time.monotonic() - begun:7.1f} s\n")
        sys.stdout.flush()


def main() -> None:
    """Starts the command, measures, and interrupts it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="That each rate is measured for.")
    parser.add_argument("--where", default="game", choices=("game", "both", "model"), help="What is measured.")
    parser.add_argument("--episodes", type=int, default=0, help="Watched at full speed, for the memory.")
    parser.add_argument("play", nargs="+", help="Options of `play`, after --.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        command = [sys.executable, "-m", "lightning_rl", "play", *options.play, "--out", f"{folder}/recordings"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            link = urlsplit(process.stdout.readline().strip())
            address, origin = f"ws://{link.netloc}/ws?{link.query}", Origin(f"http://{link.netloc}")
            with connect(address, origin=origin, proxy=None, max_size=None) as socket:
                socket.send(json.dumps({"do": "hello", "window": "benchmark"}))
                heard(socket, lambda _: True)
                sys.stdout.write(f"first frame after {time.monotonic() - begun:.1f} s\n")
                if options.where != "game":
                    socket.send(json.dumps({"do": "where", "value": options.where}))
                    heard(socket, lambda frame: frame["where"] == options.where)
                for name, speed in (("at 15 a second", 1), ("as fast as it goes", 0)):
                    steps, frames = rate(socket, speed, options.seconds)
                    sys.stdout.write(f"{name}: {steps:.1f} steps and {frames:.1f} frames a second\n")
                if options.episodes:
                    watch(socket, process.pid, options.episodes)
            process.send_signal(signal.SIGINT)
            status = process.wait(30)
        left = list(Path(folder).iterdir())
        sys.stdout.write(f"Ctrl-C: status {status}, files left: {len(left)}\n")


if __name__ == "__main__":
    main()
