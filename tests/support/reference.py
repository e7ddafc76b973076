"""Definitions, one function per equation, in float64 and loops: slow, obvious, and written from the papers."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def temporal_differences(*, rewards: Array, discounts: Array, values: Array, next_values: Array) -> Array:
    """Rullo 2024, eq. 5: δ_t = r_t + γ v_{t+1} (1 − done) − v_t."""
    return rewards + discounts * next_values - values


def generalized_advantages(
    *, rewards: Array, discounts: Array, values: Array, next_values: Array, lambda_: float
) -> Array:
    """Schulman et al. 2016 (GAE), eq. 16: A_t = Σ_k (γλ)^k δ_{t+k}, cut where the episode ends."""
    deltas = temporal_differences(rewards=rewards, discounts=discounts, values=values, next_values=next_values)
    advantages = np.zeros_like(deltas)
    for start in range(len(deltas)):
        for end in range(start, len(deltas)):
            advantages[start] += np.prod(lambda_ * discounts[start:end], axis=0) * deltas[end]
    return advantages


def bootstrapped_returns(*, rewards: Array, discounts: Array, next_values: Array) -> Array:
    """Schulman et al. 2016 (GAE), eq. 18 without the baseline: Σ_k γ^k r_{t+k}, then the value of the last state."""
    returns = np.zeros_like(rewards)
    for start in range(len(rewards)):
        for end in range(start, len(rewards)):
            returns[start] += np.prod(discounts[start:end], axis=0) * rewards[end]
        returns[start] += np.prod(discounts[start:], axis=0) * next_values[-1]
    return returns


def combined_advantages(
    *,
    rewards: tuple[Array, Array],
    values: tuple[Array, Array],
    next_values: tuple[Array, Array],
    done: Array,
    gamma: float,
    lambda_: float,
) -> Array:
    """Rullo 2024, eqs. 5 to 8, of extrinsic and intrinsic stream; in eq. 7 the second Vext is read as Vint."""
    value = values[0] + values[1]  # eq. 6
    next_value = next_values[0] + next_values[1]  # eq. 7
    delta = rewards[0] + rewards[1] + gamma * next_value * (1 - done) - value  # eq. 5
    advantages = delta.copy()
    for t in range(len(delta) - 2, -1, -1):
        advantages[t] = delta[t] + gamma * lambda_ * (1 - done[t]) * advantages[t + 1]  # eq. 8
    return advantages


def normalized(advantages: Array) -> Array:
    """Rullo 2024, eq. 10: (A − mean(A)) / (std(A) + 1e-8)."""
    numbers = advantages.ravel().tolist()
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers))
    centred: Array = advantages - mean
    return centred / (deviation + 1e-8)


def forward_discounted_sums(rewards: Array, start: Array, gamma: float) -> Array:
    """Burda et al. 2018 (RND), section 2.4: F_t = Σ_{s≤t} γ^{t−s} i_s, over time and never reset."""
    sums = np.zeros_like(rewards)
    for now in range(len(rewards)):
        sums[now] = gamma ** (now + 1) * start
        for past in range(now + 1):
            sums[now] += gamma ** (now - past) * rewards[past]
    return sums


def probabilities(logits: Array) -> Array:
    """Softmax over the last axis: π(a) = exp z_a / Σ_b exp z_b."""
    weights = np.exp(logits)
    shares: Array = weights / weights.sum(-1, keepdims=True)
    return shares


def log_probs_of(actions: Integers, logits: Array) -> Array:
    """log π(a_t|s_t), the numerator of Schulman et al. 2017 (PPO), eq. 6."""
    log_probs = np.zeros(actions.shape)
    for index in np.ndindex(actions.shape):
        log_probs[index] = math.log(probabilities(logits[index])[actions[index]])
    return log_probs


def entropy(logits: Array) -> Array:
    """Shannon 1948: −Σ_a π(a) log π(a), the S of Schulman et al. 2017 (PPO), eq. 9, in nats."""
    entropies = np.zeros(logits.shape[:-1])
    for index in np.ndindex(entropies.shape):
        entropies[index] = -sum(p * math.log(p) for p in probabilities(logits[index]))
    return entropies


def kl_divergence(logits: Array, other_logits: Array) -> Array:
    """Rullo 2024, eq. 3, of two policies: KL(p‖q) = Σ_a p(a) (log p(a) − log q(a))."""
    divergences = np.zeros(logits.shape[:-1])
    for index in np.ndindex(divergences.shape):
        p, q = probabilities(logits[index]), probabilities(other_logits[index])
        divergences[index] = sum(p[a] * math.log(p[a] / q[a]) for a in range(len(p)))
    return divergences


def clipped_surrogate(*, log_probs: Array, behavior_log_probs: Array, advantages: Array, epsilon: float) -> Array:
    """Schulman et al. 2017 (PPO), eq. 7, to be maximised: min(r A, clip(r, 1 − ε, 1 + ε) A)."""
    objectives = np.zeros_like(advantages)
    for index in np.ndindex(advantages.shape):
        ratio = math.exp(log_probs[index]) / math.exp(behavior_log_probs[index])
        bounded = min(max(ratio, 1 - epsilon), 1 + epsilon)
        objectives[index] = min(ratio * advantages[index], bounded * advantages[index])
    return objectives


def approx_kl(*, log_probs: Array, behavior_log_probs: Array) -> Array:
    """Schulman 2020 (Approximating KL divergence), k3 of KL(q‖p): (r − 1) − log r, r = p(x)/q(x), x drawn from q."""
    estimates = np.zeros_like(log_probs)
    for index in np.ndindex(estimates.shape):
        ratio = math.exp(log_probs[index]) / math.exp(behavior_log_probs[index])
        estimates[index] = (ratio - 1) - math.log(ratio)
    return estimates


def squared_value_loss(values: Array, targets: Array) -> Array:
    """Schulman et al. 2017 (PPO), eq. 9, the term L^VF, with the ½ of baselines' ppo2."""
    return (values - targets) ** 2 / 2


