"""Files that were damaged, or made to do harm: refused in one line or left for the one before, and never executed."""

import os
import pickle
import random
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from lightning_rl.cli.run_location import RunLocation
from lightning_rl.runs.checkpoint_files import METADATA, read
from tests.support.methods import CONFIGS
from tests.support.runs import differences, fit_args, load
from tests.support.shared_runs import SharedRuns

GAMES = "ProcgenDataModule"


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command refuses `args`."""
    capsys.readouterr()
    status = main(args)
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert re.fullmatch(r"lightning-rl: [^\n]+\n", captured.err)
    return captured.err


@pytest.fixture
def run_dir(runs: SharedRuns) -> Path:
    """A run of two iterations."""
    return runs.finished("ppo")


def cut(content: bytearray, draws: random.Random) -> None:
    del content[draws.randrange(len(content)) :]


def flip_one(content: bytearray, draws: random.Random) -> None:
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)


def flip_several(content: bytearray, draws: random.Random) -> None:
    for _ in range(draws.randrange(2, 50)):
        flip_one(content, draws)


def flip_in_the_directory(content: bytearray, draws: random.Random) -> None:
    """Where zip files keep sizes, offsets and checksums of their members."""
    begin = content.find(b"PK\x01\x02")
    content[draws.randrange(begin, len(content))] ^= 1 << draws.randrange(8)


def clear_a_page(content: bytearray, draws: random.Random) -> None:
    begin = draws.randrange(len(content)) // 512 * 512
    content[begin : begin + 512] = bytes(len(content[begin : begin + 512]))


def append(content: bytearray, draws: random.Random) -> None:
    content += draws.randbytes(draws.randrange(1, 2000))


def swap_blocks(content: bytearray, draws: random.Random) -> None:
    first, second = sorted(draws.randrange(len(content) // 256) * 256 for _ in range(2))
    blocks = content[first : first + 256], content[second : second + 256]
    content[first : first + 256], content[second : second + 256] = blocks[1], blocks[0]


DAMAGES = (cut, flip_one, flip_several, flip_in_the_directory, clear_a_page, append, swap_blocks)


def damaged(whole: bytes, seed: int) -> bytes:
    content = bytearray(whole)
    DAMAGES[seed % len(DAMAGES)](content, random.Random(seed))
    return bytes(content)


class TestDamage:
    def test_500_damaged_files_are_refused_in_one_line_or_read_as_they_were(
        self, run_dir: Path, tmp_path: Path
    ) -> None:
        small = {name: tensor[:0] for name, tensor in list(load(run_dir)["state_dict"].items())[:10]}
        metadata = {"method": "ppo", "game": "maze", "run_id": "one"}
        expected = {METADATA: metadata, "state_dict": small | {"weight": torch.randn(999)}, "epoch": 3, "loops": {}}
        path = tmp_path / "last.ckpt"
        torch.save(expected, path)
        whole, refused = path.read_bytes(), 0
        for seed in range(504):
            path.write_bytes(damaged(whole, seed))
            began = time.monotonic()
            try:
                found = read(path)
            except ValueError as error:
                message = str(error)
                assert message.startswith(f"ckpt_path: {path} "), seed  # the only error that is allowed
                assert "\n" not in message, seed
                refused += 1
            else:
                assert differences(found, expected) == [], seed
            assert time.monotonic() - began < 3, seed
        assert refused > 300

    @pytest.mark.parametrize("seed", range(5))
    def test_the_run_goes_on_from_the_one_before(self, seed: int, run_dir: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
        last = copy / "last.ckpt"
        last.write_bytes(damaged(last.read_bytes(), seed))
        location = RunLocation.find("fit", run_dir=str(copy), ckpt_path="last", method="ppo", game="dodgeball")
        assert location.remarks == (f"{last} is damaged: {copy / 'previous.ckpt'} is taken instead",)
        assert location.checkpoint == copy / "previous.ckpt"


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def payload(kind: str, marker: str) -> Any:
    """Makes a folder `marker`, would it be executed."""
    match kind:
        case "system":
            return Calls(os.system, f"mkdir {marker}")
        case "eval":
            return Calls(eval, f"__import__('os').mkdir({marker!r})")
        case "exec":
            return Calls(exec, f"import os; os.mkdir({marker!r})")
        case "popen":
            return Calls(os.popen, f"mkdir {marker}")
        case "getattr":
            return Calls(getattr, Calls(__import__, "os"), "mkdir")
        case "torch.load":
            return Calls(torch.load, f"{marker}.pt")
    raise ValueError(kind)


KINDS = ("system", "eval", "exec", "popen", "getattr", "torch.load")


def rewritten(path: Path, replace: Callable[[str, bytes], bytes], **options: Any) -> None:
    """Writes a checkpoint's archive anew, its members replaced."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, replace(name, content))


