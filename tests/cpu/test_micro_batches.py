from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_rl.cpu.micro_batches import MicroBatchConfig, Part, accumulate_gradients
from tests.support.worlds import draw_rollout, learn_once, make_distilled, whole_batch


def learned(
    micro_batches: MicroBatchConfig | None, **options: Any
) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Gradients and logs of one step on the same 15 samples by the same weights."""
    module = make_distilled(micro_batches=micro_batches, **options)
    return learn_once(module, whole_batch(module, draw_rollout(2)))


def known(gradients: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


@pytest.mark.parametrize("size", [1, 4, 5, 15, 100])  # 4 cuts unevenly
def test_gradients_of_parts_add_up_to_those_of_the_minibatch(size: int) -> None:
    whole, _ = learned(None)

    parts, _ = learned(MicroBatchConfig(size=size))

    assert known(whole).keys() == known(parts).keys()
    # float32 sums of 15 terms in another order, through a network a dozen layers deep
    torch.testing.assert_close(known(parts), known(whole), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("number", "expected"), [(256, [128, 128]), (320, [160, 160]), (2048, [256] * 8)])
def test_minibatches_are_cut_so_that_no_thread_is_idle(number: int, expected: list[int]) -> None:
    batch = whole_batch(make_distilled(), draw_rollout(2))
    rows = torch.zeros(number, dtype=torch.int64)
    batch = replace(batch, **{name: getattr(batch, name)[rows] for name in vars(batch)})

    assert [len(part) for part in batch.split(MicroBatchConfig(size=256, num_threads=2))] == expected


@pytest.mark.parametrize("size", [1, 4, 5, 15, 100])
def test_logs_of_parts_add_up_to_those_of_the_minibatch(size: int) -> None:
    _, whole = learned(None)

    _, parts = learned(MicroBatchConfig(size=size))

    assert "loss/distill" in whole
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_loss_of_parts_is_the_loss_of_the_minibatch() -> None:
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    samples = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0]])

    def part(rows: Tensor) -> Part:
        loss = (rows @ weight).square().mean() * len(rows) / len(samples)
        return Part(loss, {"loss": loss.detach()})

    loss, logged = accumulate_gradients([partial(part, rows) for rows in samples.split(2)], [weight], num_threads=2)
    loss.backward()

    expected_gradient = (2 * (samples @ weight.detach())[:, None] * samples).mean(0)
    torch.testing.assert_close(loss.detach(), (samples @ weight.detach()).square().mean())
    torch.testing.assert_close(logged["loss"], loss.detach())
    torch.testing.assert_close(weight.grad, expected_gradient)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_number_of_threads_changes_no_bit(num_threads: int) -> None:
    options: dict[str, Any] = {"dropout": 0.5, "distillation": {"dropout": 0.5}}
    gradients, logged = learned(MicroBatchConfig(size=1, num_threads=1), **options)

    # of one sample each, they are the same parts
    other_gradients, other_logged = learned(MicroBatchConfig(size=1, num_threads=num_threads), **options)

    torch.testing.assert_close(known(other_gradients), known(gradients), rtol=0, atol=0)
    torch.testing.assert_close(other_logged, logged, rtol=0, atol=0)


def test_dropout_differs_from_part_to_part() -> None:
    module = make_distilled(dropout=0.5, micro_batches=MicroBatchConfig(size=5, num_threads=3))
    batch = whole_batch(module, draw_rollout(2))
    rows = torch.zeros(len(batch), dtype=torch.int64)  # 15 times the same sample
    batch = replace(batch, **{name: getattr(batch, name)[rows] for name in vars(batch)})
    seen = []
    module.get_submodule("network.critics.0").register_forward_pre_hook(
        lambda _, features: seen.append(features[0].detach() == 0)
    )

    learn_once(module, batch)

    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_parameter_that_no_part_uses_gets_no_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))

    loss, _ = accumulate_gradients([lambda: Part(used.sum(), {})] * 2, [used, unused], num_threads=2)
    loss.backward()

    assert unused.grad is None
    assert used.grad is not None
    assert torch.equal(used.grad, torch.full((2,), 2.0))


def test_parameter_that_one_part_uses_gets_that_parts_gradient() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    jobs = [lambda: Part(first.sum(), {}), lambda: Part(second.sum() * 3, {})]

    loss, _ = accumulate_gradients(jobs, [first, second], num_threads=2)
    loss.backward()

    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(torch.cat([first.grad, second.grad]), torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0]))


def test_gradients_scale_with_the_gradient_of_the_loss() -> None:
    parameter = nn.Parameter(torch.ones(2))

    loss, _ = accumulate_gradients([lambda: Part(parameter.sum(), {})], [parameter], num_threads=1)
    (loss * 5).backward()

    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.full((2,), 5.0))


@pytest.mark.parametrize("micro_batches", [None, MicroBatchConfig(size=4)])
def test_layers_compute_in_the_trainers_precision_in_every_thread(micro_batches: MicroBatchConfig | None) -> None:
    module = make_distilled(micro_batches=micro_batches)
    batch = whole_batch(module, draw_rollout(2))
    dtypes = []
    module.get_submodule("network.torso").register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))

    learn_once(module, batch, precision="bf16-mixed")

    assert dtypes == [torch.bfloat16] * (1 if micro_batches is None else 4)


def test_error_in_a_part_reaches_the_caller() -> None:
    def fail() -> Part:
        raise FloatingPointError("of a thread")

    with pytest.raises(FloatingPointError, match="of a thread"):
        accumulate_gradients([fail], [nn.Parameter(torch.ones(1))], num_threads=2)


@pytest.mark.parametrize("name", ["size", "num_threads"])
def test_size_and_number_of_threads_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.micro_batches\.{name} must be at least 1, found 0"):
        MicroBatchConfig(**{name: 0})