def clipped_value_loss(*, values: Array, behavior_values: Array, targets: Array, epsilon: float) -> Array:
    """openai/baselines, ppo2/model.py, `vf_loss`: ½ max((V − R)², (V within ε of V_old − R)²)."""
    losses = np.zeros_like(values)
    for index in np.ndindex(values.shape):
        low, high = behavior_values[index] - epsilon, behavior_values[index] + epsilon
        bounded = min(max(values[index], low), high)
        losses[index] = max((values[index] - targets[index]) ** 2, (bounded - targets[index]) ** 2) / 2
    return losses


def prediction_error(teacher: Array, student: Array) -> Array:
    """Rullo 2024, eq. 4: the mean squared error of reference and trained network."""
    errors = np.zeros(teacher.shape[:-1])
    for index in np.ndindex(errors.shape):
        errors[index] = sum((t - s) ** 2 for t, s in zip(teacher[index], student[index], strict=True))
    return errors / teacher.shape[-1]


def absolute_prediction_error(teacher: Array, student: Array) -> Array:
    """Lapan 2020 (Deep reinforcement learning hands-on), chapter 21: |ref(s) − trn(s)|, averaged over the outputs."""
    errors = np.zeros(teacher.shape[:-1])
    for index in np.ndindex(errors.shape):
        errors[index] = sum(abs(t - s) for t, s in zip(teacher[index], student[index], strict=True))
    return errors / teacher.shape[-1]


def vtrace(
    *,
    rewards: Array,
    discounts: Array,
    behavior_probabilities: Array,
    probabilities: Array,
    values: Array,
    next_values: Array,
    max_rho: float,
    max_c: float,
    max_pg_rho: float,
) -> tuple[Array, Array]:
    """Espeholt et al. 2018 (IMPALA), eq. 1 and section 4.2: targets v_s and ρ_s (r_s + γ v_{s+1} − V(x_s))."""
    ratios = probabilities / behavior_probabilities
    rhos, cs = np.minimum(max_rho, ratios), np.minimum(max_c, ratios)
    targets = values.copy()
    for s in range(len(rewards)):
        for t in range(s, len(rewards)):
            delta = rhos[t] * (rewards[t] + discounts[t] * next_values[t] - values[t])
            targets[s] += np.prod(discounts[s:t] * cs[s:t], axis=0) * delta
    advantages = np.zeros_like(values)
    for s in range(len(rewards)):
        following = targets[s + 1] if s + 1 < len(rewards) else next_values[s]
        advantages[s] = np.minimum(max_pg_rho, ratios[s]) * (rewards[s] + discounts[s] * following - values[s])
    return targets, advantages


