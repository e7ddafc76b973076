"""Which runs form a group, and by which measurement they count."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_rl.envs.procgen_games import GAMES
from lightning_rl.report.analysis import _episodes
from lightning_rl.report.baselines import baselines, between, random_play
from lightning_rl.report.groups import Group, grouped
from lightning_rl.report.run_folders import read_runs
from lightning_rl.report.settings import command, method_name, setting
from tests.support.result_folders import config, metrics, results, write_run


def groups_of(folder: Path) -> list[Group]:
    runs, left_out = read_runs([folder])
    groups, more = grouped(runs)
    assert (left_out, more) == ([], [])
    return groups


def returns(group: Group, level_set: str = "full_distribution") -> list[float]:
    return [score.returns[level_set] for scores in group.scores.values() for score in scores]


class TestSetting:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("seed_everything", 7),
            ("run_dir", "elsewhere"),
            ("ckpt_path", "elsewhere/last.ckpt"),
            ("data__init_args__game", "coinrun"),
            ("data__init_args__seed", 7),
            ("data__init_args__num_threads", 8),
            ("data__init_args__test_episodes", 10),
            ("model__init_args__micro_batches", {"size": 128, "num_threads": 1}),
            ("model__class_path", "lightning_rl.modules.ppo.PPOModule"),
            ("trainer__precision", "32-true"),
            ("trainer__accelerator", "gpu"),
            ("trainer__devices", 1),
            ("trainer__logger", {"class_path": "pytorch_lightning.loggers.WandbLogger"}),
            ("trainer__default_root_dir", "elsewhere"),
        ],
    )
    def test_seed_game_paths_logger_and_machine_are_none(self, option: str, value: Any) -> None:
        changed: dict[str, Any] = {option: value}
        assert setting(config(**changed)) == setting(config())

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("model__init_args__pooling", "average"),
            ("model__init_args__learning_rate", 1e-4),
            ("model__class_path", "lightning_rl.ImpalaModule"),
            ("data__init_args__num_levels", 500),
            ("data__init_args__distribution_mode", "hard"),
            ("data__init_args__total_env_steps", 1_000_000),
            ("data__init_args__game", ["coinrun", "starpilot"]),
            ("trainer__devices", 2),
            ("policy_from", "runs/a/last.ckpt"),
            ("model__init_args__teacher", "teacher"),
        ],
    )
    def test_everything_else_is_one(self, option: str, value: Any) -> None:
        changed: dict[str, Any] = {option: value}
        assert setting(config(**changed)) != setting(config())

    @pytest.mark.parametrize("path", ["elsewhere/replay", "/scratch/replay"])
    def test_of_a_path_only_that_there_is_one_counts(self, path: str) -> None:
        given, other = (setting(config(data__init_args__folder=value)) for value in ("a/replay", path))

        assert given == other != setting(config())

    @pytest.mark.parametrize(
        ("option", "values"),
        [
            ("trainer__devices", [2, [0, 1], "0,1", "2"]),
            ("trainer__devices", [1, [3], "2,", "auto", None]),
            ("trainer__max_epochs", [-1, None, 1000]),
            ("model__init_args__captured_acting", [False, True, None]),
            (
                "trainer__callbacks",
                [
                    None,
                    [],
                    [{"class_path": "pytorch_lightning.callbacks.RichProgressBar", "init_args": {"leave": True}}],
                ],
            ),
        ],
    )
    def test_the_machine_and_what_only_watches_are_none(self, option: str, values: list[Any]) -> None:
        changed: list[dict[str, Any]] = [{option: value} for value in values]
        assert len({tuple(sorted(setting(config(**options)).items())) for options in changed}) == 1

    def test_another_packages_class_of_the_same_name_is_another_setting(self) -> None:
        assert setting(config(model__class_path="plugin.PPOModule")) != setting(config())

    def test_a_callback_that_changes_learning_is_one(self) -> None:
        averaging = [{"class_path": "pytorch_lightning.callbacks.StochasticWeightAveraging"}]
        assert setting(config(trainer__callbacks=averaging)) != setting(config())

    @pytest.mark.parametrize(
        ("model", "method"),
        [
            ("PPOModule", "ppo"),
            ("PPODistillModule", "ppo_distill"),
            ("ImpalaModule", "impala"),
            ("ImpalaVAEModule", "impala_vae"),
            ("SimPLeModule", "simple"),
            ("PolicyDistillModule", "policy_distill"),
        ],
    )
    def test_a_method_is_named_by_its_class(self, model: str, method: str) -> None:
        assert method_name(config(model=model)) == method

    def test_the_surprise_reward_names_the_method(self) -> None:
        options = config(model="ImpalaVAEModule", model__init_args__surprise={"weight": 1.0})

        assert method_name(options) == "impala_vae_sm"


def test_a_test_of_the_best_checkpoint_stands_for_the_whole_run(tmp_path: Path) -> None:
    rows = [{"env_steps": steps, "validation/return": 3.0} for steps in (300_000, 507_904)]
    for seed in (1, 2, 3):
        write_run(tmp_path / str(seed), config(seed=seed), results(train=5.0, full=4.0), rows)
    earlier = results(train=5.0, full=4.0, env_steps=300_000) | {"checkpoint": "runs/4/best.ckpt"}
    write_run(tmp_path / "4", config(seed=4), earlier, rows)

    [group] = groups_of(tmp_path)

    assert (group.env_steps, returns(group)) == (507_904, [4.0] * 4)


class TestNames:
    def write(self, folder: Path, **options: Any) -> None:
        write_run(folder, config(**options), results(train=5.0, full=4.0))

    def test_a_method_alone_needs_no_setting(self, tmp_path: Path) -> None:
        for seed in (1, 2, 3):
            self.write(tmp_path / str(seed), seed=seed)

        [group] = groups_of(tmp_path)

        assert (group.name, len(group.runs)) == ("ppo", 3)

    def test_what_sets_groups_apart_names_them(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a")
        self.write(tmp_path / "b", model__init_args__pooling="average")
        self.write(tmp_path / "c", model__init_args__pooling="average", data__init_args__num_levels=500)

        names = [group.name for group in groups_of(tmp_path)]

        assert names == [
            "ppo, num_levels 200, pooling flatten",
            "ppo, num_levels 200, pooling average",
            "ppo, num_levels 500, pooling average",
        ]

    def test_of_many_options_few_are_named_that_tell_a_group_from_all_others(self, tmp_path: Path) -> None:
        many = {f"model__init_args__option_{k}": k for k in range(5)}
        self.write(tmp_path / "peer")
        for number in range(3):
            self.write(tmp_path / str(number), **many, **{"model__init_args__option_9": number})

        names = [group.name for group in groups_of(tmp_path)]

        assert names == [
            "ppo, option_9 0, and 5 more",
            "ppo, option_9 1, and 5 more",
            "ppo, option_9 2, and 5 more",
            "ppo",
        ]

    def test_names_are_never_the_same(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a", model__init_args__one={"weight": 1.0})
        self.write(tmp_path / "b", model__init_args__two={"weight": 1.0})

        assert [group.name for group in groups_of(tmp_path)] == ["ppo, weight 1.0", "ppo, weight 1.0 #2"]

    def test_the_class_of_the_games_stands_for_the_options_that_only_it_has(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a")
        atari = {"class_path": "lightning_rl.AtariDataModule", "init_args": {"game": "MsPacman", "max_no_ops": 8}}
        write_run(tmp_path / "b", config(data=atari), results(train=None, full=300.0, game="ms_pacman"))

        names = [group.name for group in groups_of(tmp_path)]

        assert names == ["ppo, Procgen", "ppo, Atari"]

    def test_an_agent_of_several_games_is_a_group_of_its_own(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a")
        both = results(train=5.0, full=4.0, game="coinrun+starpilot")
        both["games"] = {game: {"level_sets": both["level_sets"]} for game in ("coinrun", "starpilot")}
        write_run(tmp_path / "b", config(game=["coinrun", "starpilot"]), both)

        single, several = groups_of(tmp_path)

        assert several.name == "ppo, game coinrun+starpilot"
        assert [task.game for task in several.scores] == ["coinrun", "starpilot"]
        assert single.name == "ppo"


class TestTeachers:
    """Paths to other runs: which of them make another group."""

    def write(self, folder: Path, teacher: str, **options: Any) -> None:
        game = options.get("game", "starpilot")
        student = config(model="PolicyDistillModule", model__init_args__teacher=teacher, **options)
        write_run(folder, student, results(train=5.0, full=4.0, game=game, method="policy_distill"))

    def test_two_teachers_are_two_groups(self, tmp_path: Path) -> None:
        for seed in (1, 2, 3):
            for teacher in ("good", "bad"):
                self.write(tmp_path / f"{teacher}_{seed}", f"runs/{teacher}/last.ckpt", seed=seed)

        assert [(group.name, len(group.runs)) for group in groups_of(tmp_path)] == [
            ("policy_distill, teacher runs/bad/last.ckpt", 3),
            ("policy_distill, teacher runs/good/last.ckpt", 3),
        ]

    @pytest.mark.parametrize("teacher", ["runs/seed_1/last.ckpt", "teacher_1", "runs/seed_{seed}", "teacher_{seed}"])
    def test_one_for_all_seeds_or_one_for_each_is_one_group(self, teacher: str, tmp_path: Path) -> None:
        for seed in (1, 2, 3):
            self.write(tmp_path / str(seed), teacher.format(seed=seed), seed=seed)

        [group] = groups_of(tmp_path)

        assert group.setting["model.teacher"] == f'"{teacher}"'

    def test_one_for_each_game_and_seed_is_one_group_and_one_command(self, tmp_path: Path) -> None:
        for game in ("coinrun", "starpilot"):
            for seed in (1, 2):
                self.write(tmp_path / f"{game}_{seed}", f"runs/ppo/{game}/seed_{seed}", seed=seed, game=game)

        [group] = groups_of(tmp_path)
        seeds = {"coinrun": [1, 2], "starpilot": [1, 2]}
        text = command(Path("config.yaml"), seeds, run_dir="runs/out", together=False, setting=group.setting)

        assert '--data.game $game --model.teacher "runs/ppo/$game/seed_$seed" --seed_everything $seed' in text


class TestMeasurement:
    def test_test_json_counts_where_env_steps_are_within_5_percent(self, tmp_path: Path) -> None:
        for seed, steps in ((1, 500_000), (2, 524_000)):
            test = results(train=5.0, full=float(seed), env_steps=steps)
            write_run(tmp_path / str(seed), config(seed=seed), test, metrics(9.0, env_steps=steps))

        [group] = groups_of(tmp_path)

        assert (returns(group), group.source) == ([1.0, 2.0], "test.json")

    def test_else_the_last_validation_at_or_before_the_common_budget(self, tmp_path: Path) -> None:
        for seed, steps in ((1, 500_000), (2, 1_000_000)):
            test = results(train=5.0, full=99.0, env_steps=steps)
            rows = metrics(float(seed), env_steps=steps, rows=10, every=2)
            write_run(tmp_path / str(seed), config(seed=seed), test, rows)

        [group] = groups_of(tmp_path)

        assert returns(group) == pytest.approx([1.0, 2.0 * 4 / 10])  # of 200 k, 400 k, ..., the one at 400 k
        assert returns(group, "train_levels") == pytest.approx([1.5, 1.3])
        assert group.env_steps == 500_000
        assert "at or before 500000 env steps" in group.source

    def test_groups_that_share_no_game_have_budgets_of_their_own(self, tmp_path: Path) -> None:
        for game, steps in (("starpilot", 500_000), ("bossfight", 2_000_000)):
            test = results(train=5.0, full=4.0, game=game, env_steps=steps)
            write_run(tmp_path / game, config(game=game, data__init_args__total_env_steps=steps), test)

        assert sorted((group.env_steps, group.source) for group in groups_of(tmp_path)) == [
            (500_000, "test.json"),
            (2_000_000, "test.json"),
        ]

    def test_a_run_without_a_validation_so_early_is_left_out(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", config(seed=1), rows=metrics(4.0))
        write_run(tmp_path / "b", config(seed=2), results(train=5.0, full=4.0, env_steps=9_000_000))

        runs, _ = read_runs([tmp_path])
        [group], [(_, why)] = grouped(runs)

        assert [run.seed for run in group.runs] == [1]
        assert why == "has no validation/return at or before 507904 env steps, where all runs are compared"

    @pytest.mark.parametrize("validated", [True, False])
    def test_one_short_run_does_not_cost_the_others_their_tests(self, tmp_path: Path, *, validated: bool) -> None:
        for seed in (1, 2, 3):
            test = results(train=5.0, full=float(seed), env_steps=1_000_000)
            rows = metrics(0.5, env_steps=1_000_000, rows=2, every=1)
            write_run(tmp_path / str(seed), config(seed=seed), test, rows)
        short = metrics(0.5, env_steps=300_000, rows=1) if validated else None
        write_run(tmp_path / "short", config(seed=4), results(train=5.0, full=4.0, env_steps=300_000), short)

        runs, _ = read_runs([tmp_path])
        [group], [(folder, why)] = grouped(runs)

        assert (returns(group), group.source, group.env_steps) == ([1.0, 2.0, 3.0], "test.json", 1_000_000)
        assert Path(folder).name == "short"
        assert why == "ends at 300000 env steps, before 1000000, where all runs are compared"

    def test_a_group_of_far_fewer_env_steps_stands_alone(self, tmp_path: Path) -> None:
        for seed in (1, 2):
            write_run(tmp_path / f"a{seed}", config(seed=seed), results(train=5.0, full=4.0), metrics(4.0))
        few = results(train=5.0, full=2.0, method="simple", env_steps=19_200)
        write_run(tmp_path / "b", config(model="SimPLeModule"), few, metrics(2.0, env_steps=19_200))

        found = {group.name: (group.env_steps, group.source) for group in groups_of(tmp_path)}

        assert found == {
            "ppo": (507_904, "test.json"),
            "simple": (19_200, "test.json; not compared with what counts at 507904 env steps"),
        }

    def test_tests_at_one_number_of_env_steps_need_no_validation(self, tmp_path: Path) -> None:
        for seed in (1, 2, 3):
            write_run(tmp_path / f"a{seed}", config(seed=seed), results(train=5.0, full=4.0))
        few = results(train=5.0, full=2.0, method="simple", env_steps=19_200)
        write_run(tmp_path / "b", config(model="SimPLeModule"), few, metrics(2.0, env_steps=19_200))

        found = {group.name: (group.env_steps, group.source) for group in groups_of(tmp_path)}

        assert found["ppo"] == (507_904, "test.json")
        assert found["simple"][0] == 19_200

    def test_a_test_at_the_budget_stands_in_for_a_validation(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", config(seed=1), results(train=5.0, full=4.0, env_steps=500_000))
        write_run(tmp_path / "b", config(seed=2), rows=metrics(8.0, env_steps=1_000_000, rows=10, every=1))

        [group] = groups_of(tmp_path)

        assert returns(group) == pytest.approx([4.0, 4.0])
        assert "or test.json of a run that ended there without one" in group.source

    def test_rows_far_before_the_budget_are_said(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", config(seed=1), rows=metrics(4.0, env_steps=900_000, rows=9, every=1))
        late = metrics(4.0, env_steps=1_200_000, rows=3, every=1)  # at 400 k, 800 k and 1.2 M
        write_run(tmp_path / "b", config(seed=2), rows=late)

        [group] = groups_of(tmp_path)

        assert [score.env_steps for scores in group.scores.values() for score in scores] == [900_000, 800_000]
        assert "at or before 900000 env steps (the earliest at 800000)" in group.source

    def test_another_checkpoint_than_the_last_is_said(self, tmp_path: Path) -> None:
        for seed, name in ((1, "last.ckpt"), (2, "runs/best.ckpt")):
            test = results(train=5.0, full=4.0) | {"checkpoint": name}
            write_run(tmp_path / str(seed), config(seed=seed), test)

        [group] = groups_of(tmp_path)

        assert group.source == "test.json of best.ckpt and last.ckpt"

    def test_a_test_without_a_checkpoint_has_none(self, tmp_path: Path) -> None:
        for seed, name in ((1, "last.ckpt"), (2, None)):
            write_run(tmp_path / str(seed), config(seed=seed), results(train=5.0, full=4.0) | {"checkpoint": name})

        [group] = groups_of(tmp_path)

        assert (group.source, [run.checkpoint for run in group.runs]) == ("test.json", ["last.ckpt", None])

    def test_metrics_alone_count_by_the_last_validation(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", rows=metrics(4.0))

        [group] = groups_of(tmp_path)

        assert returns(group) == [4.0]
        assert group.source == "the last validation rows, because `test` was not run"

    def test_a_validation_without_a_number_does_not_count(self, tmp_path: Path) -> None:
        rows = metrics(4.0, rows=10, every=1)
        rows[-1]["validation/return"] = float("nan")
        write_run(tmp_path / "a", rows=rows)

        [group] = groups_of(tmp_path)

        assert returns(group) == pytest.approx([3.6])


class TestBaselines:
    def group(self, folder: Path, **options: Any) -> Group:
        steps = options.pop("env_steps", 1_000_000)
        game = options.get("game", "fruitbot")
        write_run(
            folder, config(**{"game": "fruitbot"} | options), results(train=5.0, full=4.0, game=game, env_steps=steps)
        )
        [group] = groups_of(folder)
        return group

    def test_openais_runs_at_a_million_steps_of_fruitbot(self, tmp_path: Path) -> None:
        openai, random = baselines([self.group(tmp_path / "run")])

        assert (openai.name, random.name) == ("OpenAI PPO", "random")
        assert returns(openai, "train_levels") == pytest.approx([6.7, 4.9, 3.4], abs=0.06)
        assert returns(random) == [float(row["return_mean"]) for row in random_play()["easy", "fruitbot"]]

    @pytest.mark.parametrize(
        "options",
        [
            {"data__init_args__num_levels": 500},
            {"env_steps": 100_000},
            {"data__init_args__use_backgrounds": False},
            {"data__init_args__restrict_themes": True},
        ],
    )
    def test_openai_is_left_out_where_the_setting_is_another(self, options: dict[str, Any], tmp_path: Path) -> None:
        assert [group.name for group in baselines([self.group(tmp_path / "run", **options)])] == ["random"]

    def test_no_figure_applies_where_an_episode_pays_for_several_levels(self, tmp_path: Path) -> None:
        assert baselines([self.group(tmp_path / "run", data__init_args__use_sequential_levels=True)]) == []

    def test_atari_has_none(self, tmp_path: Path) -> None:
        options = config(game="MsPacman", data__class_path="lightning_rl.AtariDataModule")
        del options["data"]["init_args"]["distribution_mode"]
        write_run(tmp_path / "run", options, results(train=None, full=500.0, game="ms_pacman"))

        assert baselines(groups_of(tmp_path)) == []

    def test_all_games_have_random_play_in_both_modes(self, tmp_path: Path) -> None:
        rows = random_play()
        assert rows.keys() == {(mode, game) for mode in ("easy", "hard") for game in GAMES}
        assert len({len(runs) for runs in rows.values()}) == 1
        assert {int(row["episodes"]) for runs in rows.values() for row in runs} == {256}

    def test_between_points_is_a_line(self) -> None:
        points = {250_000: 1.0, 500_000: 3.0, 1_000_000: 5.0}

        assert [between(points, x) for x in (250_000, 375_000, 1_000_000)] == [1.0, 2.0, 5.0]
        assert [between(points, x) for x in (245_000, 1_040_000, 100_000, 2_000_000)] == [1.0, 5.0, None, None]


def test_a_command_repeats_every_game_and_seed() -> None:
    text = command(
        Path("my runs/config.yaml"), {"coinrun": [1, 2], "heist": [1, 2]}, run_dir="runs/ppo", together=False
    )

    assert text == (
        "for game in coinrun heist; do for seed in 1 2; do lightning-rl fit --config 'my runs/config.yaml' "
        "--data.game $game --seed_everything $seed --run_dir runs/ppo/$game/seed_$seed && lightning-rl test "
        "--ckpt_path runs/ppo/$game/seed_$seed/last.ckpt; done; done"
    )


def test_a_groups_episodes_are_those_of_all_runs_however_many_each_has() -> None:
    generator = np.random.default_rng(3)
    played = [generator.normal(0, 1, 1000), generator.normal(10, 5, 100), generator.normal(2, 3, 7)]
    tested = [
        {"return_variance": run.var(), "return_max": run.max(), "return_min": run.min(), "episodes": len(run)}
        for run in played
    ]

    found = _episodes(tested, np.array([run.mean() for run in played]))

    pooled = np.concatenate(played)
    expected = {"return_variance": pooled.var(), "return_max": pooled.max(), "return_min": pooled.min()}
    assert found == pytest.approx(expected | {"episodes": 1107})
    assert _episodes([*tested[:2], tested[2] | {"episodes": 0}], np.zeros(3)) is None
