"""The autoencoder beside an exported policy: what it was, or a reason why not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rl.policies.autoencoder import load_autoencoder, own_weights
from lightning_rl.policies.folder import AUTOENCODER
from tests.support.exported import policy_of, with_extra, written
from tests.support.impala_worlds import LATENT, make_impala, make_impala_vae
from tests.support.runs import differences

OPTIONS = {"latent_size": LATENT, "images": "binary"}


def exported(folder: Path, **described: Any) -> Path:
    module = make_impala_vae()
    with_extra(
        written(folder, policy_of(module)), AUTOENCODER, own_weights(module.vae), autoencoder=OPTIONS | described
    )
    return folder


def test_it_is_the_one_that_was_exported(tmp_path: Path) -> None:
    found = load_autoencoder(exported(tmp_path / "policy"))
    assert found is not None
    assert differences(found.state_dict(), make_impala_vae().vae.state_dict()) == []


def test_its_file_holds_no_encoder_which_the_policy_brings() -> None:
    names = own_weights(make_impala_vae().vae)
    assert names
    assert all(name.startswith("decoder.") for name in names)


def test_an_earlier_file_holds_the_encoder_too(tmp_path: Path) -> None:
    module = make_impala_vae()
    folder = written(tmp_path / "policy", policy_of(module))
    found = load_autoencoder(with_extra(folder, AUTOENCODER, module.vae.state_dict(), autoencoder=OPTIONS))
    assert found is not None
    assert differences(found.state_dict(), module.vae.state_dict()) == []


def test_a_policy_may_bring_none(tmp_path: Path) -> None:
    assert load_autoencoder(written(tmp_path / "policy", policy_of(make_impala()))) is None


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ({"latent_size": LATENT + 1}, "has decoder.0.weight as float32"),
        ({"latent_size": "long"}, "has a config.json that describes no autoencoder"),
        ({"depth": 3}, "has a config.json that describes no autoencoder"),
        ({"images": "rgb"}, r"has decoder\.8\.\w+ as float32"),
    ],
)
def test_another_size_than_described_is_refused(described: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        load_autoencoder(exported(tmp_path / "policy", **described))


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path / "policy")
    content = (folder / AUTOENCODER).read_bytes()
    (folder / AUTOENCODER).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"is damaged: autoencoder\.safetensors is not the file"):
        load_autoencoder(folder)
    (folder / AUTOENCODER).unlink()
    with pytest.raises(ValueError, match=r"its autoencoder\.safetensors is not there"):
        load_autoencoder(folder)


def test_the_decoder_of_another_encoder_is_refused(tmp_path: Path) -> None:
    """As where somebody has put the files of two policies together."""
    module = make_impala()
    folder = written(tmp_path / "policy", policy_of(module))
    with_extra(folder, AUTOENCODER, own_weights(make_impala_vae().vae), autoencoder=OPTIONS)
    with pytest.raises(ValueError, match="has an autoencoder of another size than its policy's encoder"):
        load_autoencoder(folder)


def test_it_is_stored_in_half_the_space(tmp_path: Path) -> None:
    module = make_impala_vae()
    folder = written(tmp_path / "policy", policy_of(module), dtype="bfloat16")
    found = load_autoencoder(with_extra(folder, AUTOENCODER, own_weights(module.vae), autoencoder=OPTIONS))
    assert found is not None
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32}
    rounded = {name: tensor.bfloat16().float() for name, tensor in module.vae.state_dict().items()}
    assert differences(found.state_dict(), rounded) == []
