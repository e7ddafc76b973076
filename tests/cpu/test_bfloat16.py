from pathlib import Path

import pytest

from lightning_rl.cpu import bfloat16


def cpuinfo(tmp_path: Path, flags: str) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\nflags : fpu sse {flags}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("flags", "has"), [("avx512f avx512_bf16", True), ("amx_bf16", True), ("avx2 avx512f", False)])
def test_bf16_support_is_read_from_the_cpu_flags(flags: str, has: bool, tmp_path: Path) -> None:
    assert bfloat16.cpu_has_bf16(cpuinfo(tmp_path, flags)) is has


def test_without_cpuinfo_bf16_counts_as_unsupported(tmp_path: Path) -> None:
    assert not bfloat16.cpu_has_bf16(tmp_path / "absent")


@pytest.mark.parametrize(
    ("has", "asked", "accelerator", "given"),
    [
        (False, "bf16-mixed", "cpu", "32-true"),
        (False, "bf16-mixed", "gpu", "bf16-mixed"),
        (False, "32-true", "cpu", "32-true"),
        (False, None, "cpu", None),
        (True, "bf16-mixed", "cpu", "bf16-mixed"),
    ],
)
def test_only_emulated_bf16_is_replaced(
    has: bool, asked: str | None, accelerator: str, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "cpu_has_bf16", lambda: has)

    assert bfloat16.supported_precision(asked, accelerator) == given


@pytest.mark.parametrize(
    ("accelerator", "available", "used"),
    [("auto", True, True), ("gpu", True, True), ("cuda", True, True), ("cpu", True, False), ("auto", False, False)],
)
def test_cuda_is_used_where_it_is_available_and_selected(
    accelerator: str, available: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)

    assert bfloat16.uses_cuda(accelerator) is used
