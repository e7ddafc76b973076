"""Policy folders: what is written is read; damaged, hostile, oversized and foreign ones are refused in one line."""

import json
import os
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lightning_rl.cli.program import main
from lightning_rl.policies.config import NetworkConfig
from lightning_rl.policies.folder import CONFIG, WEIGHTS, load_policy, read_policy
from tests.support.exported import new_policy, written
from tests.support.runs import differences
from tests.support.worlds import draw_frames
from tests.test_hostile import LAUGHS, Calls

NETWORK = NetworkConfig(name="three_stack", pooling="average")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("policies") / "sound", new_policy(NETWORK))


def test_a_written_policy_is_read_with_all_its_bits(sound: Path) -> None:
    policy, obs = new_policy(NETWORK), draw_frames(3)

    loaded = load_policy(sound)

    assert differences(policy.state_dict(), loaded.state_dict()) == []
    assert [tensor.stride() for tensor in loaded.parameters()] == [tensor.stride() for tensor in policy.parameters()]
    assert torch.equal(loaded(obs).logits, policy(obs).logits)
    assert loaded.config.network == NETWORK


def test_weights_stored_in_bfloat16_take_half_the_space_and_are_computed_with_in_float32(
    sound: Path, tmp_path: Path
) -> None:
    policy = new_policy(NETWORK)
    folder = written(tmp_path / "half", policy, dtype="bfloat16")

    loaded = load_policy(folder)

    assert (folder / WEIGHTS).stat().st_size < 0.6 * (sound / WEIGHTS).stat().st_size
    rounded = {name: tensor.bfloat16().float() for name, tensor in policy.state_dict().items()}
    assert differences(loaded.state_dict(), rounded) == []


def test_loading_takes_no_random_numbers(sound: Path) -> None:
    before = torch.random.get_rng_state()

    load_policy(sound)

    assert torch.equal(torch.random.get_rng_state(), before)


Harm = Callable[[Path], object]


