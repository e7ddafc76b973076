"""`export`, and judging what it wrote."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import av
import pytest
import safetensors.torch
import torch
import yaml

from lightning_rl import load_policy
from lightning_rl.cli import export
from lightning_rl.cli.program import main
from lightning_rl.cli.training_command import training_command
from lightning_rl.policies.autoencoder import load_autoencoder
from lightning_rl.policies.config import DataConfig, NetworkConfig
from lightning_rl.policies.folder import AUTOENCODER, CARD, CONFIG, ONNX, VIDEO, WEIGHTS, WORLD_MODEL
from lightning_rl.runs.checkpoint_files import take_policy
from tests.support.command_lines import parsed, resolved
from tests.support.exported import new_policy, written
from tests.support.methods import CONFIGS
from tests.support.runs import differences, load
from tests.support.shared_runs import SharedRuns
from tests.support.worlds import make_module


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command refuses `args`."""
    capsys.readouterr()
    status, captured = main(args), capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert re.fullmatch(r"lightning-rl: [^\n]+\n", captured.err)
    return captured.err


_BF16 = {"trainer.precision": "bf16-mixed", "model.micro_batches.size": 8}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestExport:
    @pytest.mark.parametrize(
        ("config", "options", "judged_with"),
        [
            ("ppo", {}, []),
            pytest.param("ppo_atari", {"trainer.precision": "bf16-mixed"}, [], marks=pytest.mark.slow),
            pytest.param("ppo_distill", _BF16, [], marks=pytest.mark.slow),
            pytest.param("impala", _BF16, [], marks=pytest.mark.slow),
            pytest.param("impala", {}, [], marks=pytest.mark.slow),
            pytest.param("impala_vae", {}, ["--model.greedy", "true"], marks=pytest.mark.slow),
            pytest.param("simple_cpu", {}, [], marks=pytest.mark.slow),
        ],
    )
    def test_test_of_a_policy_folder_gives_the_episodes_of_its_checkpoint_and_writes_nothing_into_it(
        self, config: str, options: dict[str, Any], judged_with: list[str], runs: SharedRuns, at_home: Path
    ) -> None:
        run = runs.copied(at_home / "run", config, **options)
        assert main(["test", "--ckpt_path", str(run), *judged_with]) == 0
        assert main(["export", "--ckpt_path", str(run), "--out", "an-agent"]) == 0
        folder, measured = at_home / "an-agent", json.loads((run / "test.json").read_text())
        before = contents(folder)

        assert main(["test", "--ckpt_path", "an-agent", *judged_with]) == 0

        [report] = (at_home / "checkpoints" / "judged").glob("*/test.json")
        assert report.parent.name.startswith("an-agent-")
        judged = json.loads(report.read_text())
        assert judged == measured | {"checkpoint": "an-agent", "run_id": report.parent.name}
        assert contents(folder) == before
        assert before.keys() == {WEIGHTS, CONFIG, CARD, VIDEO}
        assert before[VIDEO] == (run / "media" / VIDEO).read_bytes()
        head = yaml.safe_load(before[CARD].decode().split("---\n")[1])
        values = {result["metrics"][0]["value"] for result in head["model-index"][0]["results"]}
        level_sets = measured["level_sets"]
        assert values == {level_sets[name]["return_mean"] for name in level_sets.keys() - {"random_policy"}}

    @pytest.mark.parametrize(("key", "value"), [("distribution_mode", "hard"), ("game", "coinrun"), ("env_steps", 7)])
    def test_a_test_of_something_else_is_not_on_the_card(
        self, key: str, value: Any, runs: SharedRuns, tmp_path: Path
    ) -> None:
        run = runs.copied(tmp_path / "run", "ppo")
        checkpoint = export.load_checkpoint(["--ckpt_path", str(run / "last.ckpt"), "--run_dir", str(tmp_path)])
        row = {"episodes": 2, "return_mean": 1.0, "return_variance": 1.0, "return_ci95": [0.5, 1.5]}
        test = {
            "game": checkpoint.game,
            "distribution_mode": "easy",
            "checkpoint": "last.ckpt",
            "env_steps": checkpoint.datamodule.env_steps,
            "level_sets": {"full_distribution": row},
        }

        (run / "test.json").write_text(json.dumps(test | {"greedy": True}))
        assert export._results(checkpoint) == ({checkpoint.game: {"full_distribution": row}}, True)
        (run / "test.json").write_text(json.dumps(test | {key: value}))
        assert export._results(checkpoint) == (None, False)

    def test_a_run_of_a_gpu_is_exported_without_one(self, runs: SharedRuns, tmp_path: Path) -> None:
        run = runs.copied(tmp_path / "run", "ppo")
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["trainer"] |= {"accelerator": "gpu", "precision": "16-mixed"}
        (run / "config.yaml").write_text(yaml.safe_dump(config))

        checkpoint = export.load_checkpoint(["--ckpt_path", str(run), "--run_dir", str(tmp_path)])

        assert (checkpoint.trained_with.accelerator, checkpoint.trainer.precision) == ("gpu", "32-true")
        command = training_command(export._resolved(checkpoint))
        assert "--trainer.accelerator gpu" in command
        assert "--trainer.precision 16-mixed" in command
        assert "--trainer.devices" not in command

    def test_an_earlier_export_is_replaced_by_option_only(self, at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = written(at_home / "policy", new_policy(NetworkConfig(name="two_conv")))
        before = contents(folder)

        def fail(_: Path) -> None:
            raise OSError("no room")

        with pytest.raises(OSError, match="no room"):
            export.write_whole(folder, fail)
        assert contents(at_home) == {f"policy/{name}": content for name, content in before.items()}

        export.write_whole(folder, lambda partial: (partial / "new").touch())
        assert contents(at_home) == {"policy/new": b""}

    @pytest.mark.slow
    def test_without_test_json_nothing_was_measured_and_without_a_video_one_is_played(
        self, runs: SharedRuns, at_home: Path
    ) -> None:
        run = runs.copied(at_home / "run", "impala_vae")
        shutil.rmtree(run / "media")

        args = ["export", "--ckpt_path", str(run / "last.ckpt"), "--out", "policy", "--dtype", "bfloat16"]
        assert main([*args, "--autoencoder", "--onnx"]) == 0

        folder = at_home / "policy"
        assert sorted(contents(folder)) == sorted([WEIGHTS, CONFIG, CARD, VIDEO, ONNX, AUTOENCODER])
        assert "Nothing was measured." in (folder / CARD).read_text()
        assert (folder / VIDEO).stat().st_size > 1000
        config = load_policy(folder).config
        assert (config.method, config.recurrent, config.dtype) == ("impala_vae", True, "bfloat16")
        saved = {name.removeprefix("vae."): t for name, t in load(run)["state_dict"].items() if name.startswith("vae.")}
        vae = load_autoencoder(folder)
        assert vae is not None
        assert differences(vae.state_dict(), {name: tensor.bfloat16().float() for name, tensor in saved.items()}) == []

    @pytest.mark.slow
    def test_so_many_episodes_are_shown_instead_of_the_runs_video(self, runs: SharedRuns, at_home: Path) -> None:
        run = runs.copied(at_home / "run", "ppo")
        for number in (1, 3):
            args = ["--ckpt_path", str(run), "--out", "policy", "--overwrite", "--episodes", str(number)]
            assert main(["export", *args]) == 0
            with av.open(str(at_home / "policy" / VIDEO)) as video:
                assert video.streams.video[0].width == number * 3 * 64 + (number - 1) * 2

    @pytest.mark.slow
    def test_the_world_model_is_written_by_option(self, runs: SharedRuns, at_home: Path) -> None:
        run = runs.finished("simple_cpu", data__num_envs=16, data__num_steps=2)

        assert main(["export", "--ckpt_path", str(run), "--out", "policy", "--world_model"]) == 0

        saved = load(run)["state_dict"]
        expected = {
            name.removeprefix("world_model."): t for name, t in saved.items() if name.startswith("world_model.")
        }
        assert differences(safetensors.torch.load_file(at_home / "policy" / WORLD_MODEL), expected) == []
        config = load_policy(at_home / "policy").config
        assert config.world_model is not None
        assert config.world_model["hidden"] == 8
        assert config.world_model["reward_values"] == [0.0, 2.0, 10.0]

    @pytest.mark.parametrize(
        ("args", "told"),
        [
            ([], "the following arguments are required: --out"),
            (["--out", "policy"], "ckpt_path: export needs a checkpoint, found none; give --ckpt_path FILE"),
            (["--out", "policy", "--dtype", "float8"], "argument --dtype: invalid choice: 'float8'"),
            (["--out", "taken", "--ckpt_path", "a"], "out: taken exists already; give another folder, or --overwrite"),
            (["--out", "taken", "--ckpt_path", "a", "--overwrite"], "out: taken is not an earlier export, and is not"),
            (["--out", "policy", "--ckpt_path", "a", "--episodes", "0"], "episodes must be at least 1, found 0"),
            (["--out", "policy", "--ckpt_path", "a", "--push", "name"], "must be hf://user/name, found name"),
        ],
    )
    def test_a_wrong_option_is_refused_before_anything_is_read(
        self, args: list[str], told: str, at_home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (at_home / "taken").mkdir()
        (at_home / "taken" / "mine.txt").touch()

        assert told in refusal(["export", *args], capsys)
        assert [path.name for path in at_home.rglob("*")] == ["taken", "mine.txt"]

    def test_what_the_method_lacks_is_refused_and_nothing_is_left(
        self, runs: SharedRuns, at_home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = ["export", "--ckpt_path", str(runs.finished("ppo")), "--out", "policy", "--autoencoder"]

        assert "autoencoder: PPOModule has none" in refusal(args, capsys)
        assert list(at_home.iterdir()) == []


class TestJudging:
    @pytest.fixture
    def folder(self, at_home: Path) -> Path:
        return written(at_home / "policy", new_policy(NetworkConfig(name="two_conv"), game="maze"))

    @pytest.mark.parametrize(
        ("args", "told"),
        [
            (["fit", "--ckpt_path", "policy"], "is an exported policy, which holds no run; give it as --policy_from"),
            (["test", "--ckpt_path", "policy", "--data.game", "heist"], "is of game maze, this command of game heist"),
            (["test", "--ckpt_path", "policy", "--run_dir", "policy/sub"], "run_dir must not be within policy"),
            (["test", "--ckpt_path", "policy"], "policy is of num_actions 7, the games of this command of 15"),
            (["test", "--ckpt_path", "policy", "--model.gamma", "1"], "model.gamma is not an option"),
            (["export", "--ckpt_path", "policy", "--out", "other"], "policy is exported already; give a checkpoint"),
            (["bench", "--policy", "absent"], "policy: absent is not there"),
        ],
    )
    def test_a_wrong_use_is_refused(
        self, args: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(folder.parent)

        assert told in refusal(args, capsys)
        assert contents(folder.parent) == before

    def test_a_policy_folder_brings_its_options_and_flags_override_them(self, at_home: Path) -> None:
        data = DataConfig(class_path="lightning_rl.AtariDataModule", init_args={"game": "pong", "test_episodes": 3})
        written(at_home / "policy", new_policy(NetworkConfig(name="two_conv"), game="pong", data=data))

        options = parsed(["test", "--ckpt_path", "policy", "--data.test_episodes", "5", "--model.greedy", "true"])

        assert options.data.class_path == "lightning_rl.data.atari.AtariDataModule"
        assert (options.data.init_args.game, options.data.init_args.test_episodes) == ("pong", 5)
        assert (options.model.init_args.policy, options.model.init_args.greedy) == ("policy", True)

    def test_a_given_config_says_which_games_and_the_policy_plays_them(self, folder: Path) -> None:
        config = str(CONFIGS / "ppo_distill.yaml")

        options = parsed(["test", "--config", config, "--ckpt_path", str(folder), "--data.game", "maze"])

        assert options.data.init_args.start_level == 1  # the config's
        assert options.model.class_path == "lightning_rl.modules.exported.PolicyModule"

    def test_a_run_starts_with_a_policy_folders_weights(self, folder: Path) -> None:
        module = make_module(network="two_conv")
        torch.manual_seed(5)
        next(module.parameters()).data.add_(1)

        take_policy(folder, module, parts=module.policy_parts)

        assert differences(module.network.state_dict(), load_policy(folder).network.state_dict()) == []


@pytest.mark.parametrize(
    "configs", [("ppo_distill", "hardware/cpu"), ("impala_vae_sm",), ("simple_atari_cpu", "hardware/cpu")]
)
def test_the_command_on_the_card_repeats_the_run(configs: tuple[str, ...]) -> None:
    config = resolved(*configs, data__game="heist" if "atari" not in configs[0] else "pong", seed_everything="7")
    config["policy_from"] = "runs/warm"

    command = shlex.split(training_command(config))

    again = parsed(command[1:]).as_dict()
    assert command[:2] == ["lightning-rl", "fit"]
    for key in ("model", "data", "seed_everything", "policy_from"):
        assert again[key] == config[key], key
    ignored = ("logger",)
    assert {k: v for k, v in again["trainer"].items() if k not in ignored} == {
        k: v for k, v in config["trainer"].items() if k not in ignored
    }
