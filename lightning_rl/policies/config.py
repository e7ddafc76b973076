"""What the `config.json` of an exported policy says: how to build it, what it plays, and how it is judged."""

from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from lightning_rl.errors import check_option
from lightning_rl.networks.actor_critic import NETWORKS
from lightning_rl.networks.impala_cnn import CNNShape, Pooling
from lightning_rl.networks.vae import Images
from lightning_rl.state import from_plain, to_plain

FORMAT_VERSION = 1
RECURRENT = "recurrent"
"""Name of the network that is an IMPALA CNN with an LSTM; the others are those of `NETWORKS`."""
DType = Literal["float32", "bfloat16"]

_MAX_SIZE = 100_000
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


def _check_size(key: str, value: int, least: int = 1) -> None:
    check_option(key, value, least <= value <= _MAX_SIZE, f"from {least} to {_MAX_SIZE}")


def _check_choice(key: str, value: object, allowed: tuple[object, ...]) -> None:
    check_option(key, value, value in allowed, f"one of {', '.join(map(str, allowed))}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The acting network: a name of a fixed table, and sizes.

    Args:
        name: `three_stack`, `two_stack`, `two_conv` or `recurrent`.
        num_critics: values for each frame.
        width: factor on the channels of an IMPALA CNN.
        pooling: `flatten` or `average`.
        pooling_size: with `average`, rows and columns of parts that are averaged separately.
        channels: channels of each stack of `three_stack`; None for the published ones.
        hidden: outputs of its dense layer; likewise.
        latent_size: length of the autoencoder's latent that the network sees beside the frame; 0 for none.
        images: what the autoencoder encodes, `binary` or `rgb`.

    Raises:
        ValueError: a value outside its range.
    """

    name: str
    num_critics: int = 1
    width: int = 1
    pooling: str = "flatten"
    pooling_size: int = 1
    channels: list[int] | None = None
    hidden: int | None = None
    latent_size: int = 0
    images: str = "binary"

    def __post_init__(self) -> None:
        _check_choice("name", self.name, (*NETWORKS, RECURRENT))
        for key in ("num_critics", "width", "pooling_size"):
            _check_size(key, getattr(self, key))
        _check_size("latent_size", self.latent_size, least=0)
        for size in (*(self.channels or ()), *([] if self.hidden is None else [self.hidden])):
            _check_size("channels and hidden", size)
        check_option("num_critics", self.num_critics, self.num_critics <= 100, "at most 100")
        _check_choice("pooling", self.pooling, get_args(Pooling))
        _check_choice("images", self.images, get_args(Images))

    @property
    def shape(self) -> CNNShape:
        """Sizes and pooling of the IMPALA CNN."""
        return CNNShape(
            width=self.width,
            pooling=cast(Pooling, self.pooling),
            pooling_size=self.pooling_size,
            channels=None if self.channels is None else tuple(self.channels),
            hidden=self.hidden,
        )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What the policy expects to be given; scaling of the pixels is a part of the network.

    Args:
        frame_stack: frames in one observation, the newest last.
        previous_rewards: what a recurrent policy heard: `raw`, the game's rewards, or `clipped` to [−1, 1].

    Raises:
        ValueError: a value outside its range.
    """

    frame_stack: int = 1
    previous_rewards: str = "raw"

    def __post_init__(self) -> None:
        _check_size("frame_stack", self.frame_stack)
        _check_choice("previous_rewards", self.previous_rewards, ("raw", "clipped"))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The games: the data module's class and its options.

    Args:
        class_path: name of a data module of this package.
        init_args: its options by name.

    Raises:
        ValueError: an option that is more than a number, a text or a list of texts.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.init_args.items():
            values = value if isinstance(value, list) else [value]
            plain = all(item is None or isinstance(item, bool | int | float | str) for item in values)
            check_option(f"init_args.{name}", type(value).__name__, plain, "a number, a text or a list of these")


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How `validate`, `test` and `predict` judge the policy where no option says otherwise: as its checkpoint.

    Args:
        seed_everything: seed of games and actions.
        greedy: take the most likely actions.
        precision: Lightning's `trainer.precision`.
        accelerator: Lightning's `trainer.accelerator`.
        num_threads: threads of operators; None for torch's default.

    Raises:
        ValueError: a value outside its range.
    """

    seed_everything: int = 1
    greedy: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    num_threads: int | None = None

    def __post_init__(self) -> None:
        check_option("seed_everything", self.seed_everything, self.seed_everything < 2**32, f"at most {2**32 - 1}")
        _check_choice("precision", self.precision, _PRECISIONS)
        _check_choice("accelerator", self.accelerator, _ACCELERATORS)
        if self.num_threads is not None:
            check_option("num_threads", self.num_threads, 1 <= self.num_threads <= 1024, "from 1 to 1024")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Everything that `config.json` says.

    Args:
        format_version: of the folder's layout.
        lightning_rl_version: of the package that wrote it.
        method: the method that trained the policy.
        game: the game, or several.
        distribution_mode: its difficulty, where it has several.
        env_steps: steps that the policy was trained for.
        network: the acting network.
        recurrent: whether the policy carries a state.
        obs_shape: height, width and channels of an observation.
        num_actions: A.
        action_meanings: a name for each action.
        dtype: how the weights are stored; they are computed with in float32.
        preprocessing: what the policy expects to be given.
        data: the games.
        judging: how it is judged.
        files: SHA-256 of files of the folder by name.
        autoencoder: options of the autoencoder, where the folder holds it.
        world_model: options of the world model, where the folder holds it.

    Raises:
        ValueError: a value outside its range; the message begins with its name.
    """

    format_version: int
    lightning_rl_version: str
    method: str
    game: str | list[str]
    distribution_mode: str | None = None
    env_steps: int = 0
    network: NetworkConfig
    recurrent: bool
    obs_shape: tuple[int, int, int]
    num_actions: int
    action_meanings: list[str]
    dtype: str = "float32"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    data: DataConfig
    judging: Judging = field(default_factory=Judging)
    files: dict[str, str] = field(default_factory=dict)
    autoencoder: dict[str, Any] | None = None
    world_model: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        readable = self.format_version == FORMAT_VERSION
        check_option("format_version", self.format_version, readable, f"{FORMAT_VERSION} for this version to read it")
        for size in self.obs_shape:
            check_option("obs_shape", list(self.obs_shape), 1 <= size <= 4096, "of sizes from 1 to 4096")
        _check_size("num_actions", self.num_actions)
        named = len(self.action_meanings)
        check_option("action_meanings", f"{named} names", named == self.num_actions, f"{self.num_actions} names")
        _check_choice("dtype", self.dtype, get_args(DType))
        expected = self.network.name == RECURRENT
        check_option("recurrent", self.recurrent, self.recurrent == expected, f"{expected} for {self.network.name}")
        sees_latent = self.network.latent_size > 0
        check_option("network.latent_size", self.network.latent_size, self.recurrent or not sees_latent, "0")

    @classmethod
    def from_json(cls, value: Any) -> "PolicyConfig":
        """The config that a parsed `config.json` holds; keys that are not known are ignored.

        Raises:
            ValueError: something is not as declared; names its key, what it must be, and what was found.
        """
        if isinstance(value, dict) and value.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            found = value["format_version"]  # said first: other keys may differ, too
            raise ValueError(f"config.json.format_version must be {FORMAT_VERSION}, found {found!r:.80}")
        return from_plain(cls, value, "config.json")

    def to_json(self) -> dict[str, Any]:
        """The config as dicts, lists, strings and numbers."""
        return to_plain(self)

    @property
    def games(self) -> str:
        """The games as one word."""
        return self.game if isinstance(self.game, str) else "+".join(self.game)