def told(**changes: Any) -> Harm:
    """A config that says something else; a key may be a path of keys."""

    def harm(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        for path, value in changes.items():
            *outer, last = path.split("__")
            inner = config
            for name in outer:
                inner = inner[name]
            inner[last] = value
        (folder / CONFIG).write_text(json.dumps(config))

    return harm


def config_of(text: str | bytes) -> Harm:
    return lambda folder: (folder / CONFIG).write_bytes(text if isinstance(text, bytes) else text.encode())


def in_place_of(name: str, make: Callable[[Path], object]) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return harm


def weights_of(change: Callable[[bytes], bytes], *, signed: bool = False) -> Harm:
    """Other bytes as weights, with a checksum that fits them where they are signed."""

    def harm(folder: Path) -> None:
        path = folder / WEIGHTS
        path.write_bytes(change(path.read_bytes()))
        if signed:
            told(files={})(folder)

    return harm


def tensors_of(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Harm:
    return weights_of(lambda content: safetensors.torch.save(change(safetensors.torch.load(content))), signed=True)


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def claiming(header: dict[str, Any], *, length: int | None = None) -> Harm:
    text = json.dumps(header).encode()
    return weights_of(lambda _: struct.pack("<Q", length or len(text)) + text + bytes(64), signed=True)


def pickled(content: bytes) -> bytes:
    path = Path("made.pt")
    torch.save({"weights": Calls(os.system, "mkdir executed")}, path)
    made = path.read_bytes()
    path.unlink()
    return made


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)


def foreign(folder: Path) -> None:
    """As another library writes them."""
    config_of(json.dumps({"architectures": ["BertModel"], "model_type": "bert", "auto_map": {"AutoModel": "evil.X"}}))(
        folder
    )


BIAS = "network.actor.bias"
HARMS: dict[str, tuple[Harm, str]] = {
    "weights that are cut short": (weights_of(lambda content: content[:-100]), "is damaged: policy.safetensors is not"),
    "a flipped bit": (weights_of(flipped), "is not the file that config.json was written with"),
    "cut short, checksum gone": (weights_of(lambda content: content[:-100], signed=True), "is no safetensors file"),
    "empty weights": (weights_of(lambda _: b"", signed=True), "is no safetensors file"),
    "a pickle as weights": (weights_of(pickled, signed=True), "is no safetensors file"),
    "a header of exabytes": (claiming({}, length=2**62), "is no safetensors file"),
    "a tensor of terabytes": (
        claiming({BIAS: {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        "is no safetensors file",
    ),
    "tensors in one place": (
        claiming({key: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for key in ("a", "b")}),
        "is no safetensors file",
    ),
    "a terabyte of weights": (in_place_of(WEIGHTS, sparse), "of 1000000000000 bytes, where at most"),
    "weights that are a pipe": (in_place_of(WEIGHTS, os.mkfifo), "its policy.safetensors is no file"),
    "weights that are a device": (in_place_of(WEIGHTS, lambda path: path.symlink_to("/dev/zero")), "is no file"),
    "a tensor too few": (tensors_of(lambda t: {k: v for k, v in t.items() if k != BIAS}), f"{BIAS} as nothing in"),
    "a tensor too many": (tensors_of(lambda t: t | {"more": torch.zeros(2)}), "more as float32 [2] in policy"),
    "a tensor of another shape": (tensors_of(lambda t: t | {BIAS: torch.zeros(3)}), f"{BIAS} as float32 [3] in"),
    "a tensor of whole numbers": (tensors_of(lambda t: t | {BIAS: torch.zeros(7).long()}), "int64 [7] in policy"),
    "NaN": (tensors_of(lambda t: t | {BIAS: torch.full((7,), torch.nan)}), f"numbers in {BIAS} that are not finite"),
    "no config": (in_place_of(CONFIG, lambda _: None), "is no policy folder: its config.json is not there"),
    "a config that is a folder": (in_place_of(CONFIG, Path.mkdir), "its config.json is no file"),
    "a config that is a device": (in_place_of(CONFIG, lambda path: path.symlink_to("/dev/zero")), "is no file"),
    "a config that is its own link": (in_place_of(CONFIG, lambda path: path.symlink_to(path)), "its config.json is"),
    "a config of megabytes": (config_of(" " * 2_000_000), "config.json of 2000000 bytes, where at most 1000000"),
    "a config that is no JSON": (config_of("\n".join(LAUGHS)), "config.json that is no JSON"),
    "a config that is no text": (config_of(b"\xff\xfe{}"), "config.json that is no JSON"),
    "a config nested deeply": (config_of("[" * 100_000), "config.json that is no JSON"),
    "a config that is a list": (config_of("[]"), "config.json must be a dict, found a list"),
    "a number that is none": (config_of('{"format_version": NaN}'), "NaN is no number of JSON"),
    "a model of another library": (foreign, "config.json.format_version must be an int"),
    "a later format": (told(format_version=2), "config.json.format_version must be 1, found 2"),
    "a class to import": (told(network__name="os.system"), "network.name must be one of three_stack"),
    "games to import": (told(data__class_path="executed.Games"), "or a class of an installed plug-in"),
    "an object among the options": (
        told(data__init_args={"game": {"class_path": "os.mkdir", "init_args": {"path": "executed"}}}),
        "data.init_args.game must be a number, a text or a list of these, found dict",
    ),
    "a width of text": (told(network__width="wide"), "network.width must be an int from 0 on, found a str"),
    "a width without bounds": (told(network__width=10**30), "network.width must be an int from 0 on, found 1e+30"),
    "a network of terabytes": (told(network__width=100_000), "as float32 [1600000] by config.json"),
    "a frame without bounds": (told(obs_shape=[10**9] * 3), "obs_shape must be of sizes from 1 to 4096"),
    "a frame too small": (told(obs_shape=[1, 1, 3]), "describes no network: obs_shape: height and width must be"),
    "too few names of actions": (told(action_meanings=["left"]), "action_meanings must be 7 names, found 1 names"),
    "a state that it has not": (told(recurrent=True), "recurrent must be False for three_stack, found True"),
    "a precision to import": (told(judging={"precision": "evil"}), "judging.precision must be one of 32-true"),
}


def test_damaged_hostile_and_foreign_folders_are_refused_in_one_line_and_nothing_is_executed(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (kind, (harm, expected)) in enumerate(HARMS.items()):
        folder = Path(shutil.copytree(sound, tmp_path / "policy" / str(number)))
        harm(folder)
        began = time.monotonic()
        status, captured = main(["test", "--ckpt_path", str(folder)]), capsys.readouterr()
        assert (status, captured.out) == (2, ""), kind
        assert re.fullmatch(r"lightning-rl: ckpt_path: [^\n]+\n", captured.err), kind
        assert expected in captured.err, kind
        if kind != "games to import":  # which a policy does without
            with pytest.raises(ValueError, match=f"^{re.escape(str(folder))} [^\n]*{re.escape(expected)}"):
                read_policy(folder)
        assert time.monotonic() - began < 10, kind
    assert os.listdir(tmp_path) == ["policy"]
