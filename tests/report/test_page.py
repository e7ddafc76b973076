"""The page in a real browser: it opens from disk, draws, sorts, enlarges, fits a phone, and says what the JSON says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.report import command
from tests.support import browser
from tests.support.browser import Browser
from tests.support.result_folders import config, metrics, results, write_played, write_run

STRANGE = "<script>alert(1)<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two methods, three seeds and two games, with videos, a small group and strange names."""
    runs = tmp_path_factory.mktemp("runs")
    methods = (("PPOModule", "ppo", 3), ("ImpalaModule", "impala", 3), ("SimPLeModule", STRANGE, 2))
    for number, (model, method, seeds) in enumerate(methods):
        for game in ("starpilot", "coinrun"):
            for seed in range(1, seeds + 1):
                last = 4 + number + seed / 10
                run = write_run(
                    runs / method.replace("/", "") / game / f"{STRANGE} {seed}",
                    config(model=model, game=game, seed=seed),
                    results(train=last + 1, full=last, game=game, method=method),
                    metrics(last, rows=12),
                )
                (run / "media").mkdir()
                (run / "media" / "episodes.mp4").write_bytes(b"")
                write_played(run, {"train_levels": (last, 1.0, 2.0), "full_distribution": (-1.5, 0.0)}, game=game)
    write_run(runs / "<b>broken</b>")
    out = tmp_path_factory.mktemp("out")
    assert command.main([str(runs), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def shown(started: Browser, folder: Path) -> Browser:
    started.resize(1280)
    started.scheme("light")
    started.open((folder / "report.html").as_uri())
    return started


def table(shown: Browser, name: str) -> list[list[Any]]:
    """The cells of a table: numbers where they have a value, else texts."""
    found: list[list[Any]] = shown.evaluate(
        f"[...document.getElementById('{name}').tBodies[0].rows].map(row => [...row.cells].map(cell =>"
        " cell.dataset.high !== undefined ? [Number(cell.dataset.value), Number(cell.dataset.high)] :"
        " cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim()))"
    )
    return found


def test_it_opens_from_disk_without_a_complaint(shown: Browser) -> None:
    assert shown.evaluate("document.title") == "Results by method and setting"
    assert shown.evaluate("location.protocol") == "file:"
    assert shown.complaints == []


def test_every_plot_is_drawn(shown: Browser, report: dict[str, Any]) -> None:
    drawn = shown.evaluate(
        "[...document.querySelectorAll('.plot > svg')].map(svg => [svg.getBoundingClientRect().height,"
        " svg.querySelectorAll('polyline, circle, polygon').length, svg.getAttribute('aria-label').length])"
    )

    aggregates, profiles, improvement, curves = 8, 2, 1, 4 * 2
    assert len(drawn) == aggregates + profiles + improvement + curves
    assert all(height > 100 and marks > 0 and alt > 20 for height, marks, alt in drawn)
    assert shown.evaluate("document.documentElement.outerHTML.includes('NaN')") is False


def test_it_loads_nothing_from_elsewhere(folder: Path) -> None:
    page = (folder / "report.html").read_text()

    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize("level_set", ["train_levels", "full_distribution"])
def test_aggregates_are_those_of_the_json(level_set: str, shown: Browser, report: dict[str, Any]) -> None:
    rows = [row[3:] for row in table(shown, f"aggregates-{level_set}")]

    expected = [
        [group[level_set][f"{name}{of}"] for name in ("iqm", "mean", "median", "optimality_gap") for of in KINDS]
        for group in report["groups"]
        if group[level_set] is not None
    ]
    assert [[None if cell == "–" else cell for cell in row] for row in rows] == expected


KINDS = ("", "_ci95", "_coverage")


def test_games_comparisons_and_gaps_are_those_of_the_json(shown: Browser, report: dict[str, Any]) -> None:
    groups = report["groups"]
    games = {
        (game, group["name"], level_set): group["per_game"][game][level_set]
        for group in groups
        for game in group["games"]
        for level_set in ("train_levels", "full_distribution")
        if group["per_game"][game][level_set] is not None
    }
    names = {"training levels": "train_levels", "all levels": "full_distribution"}
    rows = table(shown, "per-game")
    assert len(rows) == len(games)
    for game, name, levels, mean, _, interval, _ in rows:
        expected = games[game, name.removesuffix(" *"), names[levels]]
        assert (mean, None if interval == "–" else interval) == (expected["return_mean"], expected["ci95"])
    assert [row[3] for row in table(shown, "comparisons")] == [
        pair["probability_of_improvement"] for pair in report["comparisons"]
    ]
    gaps = [group["generalization_gap"]["mean"] for group in groups if group["generalization_gap"] is not None]
    assert [row[2] for row in table(shown, "gaps")] == gaps


def test_numbers_shown_are_rounded_values(shown: Browser) -> None:
    pairs = shown.evaluate(
        "[...document.querySelectorAll('td.n[data-value]:not([data-high])')].map(cell =>"
        " [cell.textContent.trim().replace('−', '-'), Number(cell.dataset.value)])"
    )

    plain = [(text, value) for text, value in pairs if not text.endswith(("%", "!", "]", ")"))]
    assert len(plain) > 50
    for text, value in plain:
        digits = len(text.partition(".")[2])
        assert float(text) == pytest.approx(value, abs=0.51 * 10**-digits)


def test_a_table_sorts_by_a_column_in_both_directions(shown: Browser) -> None:
    click = "document.querySelectorAll('#per-game th button')[3].click()"
    column = 3

    shown.evaluate(click)
    rising = [row[column] for row in table(shown, "per-game")]
    shown.evaluate(click)
    falling = [row[column] for row in table(shown, "per-game")]

    assert rising == sorted(rising)
    assert falling == rising[::-1]
    assert rising[0] < rising[-1]
    state = "document.querySelectorAll('#per-game th')[3].getAttribute('aria-sort')"
    assert shown.evaluate(state) == "descending"


def test_a_table_sorts_by_the_keyboard(shown: Browser) -> None:
    shown.evaluate("document.querySelectorAll('#runs th button')[3].focus()")
    shown.press("Enter", 13)

    seeds = [row[3] for row in table(shown, "runs")]
    assert seeds == sorted(seeds)
    assert seeds[0] < seeds[-1]


def test_a_plot_is_enlarged_at_a_click_and_closed_by_escape(shown: Browser) -> None:
    small = shown.evaluate("document.querySelector('.plot svg').getBoundingClientRect().width")
    shown.evaluate("document.querySelector('.plot').click()")

    assert shown.evaluate("document.querySelector('dialog').open") is True
    assert shown.evaluate("document.querySelector('dialog svg').getBoundingClientRect().width") > 1.5 * small
    shown.press("Escape", 27)
    assert shown.evaluate("document.querySelector('dialog').open") is False


def test_a_phone_need_not_scroll_sideways(shown: Browser) -> None:
    shown.resize(390)

    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    assert shown.evaluate("document.querySelector('.plot svg').getBoundingClientRect().width") > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_have_contrast(scheme: str, shown: Browser) -> None:
    shown.scheme(scheme)
    contrasts = shown.evaluate(
        """(() => {
        const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const light = rgb => { const [r, g, b] = rgb.match(/[0-9.]+/g).map(Number).map(channel);
                               return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const back = light(getComputedStyle(document.documentElement).backgroundColor);
        const of = (css, property) => [...document.querySelectorAll(css)].map(e =>
          ratio(light(getComputedStyle(e)[property]), back));
        return [Math.min(...of('p, td, a, .mark, h2', 'color'), ...of('svg text', 'fill')),
                Math.min(...of('.plot .line', 'stroke'))];
        })()"""
    )

    text, lines = contrasts
    assert text >= 4.5
    assert lines >= 3


def test_dark_is_dark(shown: Browser) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = shown.evaluate(background)
    shown.scheme("dark")

    assert (light, shown.evaluate(background)) == ("rgb(255, 255, 255)", "rgb(15, 19, 24)")


def test_names_are_texts_never_markup(shown: Browser) -> None:
    assert shown.evaluate("document.querySelectorAll('script').length") == 1
    assert shown.evaluate("document.querySelectorAll('img, td b').length") == 0
    assert STRANGE in shown.evaluate("document.body.textContent")
    assert "<b>broken</b>" in shown.evaluate("document.getElementById('left-out').textContent")


def test_a_small_group_is_marked_and_has_no_interval(shown: Browser, report: dict[str, Any]) -> None:
    [small] = [group for group in report["groups"] if group["marked"] and not group["baseline"]]

    assert (small["method"], small["marked"]) == (STRANGE, "fewer than three seeds")
    assert "* fewer than three seeds: no interval over seeds." in shown.evaluate("document.body.textContent")
    [row] = [row for row in table(shown, "aggregates-full_distribution") if row[0].startswith("<script>")]
    assert row[4] == "–"


def test_links_lead_to_the_videos(shown: Browser) -> None:
    links = shown.evaluate("[...document.querySelectorAll('#runs a')].map(a => decodeURIComponent(a.pathname))")

    assert len(links) == 2 * (3 + 3 + 2)
    assert all(Path(link).is_file() for link in links)


def test_episodes_to_watch_are_those_of_the_json(shown: Browser, report: dict[str, Any]) -> None:
    expected = [
        [f"{value:.2f} ({row})".replace("-", "−") for value, row in zip(one["returns"], one["rows"], strict=True)]
        for group in report["groups"]
        for run in group["runs"]
        for one in run["examples"]
    ]

    assert len(expected) == 2 * 2 * (3 + 3 + 2)
    cells = "[...document.querySelectorAll('#examples tbody td:nth-child(n+5)')].map(cell => cell.textContent)"
    assert shown.evaluate(cells) == [text for row in expected for text in row]
    assert ["1.00 (1)", "2.00 (2)", "4.10 (0)"] in expected
    assert "--replay FOLDER/episodes.npz --episode NUMBER" in shown.evaluate("document.body.textContent")
