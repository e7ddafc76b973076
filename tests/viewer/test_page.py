"""The page in a real browser: it shows the game, and what is pressed in it happens."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from lightning_rl.runs.episodes_file import EpisodeRow
from lightning_rl.viewer.scene import PlayedEpisodes
from lightning_rl.viewer.serving import Viewer
from tests.support import browser
from tests.support.browser import Browser
from tests.viewer.walk import LENGTH, ForgetfulModel, RightPolicy, Talk, recorded, table, walk

COLUMN = (
    "(() => { const c = document.querySelector('canvas'), row = c.getContext('2d').getImageData(0, 0, c.width, 1).data;"
    " return [...Array(c.width).keys()].find(x => row[4 * x] === 255) })()"
)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Viewer]:
    scene = walk(policy=RightPolicy(), greedy=True, world_model=ForgetfulModel())
    rows = [
        EpisodeRow(number, "walk", "train_levels" if number else "random_policy", None, 10.0 * number, LENGTH)
        for number in range(4)
    ]
    episodes = PlayedEpisodes(rows=rows, read=lambda number: recorded(number=number, value=10.0 * number))
    found = Viewer(lambda: table(scene, episodes=episodes), recordings=tmp_path / "recordings", keep_open=True)
    found.start()
    yield found
    found.close()


@pytest.fixture
def shown(started: Browser, viewer: Viewer) -> Iterator[Browser]:
    started.resize(1280)
    started.scheme("light")
    open_page(started, viewer.link)
    yield started
    assert started.complaints == []
    started.open("about:blank")  # or it would try to connect for ever


def open_page(page: Browser, link: str) -> None:
    page.complaints.clear()
    page.call("Page.navigate", url=link)
    until(page, "window.lightningRL?.state()?.length >= 0 && document.querySelector('canvas')?.width === 16")


def until(page: Browser, condition: str, *, seconds: float = 60.0) -> None:
    """Returns once an expression is true in the page."""
    end = time.monotonic() + seconds
    while page.evaluate(f"Boolean({condition})") is not True:
        assert time.monotonic() < end, f"{condition}: {page.evaluate('JSON.stringify(lightningRL.state())')}"
        time.sleep(0.02)


def state(page: Browser, key: str) -> Any:
    return page.evaluate(f"lightningRL.state().{key}")


def click(page: Browser, name: str) -> None:
    page.evaluate(f"document.querySelector('{name}').click()")


def hold(page: Browser, key: str, kind: str) -> None:
    page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)


def test_it_shows_the_agent_and_hides_the_token(shown: Browser, viewer: Viewer) -> None:
    before = state(shown, "length")
    until(shown, f"lightningRL.state().length > {before}")

    assert shown.evaluate("document.getElementById('title').textContent") == "<b>walk</b>"
    assert shown.evaluate("location.href") == f"http://127.0.0.1:{viewer.port}/"
    assert shown.evaluate("document.querySelectorAll('#bars tbody tr').length") == 4
    until(shown, "document.querySelectorAll('#plot polyline')[0].getAttribute('points').split(' ').length > 3")


@pytest.mark.slow
def test_a_person_takes_over_by_keys_and_gives_back(shown: Browser) -> None:
    click(shown, "#takeover")
    until(shown, "!document.getElementById('pad').hidden")
    hold(shown, "ArrowLeft", "keyDown")
    until(shown, "lightningRL.state().action === 0")
    place = shown.evaluate(COLUMN)
    until(shown, f"({COLUMN}) !== {place}")
    hold(shown, "ArrowLeft", "keyUp")
    until(shown, "lightningRL.state().action === 1")
    click(shown, "#takeover")
    until(shown, "lightningRL.state().player === 'agent' && lightningRL.state().action === 2")

    assert shown.evaluate("document.getElementById('who-now').textContent").startswith("The agent plays")


@pytest.mark.slow
def test_buttons_on_the_screen_play_too(shown: Browser) -> None:
    click(shown, "#takeover")
    until(shown, "!document.getElementById('pad').hidden")
    held = "document.querySelector('#pad button[aria-label=D]')"
    click(shown, "#pad button[aria-label=D]")

    until(shown, "lightningRL.state().action === 3 || lightningRL.state().total > 20")
    assert shown.evaluate(f"{held}.textContent") == "D"


@pytest.mark.slow
def test_pause_step_rewind_and_restart(shown: Browser) -> None:
    until(shown, "lightningRL.state().length >= 5")
    click(shown, "#pause")
    until(shown, "lightningRL.state().paused && document.getElementById('pause').textContent === 'Play'")
    at, known, place = (
        shown.evaluate(code) for code in ("lightningRL.state().at", "lightningRL.state().known", COLUMN)
    )
    click(shown, "#step")
    until(shown, f"lightningRL.state().at === {at + 1} && ({COLUMN}) === {(place + 1) % 16}")
    click(shown, "#back")
    until(shown, f"lightningRL.state().at === {at} && ({COLUMN}) === {place}")
    shown.evaluate("(() => { const s = document.getElementById('seek'); s.value = 2; s.oninput({target: s}) })()")
    until(shown, f"lightningRL.state().at === 2 && ({COLUMN}) === 5")
    assert state(shown, "known") == known + 1
    click(shown, "#restart")

    until(shown, f"lightningRL.state().length === 0 && ({COLUMN}) === 3")


@pytest.mark.slow
def test_levels_are_chosen(shown: Browser) -> None:
    click(shown, "#next")
    until(shown, "lightningRL.state().level === 4")
    click(shown, "[data-set=unseen]")
    until(shown, "lightningRL.state().level === 8 && lightningRL.state().set === 'unseen'")
    shown.evaluate("document.getElementById('level').value = 12")
    click(shown, "#pick")
    until(shown, "lightningRL.state().level === 12")
    click(shown, "#previous")

    until(shown, "lightningRL.state().level === 11")


def choose(page: Browser, name: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}'; s.onchange({{target: s}}) }})()"
    )


@pytest.mark.slow
def test_several_levels_are_shown_at_once_and_one_of_them_is_chosen(shown: Browser) -> None:
    choose(shown, "grid", "4")
    until(shown, "document.querySelectorAll('canvas').length === 4 && lightningRL.state().count === 4")
    places = "[...document.querySelectorAll('#screens figure')].map(e => Math.round(e.getBoundingClientRect().{}))"
    lefts, tops = shown.evaluate(places.format("left")), shown.evaluate(places.format("top"))
    click(shown, "#screens figure:nth-child(3)")
    until(shown, "lightningRL.state().chosen === 2 && lightningRL.state().level === 5")
    shown.evaluate("document.querySelector('#screens figure:nth-child(2)').focus()")
    shown.press("Enter", 13)
    until(shown, "lightningRL.state().chosen === 1 && lightningRL.state().level === 4")
    pressed = "[...document.querySelectorAll('#screens figure')].map(e => e.getAttribute('aria-pressed'))"
    until(shown, f"({pressed})[1] === 'true'")
    named = shown.evaluate("document.querySelector('#screens figure:nth-child(2)').getAttribute('aria-label')")
    size = "document.querySelector('canvas').getBoundingClientRect().width"
    small = shown.evaluate(size)
    choose(shown, "grid", "1")
    until(shown, "document.querySelectorAll('canvas').length === 1 && lightningRL.state().level === 4")
    until(shown, f"{size} > {small} * 1.5")

    assert [len(set(lefts)), len(set(tops))] == [2, 2]
    assert named.startswith("Choose 2: level 4, return ")
    assert shown.evaluate("document.querySelector('#screens figure').hasAttribute('role')") is False


@pytest.mark.slow
def test_the_episodes_of_test_are_sorted_by_return_and_one_is_played_again(shown: Browser) -> None:
    returns = "[...document.querySelectorAll('#episode-list button span:first-child')].map(e => e.textContent)"
    until(shown, "document.querySelectorAll('#episode-list button').length === 1")
    assert shown.evaluate("[...document.getElementById('episode-set').options].map(e => e.text)") == [
        "random play",
        "training levels",
    ]
    choose(shown, "episode-set", '["walk","train_levels"]')
    assert shown.evaluate(returns) == ["return 30", "return 20", "return 10"]
    choose(shown, "episode-order", "1")
    assert shown.evaluate(returns) == ["return 10", "return 20", "return 30"]
    shown.evaluate("lightningRL.send({do: 'speed', value: 4})")
    click(shown, "#episode-list button")
    until(shown, "lightningRL.state().recorded === 1")
    until(shown, "document.getElementById('who-now').textContent === 'Episode 1 of test is played again.'")
    until(shown, "document.getElementById('verdict').textContent.includes('. As it was recorded')")

    assert state(shown, "total") == 10
    assert shown.evaluate("document.querySelector('#episode-list [aria-pressed=true]').dataset.episode") == "1"


@pytest.mark.slow
def test_horizon_and_temperature_are_asked_for(shown: Browser) -> None:
    click(shown, "[data-where=model]")
    choose(shown, "horizon", "3")
    until(shown, "lightningRL.state().horizon === 3")
    until(shown, "lightningRL.state().numbers['Model’s step'] === 3")
    until(shown, "lightningRL.state().numbers['Model’s step'] === 0")
    choose(shown, "temperature", "0.5")
    until(shown, "document.getElementById('toast').textContent.startsWith('temperature must be left out')")


@pytest.mark.slow
def test_a_png_is_saved(shown: Browser) -> None:
    shown.evaluate(
        "HTMLAnchorElement.prototype.click = function () { window.saved = this.download; window.picture = new Image();"
        " window.picture.src = this.href }"
    )
    click(shown, "#png")
    until(shown, "window.picture?.naturalWidth > 0")

    assert shown.evaluate("[picture.naturalWidth, picture.naturalHeight]") == [8 * 16, 8 * 16]
    assert shown.evaluate("saved").startswith("walk_3_")


@pytest.mark.slow
def test_the_episode_ends_and_the_next_level_follows(shown: Browser) -> None:
    shown.evaluate("lightningRL.send({do: 'speed', value: 4})")
    until(shown, "document.getElementById('verdict').textContent !== ''")
    verdict = shown.evaluate("document.getElementById('verdict').textContent")
    until(shown, "lightningRL.state().level === 4 && lightningRL.state().length > 0")

    assert verdict == f"Episode over: return {LENGTH} in {LENGTH} steps"


@pytest.mark.slow
def test_a_recording_is_made_and_offered(shown: Browser, tmp_path: Path) -> None:
    click(shown, "#record")
    until(shown, "lightningRL.state().recording >= 5")
    click(shown, "#record")
    until(shown, "document.querySelector('#kept a') !== null")
    fetched = shown.evaluate(
        "fetch(document.querySelector('#kept a').href).then(a => a.arrayBuffer()).then(b => b.byteLength)"
    )

    [path] = (tmp_path / "recordings").iterdir()
    assert fetched == path.stat().st_size
    with av.open(str(path)) as video:
        assert len(list(video.decode(video=0))) >= 5


@pytest.mark.slow
def test_a_copied_link_brings_back_the_moment(shown: Browser) -> None:
    click(shown, "#next")
    until(shown, "lightningRL.state().level === 4 && lightningRL.state().length >= 6")
    click(shown, "#pause")
    until(shown, "lightningRL.state().paused")
    length, place = state(shown, "length"), shown.evaluate(COLUMN)
    click(shown, "#link")
    until(shown, "document.getElementById('link-text').value !== ''")
    link = shown.evaluate("document.getElementById('link-text').value")
    click(shown, "#next")
    until(shown, "lightningRL.state().level === 5")
    shown.call("Page.navigate", url="about:blank")
    open_page(shown, link)

    until(shown, f"lightningRL.state().level === 4 && lightningRL.state().paused && ({COLUMN}) === {place}")
    assert state(shown, "length") == length


@pytest.mark.slow
def test_it_connects_again_and_goes_on(shown: Browser) -> None:
    click(shown, "#takeover")
    until(shown, "lightningRL.state().owner === lightningRL.name")
    shown.evaluate("lightningRL.drop()")
    until(shown, "document.body.classList.contains('lost')")
    until(shown, "!document.body.classList.contains('lost') && lightningRL.state().paused")

    assert shown.evaluate("document.getElementById('status').textContent") == "Connected"
    assert (state(shown, "owner") == shown.evaluate("lightningRL.name"), state(shown, "episode")) == (True, 0)


@pytest.mark.slow
def test_the_world_model_is_shown_beside_the_game_and_alone(shown: Browser) -> None:
    click(shown, "[data-where=both]")
    until(shown, "document.querySelectorAll('canvas').length === 3")
    names = shown.evaluate("[...document.querySelectorAll('#screens figcaption')].map(e => e.textContent)")
    until(shown, "lightningRL.state().numbers['Parted at step'] === 5")
    click(shown, "[data-where=model]")
    until(shown, "document.querySelectorAll('canvas').length === 1 && lightningRL.state().where === 'model'")
    click(shown, "[data-where=game]")

    until(shown, "lightningRL.state().where === 'game' && document.getElementById('more').hidden")
    assert names == ["game", "world model", "difference"]


@pytest.mark.slow
def test_two_windows_show_the_same_game(shown: Browser, viewer: Viewer) -> None:
    with Talk(viewer.link, "other") as other:
        other.say(do="level", number=77)
        other.until(lambda frame: frame["level"] == 77)
        until(shown, "lightningRL.state().level === 77 && lightningRL.state().windows === 2")
        click(shown, "#pause")
        paused = other.until(lambda frame: frame["paused"])

    assert paused["level"] == 77


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280, 3840])
def test_it_fits_every_window(width: int, shown: Browser) -> None:
    shown.resize(width, 2160 if width > 2000 else 844)
    until(shown, f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")
    scale = shown.evaluate("document.querySelector('canvas').getBoundingClientRect().width / 16")

    assert scale == round(scale) > 100 / 16  # whole pixels only


@pytest.mark.slow
def test_every_control_has_a_name_and_nothing_is_from_elsewhere(shown: Browser) -> None:
    nameless = shown.evaluate(
        "[...document.querySelectorAll('button, input, select, a, canvas')].filter(e => !(e.textContent.trim() ||"
        " e.getAttribute('aria-label') || e.labels?.length)).map(e => e.outerHTML)"
    )
    loaded = shown.evaluate("performance.getEntriesByType('resource').map(e => new URL(e.name).host)")

    assert nameless == []
    assert set(loaded) == {shown.evaluate("location.host")}


@pytest.mark.slow
def test_light_and_dark(shown: Browser) -> None:
    color = "getComputedStyle(document.body).color"
    light = shown.evaluate(color)
    shown.scheme("dark")
    dark = shown.evaluate(color)
    click(shown, "#theme")

    assert light != dark
    assert shown.evaluate(color) == light
    click(shown, "#theme")
    assert shown.evaluate(color) == dark
    click(shown, "#theme")
