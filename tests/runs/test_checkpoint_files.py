"""Checkpoint files: whole or not there, and nothing in them is ever executed."""

import os
import pickle
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from lightning_rl.modules.impala import ImpalaModule
from lightning_rl.modules.impala_vae import ImpalaVAEModule, VAEConfig
from lightning_rl.runs.checkpoint_files import METADATA, AtomicCheckpointIO, check_fits, is_readable, read


def saved(number: float, **more: Any) -> dict[str, Any]:
    metadata = {"method": "ppo", "game": "maze", "run_id": "one"}
    return {METADATA: metadata, "state_dict": {"weight": torch.full((500,), number)}, **more}


def number_in(path: Path) -> float:
    return float(read(path)["state_dict"]["weight"][0])


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


class TestSaving:
    def test_the_one_before_becomes_previous(self, tmp_path: Path) -> None:
        for number in (1.0, 2.0, 3.0):
            AtomicCheckpointIO().save_checkpoint(saved(number), tmp_path / "run" / "last.ckpt")
        assert number_in(tmp_path / "run" / "last.ckpt") == 3.0
        assert number_in(tmp_path / "run" / "previous.ckpt") == 2.0
        assert sorted(os.listdir(tmp_path / "run")) == ["last.ckpt", "previous.ckpt"]

    def test_so_it_does_where_files_cannot_have_two_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        self.test_the_one_before_becomes_previous(tmp_path)

    def test_best_keeps_no_previous(self, tmp_path: Path) -> None:
        for number in (1.0, 2.0):
            AtomicCheckpointIO().save_checkpoint(saved(number), tmp_path / "best.ckpt")
        assert number_in(tmp_path / "best.ckpt") == 2.0
        assert os.listdir(tmp_path) == ["best.ckpt"]

    @pytest.fixture
    def small_disk(self) -> Iterator[None]:
        """No file may grow past a million bytes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_a_full_disk_is_warned_about_and_leaves_the_old_files(self, tmp_path: Path, small_disk: None) -> None:
        io = AtomicCheckpointIO()
        for number in (1.0, 2.0):
            io.save_checkpoint(saved(number), tmp_path / "last.ckpt")
        assert io.unsaved == set()
        with pytest.warns(UserWarning, match="last.ckpt was not saved .* the next boundary tries again"):
            io.save_checkpoint(saved(3.0, more=torch.zeros(400_000)), tmp_path / "last.ckpt")
        assert io.unsaved == {"last.ckpt"}
        assert number_in(tmp_path / "last.ckpt") == 2.0
        assert number_in(tmp_path / "previous.ckpt") == 1.0
        assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "previous.ckpt"]

        io.save_checkpoint(saved(4.0), tmp_path / "last.ckpt")
        assert number_in(tmp_path / "last.ckpt") == 4.0
        assert io.unsaved == set()

    def test_what_cannot_be_pickled_raises_and_leaves_no_partial_file(self, tmp_path: Path) -> None:
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            AtomicCheckpointIO().save_checkpoint(saved(1.0, more=lambda: None), tmp_path / "last.ckpt")
        assert os.listdir(tmp_path) == []


class TestReading:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        torch.save(saved(2.5), tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    @pytest.mark.parametrize("carried", ["callbacks", "state_dict"])
    def test_code_is_refused_and_not_executed(self, carried: str, path: Path) -> None:
        torch.save(saved(1.0) | {carried: {"weight": Payload(path.parent / "executed")}}, path)
        with pytest.raises(ValueError, match=r"last.ckpt carries code or foreign objects, which are never executed; "):
            read(path)
        with pytest.raises(pickle.UnpicklingError):
            AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
        assert not is_readable(path)
        assert os.listdir(path.parent) == ["last.ckpt"]

    @pytest.mark.parametrize("zipped", [False, True])
    def test_a_bare_pickle_is_not_executed_either(self, zipped: bool, path: Path) -> None:
        payload = Payload(path.parent / "executed")
        if zipped:
            torch.save(payload, path, _use_new_zipfile_serialization=False)
        else:
            path.write_bytes(pickle.dumps(payload))
        with pytest.raises(ValueError, match="damaged or cut short"):
            read(path)
        assert os.listdir(path.parent) == ["last.ckpt"]

    def test_the_payload_would_work(self, tmp_path: Path) -> None:
        pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
        assert (tmp_path / "executed").is_dir()

    def test_cut_short_anywhere_it_is_damaged(self, path: Path) -> None:
        whole = path.read_bytes()
        for length in [*range(0, len(whole), 41), len(whole) - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"ckpt_path: {path} is damaged or cut short"):
                read(path)

    def test_no_flipped_bit_changes_what_is_read(self, path: Path) -> None:
        whole, expected, draws = path.read_bytes(), read(path), random.Random(0)
        refused = 0
        for _ in range(300):
            position = draws.randrange(8 * len(whole))
            altered = bytearray(whole)
            altered[position // 8] ^= 1 << position % 8
            path.write_bytes(altered)
            try:
                found = read(path)
            except ValueError as error:
                assert "damaged or cut short" in str(error)  # noqa: PT017
                refused += 1
            else:
                assert found[METADATA] == expected[METADATA]
                assert torch.equal(found["state_dict"]["weight"], expected["state_dict"]["weight"])
        assert refused > 100

    @pytest.mark.parametrize("content", [{"weight": 1}, [1, 2], {METADATA: {}}])
    def test_what_others_wrote_is_refused(self, content: Any, path: Path) -> None:
        torch.save(content, path)
        with pytest.raises(ValueError, match="was not written by lightning_rl"):
            read(path)

    def test_the_newest_good_one_is_named(self, path: Path) -> None:
        for age, name in enumerate(["damaged.ckpt", "newer.ckpt", "older.ckpt"]):
            torch.save(saved(1.0), path.with_name(name))
            os.utime(path.with_name(name), (time.time(), time.time() - 100 * age))
        path.with_name("damaged.ckpt").write_bytes(b"damaged")
        path.write_bytes(b"")
        told = f"the newest good one beside it is {path.parent}/newer.ckpt"
        with pytest.raises(ValueError, match=f"last.ckpt is damaged or cut short; {told}"):
            read(path)
        with pytest.raises(ValueError, match=f"absent.ckpt is not there; {told}"):
            read(path.with_name("absent.ckpt"))

    def test_without_a_good_one_that_is_said(self, path: Path) -> None:
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="there is no good one beside it"):
            read(path)


class Module(LightningModule):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, size) for size in sizes)


class TestFitting:
    def checkpoint(self, *sizes: int) -> dict[str, Any]:
        return {METADATA: {"method": "ppo", "game": "maze"}, "state_dict": Module(*sizes).state_dict()}

    def check(self, checkpoint: dict[str, Any], *sizes: int, method: str = "ppo", game: str = "maze") -> None:
        check_fits(checkpoint, Path("a.ckpt"), module=Module(*sizes), method=method, game=game)

    def test_the_same_fits(self) -> None:
        self.check(self.checkpoint(4, 5), 4, 5)

    def test_another_method_or_game_is_named(self) -> None:
        with pytest.raises(
            ValueError, match=r"^ckpt_path: a.ckpt is of method ppo, this command of method ppo_distill"
        ):
            self.check(self.checkpoint(4), 4, method="ppo_distill")
        with pytest.raises(ValueError, match=r"^ckpt_path: a.ckpt is of game maze, this command of game heist"):
            self.check(self.checkpoint(4), 4, game="heist")

    def test_the_first_other_shape_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"has layers.0.bias of shape \(4,\), this network of shape \(6,\); give"):
            self.check(self.checkpoint(4, 5), 6, 7)
        with pytest.raises(ValueError, match=r"has layers.1.bias of shape None, this network of shape \(5,\)"):
            self.check(self.checkpoint(4), 4, 5)

    @pytest.mark.parametrize(
        ("trained", "wanted", "told"),
        [
            ({"vae": {}}, {}, "is of method impala_vae, this command of method impala$"),
            ({}, {"vae": {}}, "is of method impala, this command of method impala_vae$"),
            ({"vae": {"latent_size": 3}}, {"vae": {"latent_size": 5}}, r"has network\.lstm\.weight_ih_l0 of shape"),
        ],
    )
    def test_another_autoencoder_or_none_is_named(
        self, trained: dict[str, Any], wanted: dict[str, Any], told: str
    ) -> None:
        old, new = (
            ImpalaVAEModule(vae=VAEConfig(**init_args["vae"])) if init_args else ImpalaModule()
            for init_args in (trained, wanted)
        )
        metadata = {"method": old.method(trained), "game": "maze"}
        checkpoint = {METADATA: metadata, "state_dict": old.state_dict()}
        with pytest.raises(ValueError, match=told):
            check_fits(checkpoint, Path("a.ckpt"), module=new, method=new.method(wanted), game="maze")
