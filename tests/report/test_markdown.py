"""The tables for a README: what they hold, and that no name becomes markup."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.report import command
from lightning_rl.report.markdown import markdown
from tests.support.result_folders import config, metrics, results, write_run

STRANGE = "a|b*c `d` <script>_e_ [f](g)\n~~h~~ num_levels"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on three methods, of which one has two seeds and a strange name."""
    folder = tmp_path_factory.mktemp("markdown")
    methods = (("PPOModule", "ppo", 3, 4.0), ("ImpalaModule", "impala", 3, 6.0), ("SimPLeModule", STRANGE, 2, -1.0))
    for model, method, seeds, last in methods:
        for seed in range(1, seeds + 1):
            test = results(train=last + 1, full=last + seed / 10, method=method)
            own = config(model=model, seed=seed)
            write_run(folder / "runs" / f"{model}_{seed}", own, test, metrics(last, rows=10))
    out = folder / "out"
    assert command.main([str(folder / "runs"), "--out", str(out), "--baseline", "none"]) == 0
    return out


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def cells(text: str) -> list[list[str]]:
    """The rows of all tables, heads included."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines]


def test_each_game_has_a_table_with_the_best_first(text: str, report: dict[str, Any]) -> None:
    heads, best, second, worst, *_ = cells(text)
    ppo = report["groups"][1]
    values = ppo["per_game"]["starpilot"]["full_distribution"]

    assert heads == ["group", "seeds", "env steps", "training levels", "all levels"]
    assert (best[0], second[0]) == ("impala", "ppo")
    low, high = values["ci95"]
    assert second[1:] == ["3", "507 904", "5.00, 5.00 to 5.00", f"{values['return_mean']:.2f}, {low:.2f} to {high:.2f}"]
    assert worst[1:] == ["2 \\*", "507 904", "0.00", "−0.85"]
    assert "\\* Fewer than three seeds" in text


def test_pairs_stand_with_their_interval_and_its_coverage(text: str, report: dict[str, Any]) -> None:
    [pair] = [pair for pair in report["comparisons"] if pair["groups"] == ["impala", "ppo"]]
    held = f"{100 * pair['ci95_coverage']:.1f} %"

    assert ["impala", "ppo", "1", "1.00, 1.00 to 1.00", held] in cells(text)


def test_each_game_has_its_learning_curves_with_their_words(text: str, folder: Path) -> None:
    shown = re.findall(r"!\[([^\n]*?)(?<!\\)\]\((pictures/[^)]*)\)", text)

    assert [path for _, path in shown] == [
        "pictures/curves-env_steps-training-levels-starpilot.svg",
        "pictures/curves-env_steps-all-levels-starpilot.svg",
    ]
    assert all(words.startswith("starpilot: return") and "ppo ends at" in words for words, _ in shown)
    assert all((folder / path).is_file() for _, path in shown)


def test_no_sign_of_a_name_is_markup(text: str) -> None:
    rows = cells(text)

    assert {len(row) for row in rows} == {5}
    assert rows[3][0] == r"a\|b\*c \`d\` &lt;script&gt;\_e\_ \[f\](g) \~\~h\~\~ num_levels"


def test_nor_is_one_of_a_game(report: dict[str, Any]) -> None:
    strange = "<b>|game"
    [group, *_] = report["groups"]
    of_it = group | {"games": [strange]} | {key: {strange: group[key]["starpilot"]} for key in ("seeds", "per_game")}

    text = markdown({"groups": [of_it], "comparisons": []}, [], folder="pictures")

    assert text.startswith("## &lt;b&gt;\\|game\n")