def is_pickle(name: str) -> bool:
    return name.endswith("data.pkl")


def bomb(path: Path) -> None:
    """A member that would inflate to a thousand times its size."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("last/data/bomb", "w") as member:
        for _ in range(200):
            member.write(bytes(10**6))


def overlap(path: Path) -> None:
    """A thousand members that share one place."""
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        archive.filelist += [largest] * 1000
        archive._didModify = True  # type: ignore[attr-defined]  # so that the directory is written


def claim_gigabytes(path: Path) -> None:
    """A tensor of which each number is the same one, as the pickle says."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] |= {"more": torch.zeros(1).expand(10**6, 10**6)}
    torch.save(checkpoint, path)


def climb_out(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../executed", b"")


def nest_deeply(path: Path) -> None:
    rewritten(
        path,
        lambda name, content: b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"." if is_pickle(name) else content,
    )


def nest_within(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    inner: Any = {}
    for _ in range(200):
        inner = {"inner": inner}
    torch.save(checkpoint | {"callbacks": inner}, path)


def claim_more_than_is_saved(path: Path) -> None:
    old, new = b"M\x00\x01M\x00\x08\x86", b"M\x00\x01J\x00\x00\x00\x40\x86"  # 256 × 2048
    rewritten(path, lambda name, content: content.replace(old, new) if is_pickle(name) else content)


def loop(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["RunCheckpoint"] = checkpoint
    torch.save(checkpoint, path)


def reserve(path: Path) -> None:
    """Asks for a terabyte."""
    call = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."
    rewritten(path, lambda name, content: call if is_pickle(name) else content)


@pytest.fixture(scope="module")
def sound(runs: SharedRuns, tmp_path_factory: pytest.TempPathFactory) -> RunCLI:
    """The command that goes on from the checkpoint as it was."""
    other, last = tmp_path_factory.mktemp("other"), runs.finished("ppo") / "last.ckpt"
    return RunCLI(fit_args(other, "--ckpt_path", str(last), iterations=3))


class TestHostileFiles:
    @pytest.fixture
    def path(self, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A checkpoint with its config, alone in the folder that is worked in."""
        folder = tmp_path / "run"
        folder.mkdir()
        for name in ("config.yaml", "last.ckpt"):
            shutil.copy(run_dir / name, folder)
        monkeypatch.chdir(folder)
        return folder / "last.ckpt"

    def unread(self, path: Path, *, named: Path | None = None) -> str:
        """Why `test` and `fit` do not read the file; nothing else is there afterwards."""
        before = sorted(path.parent.parent.rglob("*"))
        began = time.monotonic()
        messages = []
        for subcommand, run_dir in (("test", None), ("fit", str(path.parent.parent / "other"))):
            with pytest.raises(ValueError) as error:  # noqa: PT011  # the caller looks at the message
                RunLocation.find(subcommand, run_dir=run_dir, ckpt_path=str(path), method="ppo", game="dodgeball")
            messages.append(str(error.value))
        assert messages[0] == messages[1]
        assert time.monotonic() - began < 20
        assert sorted(path.parent.parent.rglob("*")) == before
        assert messages[0].startswith(f"ckpt_path: {named or path} ")
        return messages[0]

    def unfit(self, path: Path, sound: RunCLI) -> str:
        """Why a run does not go on from a file that can be read."""
        with pytest.raises(ValueError) as error:  # noqa: PT011  # the caller looks at the message
            sound._check(read(path), path)
        return str(error.value)

    def refused(self, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
        """The line with which `test` and `fit` refuse the file; nothing else is there afterwards."""
        before = sorted(path.parent.parent.rglob("*"))
        message = refusal(["test", "--ckpt_path", str(path)], capsys)
        args = ["fit", "--config", str(path.with_name("config.yaml")), "--run_dir", str(path.parent.parent / "other")]
        assert refusal([*args, "--ckpt_path", str(path)], capsys) == message
        assert sorted(path.parent.parent.rglob("*")) == before
        return message

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("callbacks/more", Calls(os.system, "mkdir executed"), "carries code or foreign objects, which are never"),
            ("state_dict/network.actor.bias", "x", "state_dict.network.actor.bias must be a tensor, found a str"),
        ],
        ids=["code", "contents"],
    )
    def test_the_command_refuses_a_file_in_one_line(
        self, key: str, value: Any, told: str, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save(put(load(path.parent), key, value), path)
        message = self.refused(path, capsys)
        assert f"ckpt_path: {path}" in message
        assert told in message

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("collectors", [], "collectors must be a list of 1, found a list of 0"),
            # what only the games themselves can tell
            ("collectors/0/env/returns", torch.zeros(3), "here: EpisodeStatistics.returns must be a float64 tensor of"),
            ("collectors/0/env/env/moments", [1.0], "here: ReturnScaling.moments must be a list of 3, found a list of"),
            ("collectors/0/env/env", {}, "games of the checkpoint cannot go on here: a state of ReturnScaling has "),
            ("collectors/0/env/env/env/crc32", "x", "here: ProcgenVectorEnv.crc32 must be a list of 2, found a str"),
            ("collectors/0/env/env/env/games/0", torch.zeros(5, dtype=torch.uint8), "game 0 of the state is damaged"),
        ],
    )
    def test_the_command_refuses_games_in_one_line(
        self, key: str, value: Any, told: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save(put(load(path.parent), f"{GAMES}/{key}", value), path)
        message = refusal(fit_args(tmp_path / "other", "--ckpt_path", str(path), iterations=3), capsys)
        assert "ckpt_path: " in message
        assert told in message
        assert not (tmp_path / "other").exists()

    @pytest.mark.parametrize(
        ("kind", "place"),
        [*((kind, "whole") for kind in KINDS), *(("system", place) for place in ("callbacks", "state_dict", METADATA))],
    )
    def test_code_is_never_executed(self, kind: str, place: str, path: Path) -> None:
        torch.save({METADATA: {}, "state_dict": {}}, path.with_name("executed.pt"))
        hostile = payload(kind, "executed")
        torch.save(hostile if place == "whole" else load(path.parent) | {place: {"more": hostile}}, path)
        assert "carries code or foreign objects, which are never executed" in self.unread(path)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_old_format_is_not_read_at_all(self, kind: str, path: Path) -> None:
        torch.save(payload(kind, "executed"), path, _use_new_zipfile_serialization=False)
        assert "damaged or cut short" in self.unread(path)
        path.write_bytes(pickle.dumps(payload(kind, "executed")))
        with pytest.raises(ValueError, match="damaged or cut short"):
            read(path)
        assert not path.with_name("executed").exists()

    @pytest.mark.parametrize(
        ("harm", "told"),
        [
            (bomb, "damaged or cut short"),
            (overlap, "damaged or cut short"),
            (reserve, "damaged or cut short"),
            (nest_deeply, "was not written by lightning_rl"),
            (nest_within, "carries code or foreign objects"),
            (claim_gigabytes, "carries code or foreign objects"),
            (claim_more_than_is_saved, "damaged or cut short"),
            (climb_out, "damaged or cut short"),
            (loop, "carries code or foreign objects"),
        ],
    )
    def test_nothing_else_is_done_either(self, harm: Callable[[Path], None], told: str, path: Path) -> None:
        harm(path)
        assert told in self.unread(path)

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("state_dict", [], "state_dict must be a dict, found a list"),
            ("state_dict/network.actor.bias", "x", "state_dict.network.actor.bias must be a tensor, found a str"),
            ("state_dict/network.actor.bias", torch.zeros(2), "network.actor.bias of shape (2,), this network of"),
            (METADATA, "ppo", f"{METADATA} must be a dict, found a str"),
            (f"{METADATA}/method", {}, f"{METADATA}.method must be a str, found a dict"),
            (f"{METADATA}/run_id", None, f"{METADATA}.run_id must be a str, found None"),
            ("epoch", -1, "epoch must be an int from 0 on, found -1"),
            ("global_step", ..., "global_step must be an int from 0 on, found nothing"),
            ("pytorch-lightning_version", "; rm", "pytorch-lightning_version must be a version, found ; rm"),
            ("loops", ..., "loops must be a dict, found nothing"),
            ("loops/fit_loop/epoch_progress/total/ready", "x", "epoch_progress.total.ready must be an int from 0 on"),
            ("loops/fit_loop/epoch_loop.batch_progress", ..., "batch_progress must be a dict, found nothing"),
            ("callbacks", [], "callbacks must be a dict, found a list"),
            ("callbacks/RunCheckpoint", [1], "callbacks.RunCheckpoint must be a dict, found a list of 1"),
            ("callbacks/RunCheckpoint/best_return", "x", "best_return must be a float or None, found a str"),
            ("callbacks/RandomStates/python/1/0", "x", "python.1.0 must be an int from 0 on, found a str"),
            ("callbacks/RandomStates/python/1/624", 700, "RandomStates.python must be the state of a generator, "),
            ("callbacks/RandomStates/numpy/2", 10**6, "numpy.2 must be a position in the stream, found 1000000"),
            ("callbacks/RandomStates/torch", torch.zeros(3), "RandomStates.torch must be the state of a "),
            ("optimizer_states", ..., "optimizer_states must be a list of 1, found nothing"),
            ("optimizer_states", [], "optimizer_states must be a list of 1, found a list of 0"),
            ("optimizer_states/0/state/0/exp_avg", torch.zeros(2), "state.0.exp_avg must be a float tensor of shape "),
            ("optimizer_states/0/param_groups", {}, "param_groups must be a list of 1, found a dict"),
            ("lr_schedulers", [{}], "its run has a schedule of learning rates, this command none"),
        ],
    )
    def test_wrong_contents_are_named_by_their_key(
        self, key: str, value: Any, told: str, path: Path, sound: RunCLI
    ) -> None:
        torch.save(put(load(path.parent), key, value), path)
        message = self.unfit(path, sound)
        assert f"ckpt_path: {path}" in message
        assert told in message

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("env_steps", "x", "env_steps must be an int from 0 on, found a str"),
            ("env_steps", -1, "env_steps must be an int from 0 on, found -1"),
            ("env_steps", 10**30, "env_steps must be an int from 0 on, found 1e+30"),
            ("env_steps", float("nan"), "env_steps must be an int from 0 on, found nan"),
            ("game", ["dodgeball"], "game ['dodgeball'], this run dodgeball"),
            ("collectors", ..., "collectors must be a list, found nothing"),
            ("collectors", [], "collectors must be a list of 1, found a list of 0"),
            ("collectors/0/env", ..., "collectors.0.env must be a dict, found nothing"),
            ("collectors/0/recall/starts", torch.zeros(2), "starts must be a bool tensor of shape (2), "),
            (
                "collectors/0/recall/state",
                torch.zeros(3, 1),
                "shape (2, S), found a float32 tensor of shape (3, 1)",
            ),
            ("collectors/0/memory", {1: torch.zeros(2)}, "key 1 of collectors.0.memory must be a str"),
            ("collectors/0/generator", torch.zeros(5056, dtype=torch.uint8), "generator must be the state of a gen"),
        ],
    )
    def test_so_are_wrong_games(self, key: str, value: Any, told: str, path: Path, sound: RunCLI) -> None:
        torch.save(put(load(path.parent), f"{GAMES}/{key}", value), path)
        message = self.unfit(path, sound)
        assert "ckpt_path: " in message
        assert told in message

    @pytest.mark.parametrize("kind", ["folder", "pipe", "empty", "device", "loop", "dangling"])
    def test_what_is_no_checkpoint_neither_hangs_nor_ends_in_a_traceback(self, kind: str, path: Path) -> None:
        path.unlink()
        make: dict[str, Callable[[Path], object]] = {
            "folder": Path.mkdir,
            "pipe": os.mkfifo,
            "empty": Path.touch,
            "device": lambda at: at.symlink_to("/dev/zero"),
            "loop": lambda at: at.symlink_to(at),
            "dangling": lambda at: at.symlink_to("absent"),
        }
        os.mkfifo(path.with_name("beside.ckpt"))
        make[kind](path)
        named = path / "last.ckpt" if kind == "folder" else path  # a folder stands for its last.ckpt
        assert "there is no good one beside it" in self.unread(path, named=named)

    def test_a_name_of_two_lines_is_told_in_one(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path.write_bytes(b"\n")
        assert "new line.ckpt is not there" in self.refused(path.with_name("new\nline.ckpt"), capsys)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_one_that_may_not_be_read(self, path: Path) -> None:
        path.chmod(0)
        assert "damaged or cut short" in self.unread(path)

    @pytest.mark.parametrize("name", ["nul\0byte.ckpt", "x" * 5000])
    def test_a_name_that_no_file_can_have(self, name: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        args = ["test", "--config", str(path.with_name("config.yaml")), "--ckpt_path"]
        assert name[:3] in refusal([*args, name], capsys)


def put(checkpoint: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Puts a value at a path of keys, an ellipsis for none."""
    *outer, last = key.split("/")
    inner: Any = checkpoint
    for name in outer:
        inner = inner[_own(inner, name)]
    if value is ...:
        del inner[_own(inner, last)]
    else:
        inner[_own(inner, last)] = value
    return checkpoint


def _own(container: Any, name: str) -> Any:
    return int(name) if isinstance(container, list) or (name.isdigit() and name not in container) else name


LAUGHS = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'ha'] * 10)}]" for i in range(10)]