def normal_density(x: float, mean: float, variance: float) -> float:
    """The normal distribution's density."""
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def gaussian_kl(mean: Array, log_variance: Array, *, half_width: float = 12.0, points: int = 4001) -> Array:
    """∫ q log (q / p) of each row's normal distribution against the standard one, as a sum of narrow strips."""
    divergences = np.zeros(len(mean))
    for n, i in np.ndindex(mean.shape):
        variance = math.exp(log_variance[n, i])
        grid = np.linspace(-half_width, half_width, points) * math.sqrt(variance) + mean[n, i]
        q = [normal_density(x, mean[n, i], variance) for x in grid]
        p = [normal_density(x, 0.0, 1.0) for x in grid]
        integrand = [a * math.log(a / b) for a, b in zip(q, p, strict=True)]
        divergences[n] += math.fsum(integrand) * (grid[1] - grid[0])
    return divergences


def gaussian_log_density(sample: Array, mean: Array, log_variance: Array) -> Array:
    """Σ log N(x_i; m_i, σ_i²)."""
    densities = np.zeros(len(mean))
    for n, i in np.ndindex(mean.shape):
        densities[n] += math.log(normal_density(sample[n, i], mean[n, i], math.exp(log_variance[n, i])))
    return densities


def bernoulli_nll(logits: Array, images: Array) -> Array:
    """−Σ log p(x) over the pixels of each image, p(white) the logistic function of the logit."""
    nlls = np.zeros(len(logits))
    for index in np.ndindex(logits.shape):
        white = 1 / (1 + math.exp(-logits[index]))
        x = images[index]
        nlls[index[0]] -= x * math.log(white) + (1 - x) * math.log(1 - white)
    return nlls


def surprise_minimizing_rewards(next_states: Array, terminated: Integers, first: Array, min_deviation: float) -> Array:
    """Berseth et al. 2021 (SMiRL), section 3: log p(s) under the normal distribution of the episode's states so far."""
    rewards = np.zeros(terminated.shape)
    for b in range(terminated.shape[1]):
        episode = [first[b]]
        for t in range(len(terminated)):
            state = next_states[t, b]
            if terminated[t, b]:
                episode = [state]
                continue
            deviations = np.maximum(np.std(episode, axis=0), min_deviation)
            means = np.mean(episode, axis=0)
            for x, mean, deviation in zip(state, means, deviations, strict=True):
                rewards[t, b] += math.log(normal_density(x, mean, deviation**2))
            episode.append(state)
    return rewards


def clipped_cross_entropy(logits: Array, classes: Integers, cutoff: float) -> Array:
    """Kaiser et al. 2019 (SimPLe), section 4, of each distribution: what −log p(class) has above the cutoff."""
    losses = np.zeros(classes.shape)
    for index in np.ndindex(classes.shape):
        nats = -math.log(probabilities(logits[index])[classes[index]])
        losses[index] = max(nats - cutoff, 0.0)
    return losses


def clipped_squared_error(predictions: Array, targets: Integers, cutoff: float) -> Array:
    """Kaiser et al. 2019 (SimPLe), section 4, of each sub-pixel: what the squared error has above the cutoff."""
    losses = np.zeros(targets.shape)
    for index in np.ndindex(targets.shape):
        losses[index] = max((predictions[index] - targets[index]) ** 2 - cutoff, 0.0)
    return losses


def standardized(frame: Array) -> Array:
    """tensor2tensor, `standardize_images`: each channel's mean zero and deviation one, at most 1/√pixels as divisor."""
    height, width, channels = frame.shape
    standard = np.zeros_like(frame)
    for c in range(channels):
        numbers = frame[..., c].ravel().tolist()
        mean = math.fsum(numbers) / len(numbers)
        deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
        standard[..., c] = (frame[..., c] - mean) / max(deviation, 1 / math.sqrt(height * width))
    return standard


def timing_signal(height: int, width: int, channels: int) -> Array:
    """tensor2tensor, `add_timing_signal_nd`: rows' sines, rows' cosines, columns' sines, columns' cosines."""
    signal = np.zeros((height, width, channels))
    scales = channels // 4
    for y, x, k in np.ndindex(height, width, scales):
        rate = 1 / 10_000 ** (k / max(1, scales - 1))
        waves = (math.sin(y * rate), math.cos(y * rate), math.sin(x * rate), math.cos(x * rate))
        signal[y, x, k : 4 * scales : scales] = waves
    return signal


def channel_norm(image: Array, scale: Array, shift: Array) -> Array:
    """Ba et al. 2016 (Layer normalization), eq. 3, over the channels, the first axis, of each position."""
    normal = np.zeros_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        numbers = image[:, y, x]
        mean = sum(numbers) / len(numbers)
        variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
        normal[:, y, x] = scale * (numbers - mean) / math.sqrt(variance + 1e-6) + shift
    return normal


