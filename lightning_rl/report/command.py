"""`lightning-rl report RUN [RUN ...]`: run folders, or folders that hold them, to a page.

Writes report.html, report.json with every number on it, and for a README report.md with the tables and pictures/ with
the plots. Groups runs by method and setting, and shows interquartile mean, mean, median and optimality gap with
bootstrap intervals over runs, performance profiles, probability of improvement, the generalization gap, returns by
game, and learning curves. Folders that are damaged, unfinished or of another program are named on stderr, one line
each, and the rest is reported.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_rl.errors import UsageError, UsageParser
from lightning_rl.report.analysis import analysis
from lightning_rl.report.baselines import baselines
from lightning_rl.report.figures import figures
from lightning_rl.report.groups import grouped
from lightning_rl.report.markdown import markdown
from lightning_rl.report.page import GENERATOR, page, plot_style
from lightning_rl.report.run_folders import read_runs, shown
from lightning_rl.report.svg import standalone
from lightning_rl.runs.atomic_files import atomic_write
from lightning_rl.runs.paths import users_path

_COMMENT = f"<!-- {GENERATOR} -->"
_PICTURES = "pictures"
_SIGNS = {"report.html": f'content="{GENERATOR}"', "report.json": '"lightning_rl_version"', "report.md": _COMMENT}
"""The files of a report, and what each holds near its beginning, by which an earlier one is known."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = UsageParser(
        prog="lightning-rl report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or folder that holds some")
    options.add_argument("--out", default="report", help="folder for the report (default: ./report)")
    options.add_argument("--baseline", choices=("all", "none"), default="all", help="none: show only the runs given")
    return options


def main(args: Sequence[str]) -> int:
    """Runs the command.

    Args:
        args: what follows `report` on the command line.

    Returns:
        Exit status: 0 where a run was reported, 1 where the report could not be written, else 2.
    """
    try:
        options = parser().parse_args(args)
        options.out = Path(users_path("out", options.out) or "")
        options.runs = [Path(users_path("RUN", run) or "") for run in options.runs]
        _check_out(options.out)
        return _reported(options)
    except UsageError as error:
        _say(str(error))
        return 2
    except OSError as error:
        _say(f"the report cannot be written: {error}")
        return 1


def _reported(options: argparse.Namespace) -> int:
    runs, left_out = read_runs(options.runs)
    groups, more = grouped(runs)
    left_out += more
    for folder, why in left_out:
        _say(f"{folder}: {why}")
    if not groups:
        raise UsageError("no run is left to report")
    beside = baselines(groups) if options.baseline == "all" else []
    report = analysis([*groups, *beside], left_out, out=options.out)
    _write(options.out, report)
    sys.stdout.write("".join(f"{shown(options.out / name)}\n" for name in [*_SIGNS, _PICTURES]))
    return 0


def _write(out: Path, report: dict[str, Any]) -> None:
    drawn, css = figures(report), plot_style()
    text = {
        "report.html": page(report, drawn),
        "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
        "report.md": f"{_COMMENT}\n\n{markdown(report, drawn.all(), folder=_PICTURES)}",
        **{f"{_PICTURES}/{figure.name}.svg": standalone(figure.picture, css, sign=_COMMENT) for figure in drawn.all()},
    }
    for name, content in text.items():
        with atomic_write(out / name) as file:
            file.write(content.encode("utf-8", "replace"))  # a file's names may hold half a letter
    for path in (out / _PICTURES).glob("*.svg"):
        if f"{_PICTURES}/{path.name}" not in text:
            path.unlink()  # an earlier report's, of other games


def _check_out(out: Path) -> None:
    """Refuses to replace what is no earlier report, before anything is read.

    Raises:
        UsageError: a file is in the way; the message names it.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out must be a folder, found the file {shown(out)}")
    earlier = {f"{_PICTURES}/{path.name}": _COMMENT for path in (out / _PICTURES).glob("*.svg")}
    for name, sign in (_SIGNS | earlier).items():
        path = out / name
        if path.exists() and not (path.is_file() and sign.encode() in path.read_bytes()[:2000]):
            raise UsageError(f"--out must not hold another program's {name}, found {shown(path)}")


def _say(message: str) -> None:
    sys.stderr.write(f"lightning-rl: {message}\n")
