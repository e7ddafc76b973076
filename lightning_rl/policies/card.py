"""The model card of an exported policy: its README.md, with results in the hub's `model-index` form."""

from typing import Any

import yaml

from lightning_rl.policies.config import PolicyConfig

_NAMES = {
    "train_levels": "training levels",
    "full_distribution": "all levels",
    "teacher": "all levels, the teacher",
    "random_policy": "all levels, random actions",
}
_OF_OTHERS = ("teacher", "random_policy")
"""Rows of the table that are no results of the policy."""


def model_card(
    config: PolicyConfig, name: str, *, results: dict[str, Any] | None, command: str | None, greedy: bool = False
) -> str:
    """The text of README.md.

    Args:
        config: of the policy.
        name: of the policy.
        results: level sets of test.json by game, of these weights; None where nothing was measured.
        command: what trained the policy; None where it is not known.
        greedy: whether the results are of the most likely actions, where the policy is judged by sampled ones.
    """
    game = " ".join(filter(None, (config.games, config.distribution_mode)))
    parts = [
        f"# {name}",
        f"{config.method} on {game}, trained for {config.env_steps} env steps with lightning_rl"
        f" {config.lightning_rl_version}. `episodes.mp4` shows it play.",
        "```python\nfrom lightning_rl import load_policy\n\n"
        f'policy = load_policy("{name}")\n{_EXAMPLES[config.recurrent]}\n```',
        _input(config),
        "## Results",
        "Nothing was measured." if results is None else _results(config, results, greedy=greedy),
        "## Training",
        "The command is not known." if command is None else f"```bash\n{command}\n```",
    ]
    head = yaml.safe_dump(_metadata(config, name, results), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


_EXAMPLES = {
    False: "actions = policy.act(obs)  # obs: uint8 frames [N H W C]; greedy=True takes the most likely actions",
    True: "output = policy(obs)  # obs: uint8 frames [N H W C]; the first of an episode\n"
    "actions = policy.sample(output.logits)\n"
    "output = policy(next_obs, output.state, actions, rewards, ended)  # and so on",
}


def _results(config: PolicyConfig, results: dict[str, Any], *, greedy: bool) -> str:
    latent = _SAMPLED if config.network.latent_size and not greedy else ""
    return _table(results) + _GREEDY * greedy + latent + _ROUNDED[config.dtype]


_SAMPLED = "\n\nThe latent was sampled, where this folder takes its mean."
_GREEDY = "\n\nActions were the most likely ones (`--model.greedy true`)."
_ROUNDED = {
    "float32": "",
    "bfloat16": "\n\nThis was measured before the weights were rounded to bfloat16.",
}


def _input(config: PolicyConfig) -> str:
    height, width, channels = config.obs_shape
    stack = config.preprocessing.frame_stack
    frames = "the last frame" if stack == 1 else f"the last {stack} frames, channel after channel, the newest last"
    rewards = f" It hears {config.preprocessing.previous_rewards} rewards." if config.recurrent else ""
    return (
        f"Frames are {height}×{width} with {channels} channels ({frames}), 0 to 255 as rendered.{rewards}"
        f" Actions: {', '.join(config.action_meanings)}."
    )


def _table(results: dict[str, Any]) -> str:
    rows = ["| levels | mean return | 95 % interval | episodes |", "|---|---|---|---|"]
    for game, level_set, row in _rows(results):
        low, high = row["return_ci95"]
        name = f"{game}, " * (len(results) > 1) + _NAMES.get(level_set, level_set)
        rows.append(f"| {name} | {row['return_mean']:.2f} | {low:.2f} to {high:.2f} | {row['episodes']} |")
    return "\n".join(rows)


def _rows(results: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Game, level set, and what was measured."""
    return [(game, *item) for game, level_sets in results.items() for item in level_sets.items()]


def _metadata(config: PolicyConfig, name: str, results: dict[str, Any] | None) -> dict[str, Any]:
    games = config.games.split("+")
    suite = "atari" if "Atari" in config.data.class_path else "procgen"
    head: dict[str, Any] = {
        "library_name": "lightning_rl",
        "pipeline_tag": "reinforcement-learning",
        "tags": [
            "reinforcement-learning",
            "deep-reinforcement-learning",
            suite,
            config.method,
            *games,
        ],
    }
    if results is not None:
        judged = [row for row in _rows(results) if row[1] not in _OF_OTHERS]
        mode = f" {config.distribution_mode}" if config.distribution_mode else ""
        rows = [_result(suite, f"{game}{mode}", level_set, row) for game, level_set, row in judged]
        head["model-index"] = [{"name": name, "results": rows}]
    return head


def _result(suite: str, game: str, level_set: str, row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["return_ci95"]
    levels = _NAMES.get(level_set, level_set)
    metric = {
        "type": "mean_reward",
        "name": f"mean return, 95 % interval {low:.2f} to {high:.2f}",
        "value": row["return_mean"],
        "args": {"episodes": row["episodes"], "ci95": [low, high], "variance": row["return_variance"]},
        "verified": False,
    }
    return {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        "dataset": {"name": f"{suite} {game}, {levels}", "type": f"{suite}-{game}-{level_set}".replace(" ", "-")},
        "metrics": [metric],
    }