def logistic(x: float) -> float:
    """1 / (1 + e^−x)."""
    return 1 / (1 + math.exp(-x))


def injected(image: Array, inputs: Array, weight: Array, bias: Array) -> Array:
    """tensor2tensor, `inject_additional_input`, "multi_additive": x σ(W c) + V c, W above V in the weight."""
    channels = len(image)
    dense = weight @ inputs + bias
    result = np.zeros_like(image)
    for c in range(channels):
        result[c] = image[c] * logistic(dense[c]) + dense[channels + c]
    return result


def same_convolution(image: Array, kernels: Array, bias: Array) -> Array:
    """A convolution of odd kernels, outputs first, that keeps height and width; zeros lie beyond the border."""
    outputs, _, size, _ = kernels.shape
    edge = size // 2
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (edge, edge), (edge, edge)))
    result = np.zeros((outputs, height, width))
    for o, y, x in np.ndindex(result.shape):
        result[o, y, x] = np.sum(kernels[o] * padded[:, y : y + size, x : x + size]) + bias[o]
    return result


def remembered(state: Array, image: Array, kernels: Array, bias: Array) -> Array:
    """tensor2tensor, `update_internal_states_early`: s' = g s + (1 − g) c, the gate g above the candidate c."""
    size = len(state)
    both = same_convolution(np.concatenate([image, state]), kernels, bias)
    result = np.zeros_like(state)
    for index in np.ndindex(state.shape):
        gate, candidate = logistic(both[index]), math.tanh(both[size + index[0], index[1], index[2]])
        result[index] = gate * state[index] + (1 - gate) * candidate
    return result


def bit_prior(features: Array, bits: Array, bits_per_symbol: int, weights: dict[str, Array]) -> float:
    """tensor2tensor, `predict_bits_with_lstm`: mean over the symbols of −log p(symbol | those before, features)."""
    first, output, cell = np.split(weights["start.weight"] @ features + weights["start.bias"], 3)
    size, inputs, nats = len(cell), first, []
    for start in range(0, len(bits), bits_per_symbol):
        symbol = sum(2**place for place in range(bits_per_symbol) if bits[start + place] > 0)
        gates = weights["lstm.weight_ih_l0"] @ inputs + weights["lstm.bias_ih_l0"]
        gates = gates + weights["lstm.weight_hh_l0"] @ output + weights["lstm.bias_hh_l0"]
        output, cell = output.copy(), cell.copy()
        for i in range(size):
            write, keep, new, show = (gates[i + k * size] for k in range(4))
            cell[i] = logistic(keep) * cell[i] + logistic(write) * math.tanh(new)
            output[i] = logistic(show) * math.tanh(cell[i])
        logits = weights["logits.weight"] @ output + weights["logits.bias"]
        nats.append(-math.log(probabilities(logits)[symbol]))
        inputs = weights["embed.weight"][:, symbol] + weights["embed.bias"]
    return sum(nats) / len(nats)


def adafactor(weights: Array, gradients: list[Array], *, learning_rate: float) -> Array:
    """tensor2tensor, utils/adafactor.py: weights after steps on these gradients, without momentum.

    Kernels are of TensorFlow's layout, inputs and outputs last; `pow` decay with exponent 0.8, threshold 1.
    """
    weights = weights.copy()
    rows, columns, entries = (np.zeros_like(weights.sum(axis)) for axis in (-1, -2 if weights.ndim > 1 else -1, ()))
    for step, gradient in enumerate(gradients):
        decay = 1 - (step + 1) ** -0.8
        squares = gradient**2 + 1e-30
        update = np.zeros_like(weights)
        if weights.ndim < 2:
            entries = decay * entries + (1 - decay) * squares
            update = gradient / np.sqrt(entries)
        else:
            rows = decay * rows + (1 - decay) * squares.mean(-1)
            columns = decay * columns + (1 - decay) * squares.mean(-2)
            for index in np.ndindex(weights.shape):
                *position, i, o = index
                at = tuple(position)
                estimate = rows[(*at, i)] * columns[(*at, o)] / rows[at].mean()
                update[index] = gradient[index] / math.sqrt(estimate)
        update = update / max(1.0, math.sqrt((update**2).mean()))
        weights -= learning_rate * max(1e-3, math.sqrt((weights**2).mean())) * update
    return weights
