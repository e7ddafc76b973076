"""The parser of `fit`, `validate`, `test` and `predict`: this program's words where Lightning's name other things."""

from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from lightning_rl.errors import UsageError

_OPTIONS = {
    "ckpt_path": "A checkpoint or its run folder, or `last`: continue the run in --run_dir, or start it where there is"
    " none. Evaluation takes an exported policy, too.",
    "weights_only": "A checkpoint that holds more than plain data is refused, whatever is given.",
}
_COMMANDS = {
    "fit": "Trains, or goes on from a checkpoint, and writes a run folder.",
    "validate": "Plays a few episodes, and prints the mean returns.",
    "test": "Plays many episodes, prints the papers' table and writes test.json.",
    "predict": "Plays a few episodes, or one of test's again, and writes a video.",
}


class Parser(LightningArgumentParser):
    """Reports what is wrong as a `UsageError`."""

    def add_method_arguments(self, *args: Any, **options: Any) -> list[str]:
        """The options of a method of the Trainer, two of them in other words than Lightning's."""
        added: list[str] = super().add_method_arguments(*args, **options)
        for action in self._actions:
            action.help = _OPTIONS.get(action.dest, action.help)
        return added

    def add_subcommands(self, *args: Any, **options: Any) -> Any:
        """What the commands are added to, by Lightning, which describes methods of its Trainer."""
        commands = super().add_subcommands(*args, **options)
        add = commands.add_subcommand

        def described(name: str, parser: LightningArgumentParser, **given: Any) -> Any:
            parser.description = _COMMANDS[name]
            return add(name, parser, **given | {"help": _COMMANDS[name]})

        commands.add_subcommand = described  # type: ignore[assignment, method-assign]  # this one's
        return commands

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Says it in one line.

        Raises:
            UsageError: always.
        """
        raise UsageError(message) from ex