class TestHostileConfigs:
    @pytest.mark.parametrize(
        ("config", "told"),
        [
            ("data: !!python/object/apply:os.mkdir [executed]", ["hostile.yaml is not a config", "os.mkdir"]),
            ("\n".join(LAUGHS), ["hostile.yaml is not a config", "more than 20000 values"]),
            ("model: {init_args: {\n" + ",\n".join(LAUGHS) + "}}", ["more than 20000 values"]),
            ("data: &a {init_args: *a}", ["hostile.yaml is not a config", "nest"]),
            ("data: {init_args: {game: &a [*a]}}", ["hostile.yaml is not a config", "nest"]),
            ("data: " + "[" * 20_000, ["hostile.yaml is not a config", "nest"]),
            ("data: " + "{a: " * 300 + "1" + "}" * 300, ["hostile.yaml is not a config", "nested more than 50 deep"]),
            (f"data: {{init_args: {{game: {'x' * 50_000_000}}}}}", ["at most 1000000 bytes"]),
            (f"data: {{init_args: {{game: {'x' * 90_000}}}}}", ["game must be one of Procgen's"]),
            ("data: {init_args: {game: a\0b}}", ["hostile.yaml is not a config", "control characters"]),
            ('data: {init_args: {game: "a\\0b"}}', ["game must be one of Procgen's", r"'a\x00b'"]),
            (b"data: {init_args: {game: \xff}}", ["hostile.yaml is not a config", "invalid start byte"]),
            ("1: 2", ["Key must be a string", "1"]),
            ("a: 1\n---\nb: 2", ["hostile.yaml is not a config", "single document"]),
            (f"seed_everything: {'9' * 5000}", ["limit", "5000 digits"]),
            ('run_dir: "a\\0b"', ["run_dir: a�b cannot be a folder", "null"]),
            (f"run_dir: {'x' * 5000}", ["run_dir: xxx", "cannot be a folder", "too long"]),
            ('ckpt_path: "a\\0b"', ["ckpt_path: a�b is not there"]),
            ('ckpt_path: "a\\e[2Jb"', ["ckpt_path: a�[2Jb is not there"]),
            ("config: other.yaml", ["config", "other.yaml"]),
            ("data: 5", ["data must be LightningDataModule", "found 5"]),
            ("data: {init_args: 5}", ["data must be one of AtariDataModule", "found {'init_args': 5}"]),
            ("model: {init_args: {micro_batches: 5}}", ["model.micro_batches must be MicroBatchConfig", "found 5"]),
        ],
        ids=lambda value: value[:40] if isinstance(value, str | bytes) else "",
    )
    def test_is_refused_in_one_line(
        self, config: str | bytes, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = self.refused(config, tmp_path, capsys)
        assert [part for part in told if part not in message] == []

    @pytest.mark.parametrize("called", ["os.mkdir", "subprocess.Popen", "builtins.eval", "pathlib.Path"])
    @pytest.mark.parametrize("key", ["callbacks", "logger", "plugins", "strategy", "profiler", "accelerator"])
    def test_what_is_not_of_the_options_class_is_named_and_not_called(
        self, key: str, called: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spec = f"{{class_path: {called}, init_args: {{path: executed, args: [mkdir, executed], source: '1'}}}}"
        listed = f"[{spec}]" if key in ("callbacks", "plugins") else spec
        message = self.refused(f"trainer: {{{key}: {listed}}}", tmp_path, capsys)
        assert f"trainer.{key} must be " in message
        assert called in message

    @pytest.mark.parametrize("key", ["model", "data"])
    @pytest.mark.parametrize(
        "called", ["os.mkdir", "pytorch_lightning.demos.boring_classes.BoringModel", "absent.Class"]
    )
    def test_a_method_of_others_is_named(
        self, key: str, called: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "alone.yaml"
        path.write_text(f"{key}: {{class_path: {called}}}")
        message = refusal(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")], capsys)
        assert f"{key} must be one of " in message
        assert os.listdir(tmp_path) == ["alone.yaml"]

    @pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
    def test_what_is_no_file_does_not_hang(self, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "hostile.yaml"
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        assert "hostile.yaml" in refusal(["fit", "--config", str(path)], capsys)

    def refused(self, config: str | bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
        """The line with which a config that changes a good one is refused; nothing else is in the folder then."""
        path = folder / "hostile.yaml"
        path.write_bytes(config if isinstance(config, bytes) else config.encode())
        began = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            message = refusal(["fit", "--config", str(CONFIGS / "ppo.yaml"), "--config", "hostile.yaml"], capsys)
        assert time.monotonic() - began < 10
        assert os.listdir(folder) == ["hostile.yaml"]
        assert len(message) < 2100
        return message
