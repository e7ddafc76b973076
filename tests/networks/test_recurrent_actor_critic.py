import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rl.networks.recurrent_actor_critic import RecurrentActorCritic, RecurrentOutput

OBS_SHAPE = (16, 16, 3)
T, B, A, Z, H = 5, 3, 7, 11, 13


def make(*, latent_size: int = Z) -> RecurrentActorCritic:
    return RecurrentActorCritic(OBS_SHAPE, A, latent_size=latent_size, hidden_size=H)


def inputs(*, latent_size: int = Z) -> list[Tensor]:
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[0, 0] = starts[2, 1] = starts[4, 1] = True
    return [
        torch.randint(256, (T, B, *OBS_SHAPE), dtype=torch.uint8),
        torch.randn(T, B, latent_size),
        torch.randint(A, (T, B)),
        3 * torch.randn(T, B),
        starts,
        torch.randn(B, 2 * H),
    ]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_unroll_matches_the_equations_of_the_cell() -> None:
    """Hochreiter, Schmidhuber 1997 with the forget gate of Gers et al. 2000, number by number."""
    network, (obs, latents, actions, rewards, starts, state) = make(), inputs()
    with torch.no_grad():
        found = network(obs, latents, actions, rewards, starts, state)
        features = network.torso(obs.flatten(0, 1)).unflatten(0, (T, B))
    numbers = {name: parameter.detach().double().numpy() for name, parameter in network.named_parameters()}
    weight = np.concatenate([numbers["lstm.weight_ih_l0"], numbers["lstm.weight_hh_l0"]], axis=1)
    bias = numbers["lstm.bias_ih_l0"] + numbers["lstm.bias_hh_l0"]

    for b in range(B):
        output, cell = state[b, :H].double().numpy(), state[b, H:].double().numpy()
        for t in range(T):
            if starts[t, b]:
                output, cell = np.zeros(H), np.zeros(H)
            last = np.zeros(A)
            last[int(actions[t, b])] = 1
            reward = [min(1.0, max(-1.0, float(rewards[t, b])))]
            given = np.concatenate([features[t, b].numpy(), latents[t, b].numpy(), reward, last, output])
            gates = weight @ given + bias
            for i in range(H):
                write, keep, new, show = (gates[i + k * H] for k in range(4))
                cell[i] = sigmoid(keep) * cell[i] + sigmoid(write) * math.tanh(new)
                output = output.copy()
                output[i] = sigmoid(show) * math.tanh(cell[i])
            logits = numbers["actor.weight"] @ output + numbers["actor.bias"]
            value = numbers["critic.weight"] @ output + numbers["critic.bias"]
            assert_close(found.logits[t, b].double(), torch.from_numpy(logits), rtol=1e-4, atol=1e-5)
            assert_close(found.values[t, b].double(), torch.tensor(float(value[0])).double(), rtol=1e-4, atol=1e-5)
        assert_close(found.state[b].double(), torch.from_numpy(np.concatenate([output, cell])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("latent_size", [0, Z])
def test_stepping_frame_by_frame_gives_the_unroll(latent_size: int) -> None:
    network, given = make(latent_size=latent_size), inputs(latent_size=latent_size)
    *columns, state = given
    with torch.no_grad():
        whole = network(*given)
        steps: list[RecurrentOutput] = []
        for t in range(T):
            steps.append(network(*(column[t : t + 1] for column in columns), state))
            state = steps[-1].state

    assert_close(torch.cat([step.logits for step in steps]), whole.logits, rtol=1e-5, atol=1e-6)
    assert_close(torch.cat([step.values for step in steps]), whole.values, rtol=1e-5, atol=1e-6)
    assert_close(state, whole.state, rtol=1e-5, atol=1e-6)


def test_an_empty_state_equals_a_state_of_zeros() -> None:
    network, (*columns, state) = make(), inputs()

    empty, zeros = (network(*columns, given) for given in (torch.zeros(B, 0), torch.zeros_like(state)))

    assert torch.equal(empty.logits, zeros.logits)


def test_the_bias_of_the_forget_gate_starts_at_one() -> None:
    network = make()

    biases = dict(network.lstm.named_parameters())
    assert biases["bias_ih_l0"].tolist() == [0.0] * H + [1.0] * H + [0.0] * 2 * H
    assert biases["bias_hh_l0"].tolist() == [0.0] * 4 * H


def test_outputs_and_state_are_float32_under_mixed_precision() -> None:
    network, given = make(), inputs()

    with torch.autocast("cpu", torch.bfloat16):
        output = network(*given)

    assert {tensor.dtype for tensor in output} == {torch.float32}
    assert not torch.equal(output.state, output.state.bfloat16().float())


@pytest.mark.parametrize(("latent_size", "inputs_of_lstm"), [(0, 272), (64, 336)])
def test_the_network_has_the_published_sizes(latent_size: int, inputs_of_lstm: int) -> None:
    network = RecurrentActorCritic((64, 64, 3), 15, latent_size=latent_size)

    def count(part: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    assert network.lstm.input_size == inputs_of_lstm
    assert count(network.torso) == 97_600 + 524_544
    assert count(network.actor) + count(network.critic) == 4_112
