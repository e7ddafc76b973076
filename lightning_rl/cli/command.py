"""The `lightning-rl` command: LightningCLI with run folders."""

from argparse import SUPPRESS
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import WandbLogger

from lightning_rl.callbacks.checkpointing import RunCheckpoint
from lightning_rl.callbacks.evaluation_report import EvaluationReport
from lightning_rl.callbacks.graceful_stop import StopAtBoundary
from lightning_rl.callbacks.progress import EnvStepsProgress
from lightning_rl.callbacks.reconstructions import AutoencoderPictures
from lightning_rl.callbacks.run_folder import RunFolder
from lightning_rl.callbacks.same_start import SameStart
from lightning_rl.callbacks.time_limit import TimeLimit
from lightning_rl.callbacks.validation_pace import ValidationPace
from lightning_rl.callbacks.video import RecordMedia
from lightning_rl.callbacks.world_model_report import WorldModelReport
from lightning_rl.cli import machine, replay, run_end, seeds
from lightning_rl.cli.config_files import (
    asked_data_class,
    check_configs,
    check_numbers,
    check_order,
    with_todays_classes,
)
from lightning_rl.cli.error_messages import say
from lightning_rl.cli.loggers import check_one_writer, place_loggers
from lightning_rl.cli.notices import notices_held_back
from lightning_rl.cli.parser import Parser
from lightning_rl.cli.policy_folders import asked_policy, find_location, policy_at, trained_for, with_policy_config
from lightning_rl.cli.registry import check_class_options, class_paths, data_class, import_plugins, module_class
from lightning_rl.cli.shipped_configs import with_shipped_configs
from lightning_rl.cli.trainer_options import (
    check_built,
    check_options,
    cluster_environment,
    compute_deterministically,
    fit_to_machine,
    pace_validation,
)
from lightning_rl.cpu.bfloat16 import full_name
from lightning_rl.data.continuation import read_games
from lightning_rl.errors import UnsavedError, UsageError
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.boundaries import check_boundary
from lightning_rl.runs.lightning_private import StagedCLI, callbacks_of, is_fast_dev_run
from lightning_rl.runs.metrics_csv import MetricsCSV
from lightning_rl.runs.paths import users_path
from lightning_rl.runs.signals import STOPPED, SignalWatcher
from lightning_rl.runs.wandb_run import drop_obsolete_settings, outlive
from lightning_rl.version import __version__

_NO_GAMES = ("seed", "allow_inexact_resume", "num_actors")  # options that play no other games


