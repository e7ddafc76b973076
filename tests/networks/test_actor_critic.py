import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_rl.networks.actor_critic import (
    ActorCritic,
    DistillationNetwork,
    three_stack_actor_critic,
    two_conv_actor_critic,
    two_stack_actor_critic,
)
from lightning_rl.networks.impala_cnn import CNNShape

OBS_SHAPE = (8, 16, 3)
NUM_ACTIONS = 5

Build = Callable[..., ActorCritic]
BOTH = pytest.mark.parametrize("build", [three_stack_actor_critic, two_stack_actor_critic])


def frames(num_frames: int = 2) -> Tensor:
    return torch.randint(256, (num_frames, *OBS_SHAPE), dtype=torch.uint8)


def images(num_images: int = 2) -> Tensor:
    return torch.randn(num_images, 3, 8, 16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers(module: nn.Module) -> list[str | tuple[int, int]]:
    """Width in and out of each dense layer and the names of the others, in order."""
    return [
        (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else type(layer).__name__
        for layer in module.modules()
        if not isinstance(layer, nn.Sequential)
    ]


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_gradient(module: nn.Module) -> list[str]:
    return [name for name, value in module.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]


@BOTH
@pytest.mark.parametrize("num_critics", [1, 2, 3])
def test_there_is_one_value_for_each_critic(build: Build, num_critics: int) -> None:
    output = build(OBS_SHAPE, NUM_ACTIONS, num_critics)(frames(7))

    assert (output.logits.shape, output.values.shape) == ((7, NUM_ACTIONS), (7, num_critics))


@BOTH
def test_values_come_in_the_order_of_the_critics(build: Build) -> None:
    network, obs = build(OBS_SHAPE, NUM_ACTIONS, 2), frames(7)

    values = network(obs).values

    features = network.torso(obs)
    assert torch.equal(values[:, :1], network.critics[0](features))
    assert torch.equal(values[:, 1:], network.critics[1](features))
    assert not torch.allclose(values[:, 0], values[:, 1])


@BOTH
def test_dropout_changes_values_and_never_logits(build: Build) -> None:
    network, obs = build(OBS_SHAPE, NUM_ACTIONS, 2, dropout=0.5), frames()

    acting, learning = network(obs), network(obs, seeded())

    assert torch.equal(learning.logits, acting.logits)
    assert torch.all(learning.values != acting.values)


@BOTH
def test_a_generator_changes_nothing_in_a_network_without_dropout(build: Build) -> None:
    network, obs = build(OBS_SHAPE, NUM_ACTIONS, 2, dropout=0.0), frames()

    assert torch.equal(network(obs, seeded()).values, network(obs).values)


@BOTH
def test_all_critics_share_one_dropout_mask(build: Build) -> None:
    network, obs = build(OBS_SHAPE, NUM_ACTIONS, 2, dropout=0.5), frames()
    network.critics[1] = network.critics[0]

    values = network(obs, seeded()).values

    assert torch.equal(values[:, 0], values[:, 1])


@BOTH
def test_gradient_reaches_every_parameter_of_the_actor_critic(build: Build) -> None:
    network = build(OBS_SHAPE, NUM_ACTIONS, 2)

    output = network(frames(13), seeded())
    (output.logits.square().sum() + output.values.square().sum()).backward()

    assert without_gradient(network) == []


@BOTH
def test_outputs_are_float32_under_mixed_precision(build: Build) -> None:
    network, obs = build(OBS_SHAPE, NUM_ACTIONS, 2), frames()

    with torch.autocast("cpu", torch.bfloat16):
        output = network(obs)

    assert (output.logits.dtype, output.values.dtype) == (torch.float32, torch.float32)
    assert not torch.equal(output.logits, output.logits.bfloat16().float())  # computed in float32, not converted to it
    assert not torch.equal(output.values, output.values.bfloat16().float())


def test_the_three_stack_torso_has_the_published_number_of_parameters() -> None:
    network = three_stack_actor_critic((64, 64, 3), 15, 1)

    assert num_parameters(network.torso) == 97_600 + 524_544
    assert (layers(network.actor), layers(network.critics[0])) == ([(256, 15)], [(256, 1)])


def test_the_three_stack_policy_starts_nearly_uniform() -> None:
    probabilities = three_stack_actor_critic(OBS_SHAPE, NUM_ACTIONS, 1)(frames(31)).logits.softmax(-1)

    assert_close(probabilities, torch.full((31, NUM_ACTIONS), 0.2), rtol=0, atol=0.005)


def test_the_three_stack_policy_head_is_orthogonal_with_gain_0_01() -> None:
    weight = three_stack_actor_critic(OBS_SHAPE, NUM_ACTIONS, 1).actor.get_parameter("weight")

    assert_close(weight @ weight.T, 1e-4 * torch.eye(NUM_ACTIONS), rtol=1e-4, atol=1e-9)


def test_the_three_stack_value_heads_have_gain_1() -> None:
    critics = three_stack_actor_critic(OBS_SHAPE, NUM_ACTIONS, 3).critics

    norms = torch.cat([critic.get_parameter("weight") for critic in critics]).norm(dim=1)
    assert_close(norms, torch.ones(3), rtol=1e-5, atol=0)


def test_all_biases_of_the_three_stack_network_start_at_zero() -> None:
    network = three_stack_actor_critic(OBS_SHAPE, NUM_ACTIONS, 2)

    biases = torch.cat([value for name, value in network.named_parameters() if name.endswith("bias")])
    assert torch.equal(biases, torch.zeros_like(biases))


def test_the_three_stack_torso_ends_in_a_relu() -> None:
    features = three_stack_actor_critic(OBS_SHAPE, NUM_ACTIONS, 1).torso(frames()).detach()

    assert features.shape == (2, 256)
    assert features.min().item() == 0


def test_the_two_stack_network_has_the_published_heads() -> None:
    with torch.device("meta"):
        network = two_stack_actor_critic((64, 64, 3), 15, 2)

    assert layers(network.actor) == [(8192, 256), "ReLU", (256, 512), "ReLU", (512, 15)]
    assert layers(network.critics[0]) == [
        (8192, 256),
        (256, 512),
        "ReLU",
        (512, 1),
    ]  # no relu between the first two
    assert layers(network.critics[1]) == [(8192, 256), "ReLU", (256, 1)]


def test_the_two_stack_network_has_the_expected_number_of_parameters() -> None:
    with torch.device("meta"):
        network = two_stack_actor_critic((64, 64, 3), 15, 2)

    assert num_parameters(network) == 51_360 + 2_236_687 + 2_229_505 + 2_097_665  # CNN, actor, two critics


def test_the_two_stack_cnn_has_rectified_skip_connections() -> None:
    network, distillation = two_stack_actor_critic(OBS_SHAPE, NUM_ACTIONS, 2), DistillationNetwork(OBS_SHAPE)

    blocks = [module for cnn in (network.torso, distillation.cnn) for module in cnn.modules()]
    assert [block.rectified_skip for block in blocks if hasattr(block, "rectified_skip")] == [True] * 8


@pytest.mark.parametrize("num_outputs", [1, 11])
def test_a_distillation_network_has_the_published_head(num_outputs: int) -> None:
    with torch.device("meta"):
        network = DistillationNetwork((64, 64, 3), num_outputs=num_outputs)

    assert layers(network.head) == [(8192, 256), "ReLU", (256, 512), "ReLU", (512, num_outputs)]
    assert num_parameters(network) == 51_360 + 2_228_992 + 513 * num_outputs


def test_a_distillation_network_drops_features_only_with_a_generator() -> None:
    network, batch = DistillationNetwork(OBS_SHAPE, num_outputs=7, dropout=0.5), images()

    quiet, again, dropped = network(batch), network(batch), network(batch, seeded())

    assert torch.equal(quiet, again)
    assert torch.all(quiet != dropped)


def test_gradient_reaches_every_parameter_of_a_distillation_network() -> None:
    network = DistillationNetwork(OBS_SHAPE, num_outputs=7, dropout=0.5)

    network(images(13), seeded()).square().sum().backward()

    assert without_gradient(network) == []


def test_two_distillation_networks_are_initialized_differently() -> None:
    teacher, student, batch = DistillationNetwork(OBS_SHAPE), DistillationNetwork(OBS_SHAPE), images()

    assert torch.all(teacher(batch) != student(batch))


def test_outputs_of_a_distillation_network_are_float32_under_mixed_precision() -> None:
    network, batch = DistillationNetwork(OBS_SHAPE), images()

    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(batch)

    assert outputs.dtype == torch.float32
    assert not torch.equal(outputs, outputs.bfloat16().float())


@pytest.mark.parametrize(
    ("shape", "number"),
    [
        (CNNShape(), 626_256),
        (CNNShape(pooling="average"), 110_160),
        (CNNShape(pooling="average", channels=(8, 16, 16), hidden=64), 26_736),
    ],
    ids=["flatten", "average", "small"],
)
def test_the_three_stack_network_has_the_published_number_of_parameters(shape: CNNShape, number: int) -> None:
    network = three_stack_actor_critic((64, 64, 3), 15, 1, shape=shape)

    assert sum(parameter.numel() for parameter in network.parameters()) == number


@pytest.mark.parametrize("given", [{"pooling": "average"}, {"width": 2}, {"channels": (8,)}, {"hidden": 64}])
def test_the_two_convolutions_have_one_shape(given: dict[str, Any]) -> None:
    ((option, value),) = given.items()
    message = rf"^model\.{option} must be .* for the network two_conv, found {re.escape(str(value))}$"
    with pytest.raises(ValueError, match=message):
        two_conv_actor_critic((64, 64, 3), 15, 1, shape=CNNShape(**given))
