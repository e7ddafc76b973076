"""The model card: what the hub reads of it, and what it says where nothing was measured."""

from typing import Any

from lightning_rl.policies.card import model_card
from lightning_rl.policies.config import RECURRENT, NetworkConfig
from tests.support.exported import description

ROW: dict[str, Any] = {"return_mean": 4.36, "return_variance": 2.0, "return_ci95": [4.1, 4.62], "episodes": 512}
LEVEL_SETS = {
    "train_levels": ROW | {"return_mean": 4.6},
    "full_distribution": ROW,
    "teacher": ROW | {"return_mean": 9.0},
    "random_policy": ROW,
}


def test_the_hub_reads_every_result_with_its_interval() -> None:
    from huggingface_hub import ModelCard  # late: workers that do not run this need not import it

    config = description(NetworkConfig(name="two_conv"), distribution_mode="easy")

    card = ModelCard(model_card(config, "ppo-maze", results={"maze": LEVEL_SETS}, command="lightning-rl fit"))

    head: Any = card.data
    results = head.eval_results
    assert [(result.dataset_type, result.metric_value) for result in results] == [
        ("procgen-maze-easy-train_levels", 4.6),
        ("procgen-maze-easy-full_distribution", 4.36),
    ]
    assert results[1].metric_args == {"episodes": 512, "ci95": [4.1, 4.62], "variance": 2.0}
    assert results[1].metric_name == "mean return, 95 % interval 4.10 to 4.62"
    assert head.library_name == "lightning_rl"
    assert "| all levels, the teacher | 9.00 |" in card.text
    assert "| all levels, random actions | 4.36 | 4.10 to 4.62 | 512 |" in card.text
    assert "```bash\nlightning-rl fit\n```" in card.text


def test_without_results_the_card_says_that_nothing_was_measured() -> None:
    text = model_card(description(NetworkConfig(name=RECURRENT)), "impala-maze", results=None, command=None)

    assert "## Results\n\nNothing was measured." in text
    assert "model-index" not in text
    assert "It hears raw rewards." in text


def test_results_of_unrounded_weights_are_said_to_be_so() -> None:
    config = description(NetworkConfig(name="two_conv"), dtype="bfloat16")

    text = model_card(config, "ppo-maze", results={"maze": LEVEL_SETS}, command=None)

    assert "This was measured before the weights were rounded to bfloat16." in text


def test_results_of_the_likeliest_actions_are_said_to_be_so() -> None:
    config, told = description(NetworkConfig(name="two_conv")), "Actions were the most likely ones"

    texts = [
        model_card(config, "a", results={"maze": LEVEL_SETS}, command=None, greedy=greedy) for greedy in (False, True)
    ]

    assert [told in text for text in texts] == [False, True]


def test_results_of_a_sampled_latent_are_said_to_be_so() -> None:
    config, told = description(NetworkConfig(name=RECURRENT, latent_size=5)), "The latent was sampled"

    texts = [
        model_card(config, "a", results={"maze": LEVEL_SETS}, command=None, greedy=greedy) for greedy in (False, True)
    ]

    assert [told in text for text in texts] == [True, False]


def test_results_of_several_games_are_told_apart() -> None:
    config = description(NetworkConfig(name="two_conv"), game=["maze", "heist"], distribution_mode="easy")

    text = model_card(config, "both", results={"maze": LEVEL_SETS, "heist": LEVEL_SETS}, command=None)

    assert "ppo on maze+heist easy" in text
    assert "| heist, all levels | 4.36 | 4.10 to 4.62 | 512 |" in text
    assert "type: procgen-maze-easy-train_levels" in text
    assert "type: procgen-heist-easy-full_distribution" in text