class RunCLI(StagedCLI):
    """LightningCLI that decides where a run lives and which checkpoint it continues before anything is built.

    Args:
        args: the command line without the program's name.
        signal_watcher: handles signals until training starts.

    Attributes:
        run_dir: everything that the run writes goes there.
        checkpoint: the checkpoint that is continued or judged, or the folder of an exported policy.
        policy: the exported policy that is judged, if any.
        complete: whether the checkpoint has reached `data.total_env_steps`.
    """

    keeps_results = True
    """Whether `test`, `validate` and `predict` write into the run folder."""

    def __init__(self, args: list[str], *, signal_watcher: SignalWatcher | None = None) -> None:
        self.stopper = StopAtBoundary(signal_watcher)
        self._remarks: list[str] = []  # printed once the command is known to be right
        self._asked = args[0] if args else ""
        import_plugins(args)
        args = with_shipped_configs(args)
        check_configs(args)
        check_order(args)
        self._left_open = machine.left_open(args)
        self.policy = asked_policy(args)
        self._data_class = asked_data_class(args, default=self.policy and self.policy.config.data.class_path)
        args = with_todays_classes(args)
        if self.policy is not None:
            args = with_policy_config(args, self.policy)
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            seed_everything_default=1,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={
                "prog": "lightning-rl",
                "version": __version__,
                "epilog": "`lightning-rl report` shows statistics over runs, `export` writes an agent as a folder,"
                " `bench` times one, `play` shows one in the browser, and `doctor` shows what will break on this"
                " machine, and what a bug report needs.",
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static in Lightning, and called on `self`
        """The subcommand of the command line, because building each parser takes time; all of them if it is unknown."""
        every = super().subcommands()
        return {self._asked: every[self._asked]} if self._asked in every else every

    @property
    def _taken_before(self) -> dict[str, str]:
        """Options that other parts of the program take before this one is asked."""
        return replay.OPTIONS if self._asked == "predict" else seeds.OPTIONS

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the package's options and defaults, and links what follows from the data module to the model."""
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder for everything that this run writes."
        )
        parser.add_argument(
            "--policy_from",
            type=str | None,
            default=None,
            help="Start with the policy of this checkpoint, which may be of another method.",
        )
        parser.add_argument(
            "--allow_inexact_resume",
            type=bool,
            default=False,
            help="Accept a checkpoint of another number of ranks, actors or environments; games start anew.",
        )
        parser.add_argument(
            "--test_at_end", type=bool, default=False, help="Run `test` once `fit` has trained its last env step."
        )
        for option, meaning in self._taken_before.items():  # for the help: `main` takes them before
            parser.add_argument(option, type=str, default=SUPPRESS, help=meaning)
        trainer = yaml.safe_load(Path(__file__).with_name("defaults.yaml").read_text(encoding="utf-8"))["trainer"]
        defaults = {f"trainer.{key}": value for key, value in trainer.items()}
        parser.set_defaults({**defaults, "data": {"class_path": self._data_class}})
        parser.link_arguments("allow_inexact_resume", "data.init_args.allow_inexact_resume")
        parser.link_arguments("data.game_names", "model.init_args.games", apply_on="instantiate")
        parser.link_arguments("data.num_actions", "model.init_args.num_actions", apply_on="instantiate")
        parser.link_arguments("data.obs_shape", "model.init_args.obs_shape", apply_on="instantiate")
        parser.link_arguments("data.reward_values", "model.init_args.reward_values", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses `args` without Lightning's warning that `sys.argv` is ignored; here both are the same."""
        self.config = parser.parse_args(args)

    def set_seed(self) -> None:
        """Seeds all random streams, without Lightning's line on stderr."""
        seed = self.config[self.subcommand].seed_everything
        if isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise UsageError(f"seed_everything must be an integer from 0 to {2**32 - 1}, found {seed}")
        seed_everything(seed, workers=True, verbose=False)

    def before_instantiate_classes(self) -> None:
        """Checks the options, and finds the run folder and the checkpoint."""
        config = self.config[self.subcommand]
        for option in self._taken_before:
            if (name := option.removeprefix("--")) in config:
                raise UsageError(f"{name} is an option of the command line, found in a config")
        for key in ("model", "data", "trainer"):
            if not isinstance(config.get(key), Namespace):
                raise UsageError(f"{key} must be a group of options, found {config.get(key)}")
            check_numbers(config[key].as_dict(), key)
        check_options(config.trainer, subcommand=str(self.subcommand))
        config.data.init_args.seed = config.seed_everything
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # Lightning's table truncates names; `EvaluationReport` prints its own
        asked = config.trainer.precision
        self._remarks.extend(fit_to_machine(config.trainer, subcommand=str(self.subcommand)))
        self.saved_config = config.clone()
        for key in ("run_dir", "ckpt_path", "policy_from"):
            config[key] = users_path(key, config[key])
        compute_deterministically(config.trainer)
        self._paced = pace_validation(config.trainer)
        check_class_options(config)
        self.method = module_class(config.model.class_path).method(config.model.init_args.as_dict())
        self.game = data_class(config.data.class_path).games_named(config.data.init_args.get("game"))
        self._locate(config)
        asks: dict[str, Any] = {"asked": asked, "saved": self.location.saved, "subcommand": str(self.subcommand)}
        self._remarks.extend(machine.follow((config, self.saved_config), self._left_open, **asks))
        config.ckpt_path = None if self.location.saved is None else str(self.checkpoint)
        if self.subcommand != "fit" or config.trainer.fast_dev_run:
            config.trainer.logger = False  # they are for training; evaluation writes test.json and a video
        self._remarks.extend(place_loggers(config.trainer, run_dir=self.run_dir, run_id=self.location.run_id))

    def _locate(self, config: Namespace) -> None:
        """Finds the run folder and the checkpoint."""
        self.location = find_location(config, self.policy, str(self.subcommand), method=self.method, game=self.game)
        self.run_dir, self.checkpoint = self.location.run_dir, self.location.checkpoint
        if self.keeps_results:
            self.location.check_results(str(self.subcommand))
        self._remarks.extend(self.location.remarks)
        if self.subcommand == "fit" and self.location.saved is not None and config.policy_from is not None:
            self._remarks.append(f"policy_from is not read again: the run goes on with the policy of {self.checkpoint}")

    def instantiate_classes(self) -> None:
        """Builds module, data module and trainer, and checks that they and the checkpoint fit together."""
        self.complete = False
        with notices_held_back():
            super().instantiate_classes()
            if self.location.saved is not None:
                self.model.prepare_for(self.location.saved)
            batches = self.model.batches_per_iteration(self.datamodule.num_steps, self.datamodule.num_envs)
            epoch = self.config[self.subcommand].data.init_args.get("iterations_per_epoch", 1)
            check_built(self.trainer, batches=batches * epoch)
            self.datamodule.check_agent(self.model)
            if self.subcommand == "fit":
                self.model.check_trainer(self.trainer)
                self.model.configure_optimizers()  # torch checks their options when they are built
            if self.location.saved is not None and self.checkpoint is not None:
                self._check(self.location.saved, self.checkpoint)
            elif (given := self.config[self.subcommand].policy_from) is not None:
                policy, remarks = policy_at(given)
                self._remarks.extend(remarks)
                checkpoint_files.take_policy(policy, self.model, parts=self.model.policy_parts)
            if self.policy is not None:
                self.datamodule.load_state_dict(trained_for(self.policy))
        self.location = replace(self.location, saved=None)  # as large as the run; Lightning reads the file itself

    def _check(self, saved: dict[str, Any], checkpoint: Path) -> None:
        """Refuses a checkpoint that does not fit, and finds out whether its run is complete."""
        checkpoint_files.check_fits(saved, checkpoint, module=self.model, method=self.method, game=self.game)
        learns = self.subcommand == "fit"
        if learns:
            self.model.check_continuation(saved, checkpoint)
        callbacks = [*callbacks_of(self.trainer), *self.model.configure_callbacks()]
        owners: dict[str, Any] = {"module": self.model, "trainer": self.trainer, "callbacks": callbacks}
        checkpoint_files.check_progress(saved, checkpoint, **owners, learns=learns)
        games = saved.get(type(self.datamodule).__qualname__)
        if self.subcommand != "fit":
            if games is not None:
                read_games(games)
            return
        if games is None:
            raise UsageError(f"ckpt_path: {checkpoint} holds no games to continue; a last.ckpt does")
        check_boundary(saved, checkpoint)
        done, most = saved["epoch"] + 1, self.trainer.max_epochs
        if most is not None and 0 <= most < done:
            raise UsageError(f"trainer.max_epochs must be at least {done}, which {checkpoint} has done, found {most}")
        self.datamodule.trainer = self.trainer  # for the number of ranks
        self.datamodule.continues_in = checkpoint.parent
        self.datamodule.check_state(games)
        self.complete = games["env_steps"] >= self.datamodule.total_env_steps

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with this package's callbacks, checkpoint files and metrics.csv."""
        config = self.config_init[self.subcommand].trainer
        callbacks = [*_as_list(config["callbacks"]), *self._callbacks()]
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(EnvStepsProgress())
        plugins = _as_list(config["plugins"])
        loggers = _as_list(config["logger"])
        check_one_writer(self.run_dir, loggers=loggers, callbacks=callbacks)
        for logger in loggers:
            if isinstance(logger, WandbLogger):  # Lightning starts its run before it calls any callback
                drop_obsolete_settings(logger)
                outlive(logger)
        if self.subcommand == "fit" and not config["fast_dev_run"]:
            loggers = [*loggers, MetricsCSV(self.run_dir / "metrics.csv")]
        if config["max_time"] is not None:
            callbacks.append(TimeLimit(config["max_time"]))
        self._checkpoint_io = checkpoint_files.AtomicCheckpointIO()
        try:
            trainer: Trainer = super().instantiate_trainer(
                callbacks=callbacks,
                logger=loggers or False,
                plugins=[*plugins, *cluster_environment(plugins), self._checkpoint_io],
                default_root_dir=str(self.run_dir),
                max_time=None,
                **kwargs,
            )
        except RuntimeError as error:
            if "stateful callback" not in str(error):
                raise
            raise UsageError(f"trainer.callbacks: {error}") from error
        return trainer

    def _callbacks(self) -> list[Callback]:
        metadata = {"method": self.method, "game": self.game, "run_id": self.location.run_id, "version": __version__}
        metadata["precision"] = full_name(self.saved_config.trainer.precision)
        named: dict[str, Any] = {
            "method": self.method,
            "checkpoint": lambda: self._trained,
            "run_id": self.location.trained_by,
        }
        return [
            SameStart(self._start),
            RunFolder(self.run_dir, config=self.saved_config, parser=self.subcommand_parser),
            self.stopper,
            ValidationPace(decides=self._paced),
            RunCheckpoint(self.run_dir, metadata),
            AutoencoderPictures(self.run_dir, title=f"{self.method} on {self.game}"),
            WorldModelReport(self.run_dir, title=f"{self.method} on {self.game}"),
            RecordMedia(self.run_dir, title=f"{self.method} on {self.game}"),
            EvaluationReport(self.run_dir, **named, games=self.played_games),
        ]

    def resolved(self) -> dict[str, Any]:
        """All options, as config.yaml has them."""
        config: dict[str, Any] = yaml.safe_load(self.subcommand_parser.dump(self.saved_config, skip_none=False))
        return config

    def played_games(self) -> tuple[str, dict[str, Any]]:
        """The data module's class and the options that decide its games; the levels are those of the run."""
        games, path = type(self.datamodule), class_paths(type(self.datamodule))[0]
        options = {key: value for key, value in self.resolved()["data"]["init_args"].items() if key not in _NO_GAMES}
        options |= {key: getattr(self.datamodule, key) for key in games.decisive}
        names = self.datamodule.game_names
        return path, options if len(names) == 1 else options | {"game": list(names)}

    @property
    def _start(self) -> str:
        """What this process starts from, to be compared over ranks."""
        saved = self.location.saved
        if saved is None:
            return "new weights"
        return f"{self.checkpoint} of epoch {saved.get('epoch')}, step {saved.get('global_step')}"

    def run(self) -> None:
        """Trains, validates, tests or predicts; not done at once, to tell wrong input from failures in training."""
        for remark in self._remarks if self.trainer.is_global_zero else ():
            say(remark)
        if self.complete and self.checkpoint is not None:
            steps = self.datamodule.total_env_steps
            say(f"{self.checkpoint} has reached data.total_env_steps {steps}: nothing to do; give more to continue")
        elif self.saves and self.trainer.is_global_zero:
            self._train_alone()
        else:
            self._run()
        if not self.saves:
            return
        if tests := self.config[self.subcommand].test_at_end:
            run_end.test(self.trainer, self.model, self.datamodule, checkpoint=self._trained)
        if self.trainer.is_global_zero and not self.complete and self.stopper.received is None:
            run_end.print_files(self.run_dir, tested=tests)
            run_end.tell_what_ended_it(self.trainer, run_dir=self.run_dir, max_time=self.saved_config.trainer.max_time)

    @property
    def _trained(self) -> Path | None:
        """What a `test` judges: the given checkpoint; at the end of `fit` the run's last, which may be that."""
        if self.subcommand != "fit" or self.complete:
            return self.checkpoint
        return self.run_dir / checkpoint_files.LAST

    @property
    def saves(self) -> bool:
        """Whether the command leaves checkpoints."""
        return self.subcommand == "fit" and not is_fast_dev_run(self.trainer)

    def _train_alone(self) -> None:
        """Trains, unless another process trains in the same folder.

        Raises:
            BusyError: another process does.
            UnsavedError: the last checkpoint could not be written.
        """
        with self.location.held_alone():
            self._run()
        if checkpoint_files.LAST in self._checkpoint_io.unsaved:
            last = self.run_dir / checkpoint_files.LAST
            raise UnsavedError(f"{last} is older than the end of the run, which could not be saved")

    def _run(self) -> None:
        with self.location.announced():
            self.run_subcommand()

    @property
    def stopped_status(self) -> int:
        """143 after a signal, else 0. Ranks that Lightning has started always give 0, or it would kill the others."""
        if self.stopper.received is None:
            return 0
        environment = getattr(self.trainer.strategy, "cluster_environment", None)
        return 0 if isinstance(environment, LightningEnvironment) and self.trainer.local_rank else STOPPED


def _as_list(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [value]
