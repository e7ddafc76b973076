import json

import numpy as np
import pytest

from lightning_rl.envs.procgen_games import ACTION_MEANINGS
from lightning_rl.viewer import messages
from lightning_rl.viewer.keys import action_keys, idle_action


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "JSON object"),
        ("[" * 60_000, "JSON object"),
        ("[]", "found None"),
        ('{"do": 1}', "found 1"),
        ('{"do": "stop"}', "found 'stop'"),
        ('{"do": "leave"}', "found 'leave'"),
        ('{"do": "seek"}', "seek.at"),
        ('{"do": "seek", "at": -1}', "seek.at"),
        ('{"do": "seek", "at": 1.5}', "seek.at"),
        ('{"do": "seek", "at": true}', "seek.at"),
        ('{"do": "seek", "at": 1, "to": 2}', "found 'to'"),
        ('{"do": "speed", "value": NaN}', "JSON object"),
        ('{"do": "speed", "value": 1e9}', "found 1000000000.0"),
        ('{"do": "who", "player": "replay"}', "found 'replay'"),
        ('{"do": "level", "number": 1e400}', "level.number"),
    ],
)
def test_a_message_of_another_form_is_refused_in_one_line(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=found) as refusal:
        messages.parsed(text)

    assert "\n" not in str(refusal.value)


def test_a_command_is_taken_as_it_is() -> None:
    command = {"do": "speed", "value": 0.25}

    assert messages.parsed(json.dumps(command)) == command


@pytest.mark.parametrize("actions", [[], [0], [255, 3, 14, 0], [7] * 1000])
def test_actions_pass_through_a_link(actions: list[int]) -> None:
    text = messages.encoded_actions(actions)

    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert messages.decoded_actions(text) == actions


@pytest.mark.parametrize("text", ["a", "ä", "A A=", "A" * 60_000])
def test_another_text_is_no_actions(text: str) -> None:
    with pytest.raises(ValueError, match="actions must be"):
        messages.decoded_actions(text)


def test_images_follow_the_header() -> None:
    images = [np.full((2, 3, 3), 7, dtype=np.uint8), np.full((1, 1, 3), 9, dtype=np.uint8)]

    content = messages.message({"type": "frame"}, images)

    end = 4 + int.from_bytes(content[:4], "big")
    assert json.loads(content[4:end]) == {"type": "frame", "images": [[2, 3], [1, 1]]}
    assert content[end:] == bytes([7] * 18 + [9] * 3)


def test_procgens_actions_have_the_keys_of_its_own_interactive_mode() -> None:
    actions = action_keys(ACTION_MEANINGS, 15)

    assert [action.keys for action in actions[:5]] == [
        ("ArrowLeft", "ArrowDown"),
        ("ArrowLeft",),
        ("ArrowLeft", "ArrowUp"),
        ("ArrowDown",),
        (),
    ]
    assert [action.keys for action in actions[9:]] == [(f"Key{letter}",) for letter in "DAWSQE"]
    assert idle_action(actions) == 4


def test_ataris_actions_have_arrows_and_the_space_bar() -> None:
    actions = action_keys(("noop", "fire", "upright", "downleftfire"), 4)

    assert [action.keys for action in actions] == [
        (),
        ("Space",),
        ("ArrowUp", "ArrowRight"),
        ("ArrowDown", "ArrowLeft", "Space"),
    ]
    assert idle_action(actions) == 0


def test_actions_without_such_names_have_digits() -> None:
    assert [action.keys for action in action_keys((), 3)] == [("Digit1",), ("Digit2",), ("Digit3",)]
    assert [action.keys for action in action_keys(("1", "open door"), 2)] == [("Digit1",), ("Digit2",)]
