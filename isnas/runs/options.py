"""Options of the commands: plain dataclasses, the same names in Python, on the command line and in a run's record.

The defaults are the preset `quick`, which finishes in minutes on two cores; the preset `paper` has the published
constants. The texts of the docstrings are the command's help.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..runtime.errors import UserError
from ..codes.sparse import SparseCodeOptions

Options = TypeVar("Options", bound="BaseOptions")


@dataclass(frozen=True)
class BaseOptions:
    """What all options share: presets, ranges that are checked, plain data for a record."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    least: ClassVar[dict[str, float]] = {}
    """Least allowed values of a class's own options; those that are not here are checked where they are used."""
    most: ClassVar[dict[str, float]] = {}
    """Largest allowed values."""
    above_zero: ClassVar[tuple[str, ...]] = ()
    """Options that must be above 0."""
    below_one: ClassVar[tuple[str, ...]] = ()
    """Options that must be below 1."""

    def __post_init__(self) -> None:
        _check_ranges(self)

    @classmethod
    def preset(cls: type[Options], name: str, **changes: Any) -> Options:
        """Return the options of a preset, with these changes.

        Raises
        ------
        UserError
            When there is no such preset, or a value is out of its range.
        """
        if name not in cls.presets:
            raise UserError(f"preset must be one of {', '.join(cls.presets)}, got {name!r}")
        return cls(**{**cls.presets[name], **changes})

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls: type[Options], data: dict[str, Any]) -> Options:
        """Build the options from what `to_json` returned.

        Raises
        ------
        UserError
            When the data name an option that does not exist, or a value is out of its range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(data) - known:
            raise UserError(f"unknown options {sorted(unknown)}; known are {sorted(known)}")
        lists = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        try:
            return cls(**lists)
        except TypeError as error:
            raise UserError(f"options are not of the expected types: {error}") from None


@dataclass(frozen=True)
class RunOptions(BaseOptions):
    """What every command that trains needs.

    Parameters
    ----------
    data : str
        Images: digits, cifar10, cifar100, or a directory with train/CLASS/ and test/CLASS/ (or val/CLASS/) in it.
    data_root : str
        Where cifar10 and cifar100 are looked for and downloaded to.
    download : bool
        Whether to download cifar10 or cifar100 when it is not there.
    image_size : int or None
        Side that a directory's images are resized and cropped to; by default the median shorter side, at most 64.
    crop : {"pad", "resized"}
        How training images are cropped: padded (CIFAR), or random parts of a directory's original images, resized, and
        the centre of test images (ImageNet).
    colour_jitter : float
        Largest relative change of brightness, contrast and saturation, half of it of hue; with --crop resized only.
    corrupt : {"refuse", "skip"}
        What to do with a directory's images that cannot be decoded; skip warns of each and uses others instead.
    seed : int
        Seed of everything random.
    device : str
        auto, cpu, cuda, cuda:N or mps; auto takes an accelerator where there is one.
    threads : int
        CPU threads; 0: PyTorch's number, but 1 for images as tiny as digits, where threads only wait for each other.
    channels : int
        Channels of the first cells.
    cells : int
        Cells in the stack.
    stem : {"cifar", "imagenet"}
        What stands before the cells: one convolution, or three that reduce the resolution eight times.
    batch_size : int
        Images in a step, of all processes together.
    sync_batch_norm : bool
        Whether batch norm takes the statistics of all processes' images, where several train together (torchrun).
    precision : {"float32", "bfloat16"}
        What convolutions compute in while training; weights, batch norms' statistics, codes and tests stay float32.
        bfloat16 is for GPUs: feature maps take half the memory. On a CPU it can be slower than float32. In float32 a
        GPU's convolutions may round their factors to TF32, PyTorch's default.
    compile : bool
        Whether to compile a network once its architecture is fixed (torch.compile). That takes minutes, and makes every
        step shorter: for long training. It needs a C++ compiler on a CPU.
    epochs : int
        Epochs of the search (`search`), of what comes after the search phase (`train`), of training (`evaluate`).
    learning_rate : float
        Of the weights (SGD); it falls as the schedule says.
    min_learning_rate : float
        Where the schedule ends.
    schedule : {"cosine", "linear"}
        How the learning rate falls from epoch to epoch: along a half cosine or a line.
    warm_up_epochs : int
        Epochs at the beginning in which the learning rate rises to its schedule in equal steps; 0: none.
    label_smoothing : float
        Share of each label that is spread over all classes in the training loss.
    momentum : float
        Of SGD.
    weight_decay : float
        Of the weights.
    clip : float
        Largest norm of the weights' gradient; 0: any.
    checkpoint_steps : int
        Write a checkpoint every so many steps, besides those at the ends of epochs; 0: none.
    tensorboard : bool
        Whether to write TensorBoard events into the run directory, too.
    """

    least: ClassVar[dict[str, float]] = {
        "image_size": 4,
        "colour_jitter": 0,
        "seed": 0,
        "threads": 0,
        "channels": 2,
        "cells": 3,
        "batch_size": 2,
        "epochs": 1,
        "learning_rate": 0,
        "min_learning_rate": 0,
        "warm_up_epochs": 0,
        "label_smoothing": 0,
        "momentum": 0,
        "weight_decay": 0,
        "clip": 0,
        "checkpoint_steps": 0,
    }
    below_one: ClassVar[tuple[str, ...]] = ("colour_jitter", "label_smoothing", "momentum")

    data: str = "digits"
    data_root: str = "data"
    download: bool = False
    image_size: int | None = None
    crop: Literal["pad", "resized"] = "pad"
    colour_jitter: float = 0.0
    corrupt: Literal["refuse", "skip"] = "refuse"
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    channels: int = 8
    cells: int = 4
    stem: Literal["cifar", "imagenet"] = "cifar"
    batch_size: int = 64
    sync_batch_norm: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    epochs: int = 15
    learning_rate: float = 0.05
    min_learning_rate: float = 0.0
    schedule: Literal["cosine", "linear"] = "cosine"
    warm_up_epochs: int = 0
    label_smoothing: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    checkpoint_steps: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_learning_rate > self.learning_rate:
            raise UserError(
                f"min_learning_rate must be at most learning_rate, {self.learning_rate}, got "
                f"{self.min_learning_rate}"
            )


@dataclass(frozen=True)
class SearchOptions(SparseCodeOptions, RunOptions):
    """Options of the two-stage search; `epochs`, `channels`, ... are the search network's.

    Parameters
    ----------
    code_learning_rate : float
        Of the codes b (Adam).
    code_weight_decay : float
        Of the codes b.
    evaluation_preset : {"quick", "paper"}
        Recipe of training the found network from scratch at the end: a preset of `isnas evaluate`.
    evaluation_epochs : int
        Epochs to train the found network from scratch at the end; 0: do not.
    evaluation_channels : int or None
        Channels of the found network; by default the search network's.
    evaluation_cells : int or None
        Cells of the found network; by default the search network's.
    random_architectures : int
        Random architectures to train likewise, for comparison.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {
            "data": "cifar10",
            "channels": 16,
            "cells": 8,
            "batch_size": 256,
            "epochs": 50,
            "learning_rate": 0.1,
            "matrix": "uniform",
            "code_learning_rate": 6e-4,
            "evaluation_preset": "paper",
            "evaluation_epochs": 600,
            "evaluation_channels": 36,
            "evaluation_cells": 20,
            "random_architectures": 0,
        },
    }
    least: ClassVar[dict[str, float]] = {
        "code_learning_rate": 0,
        "code_weight_decay": 0,
        "evaluation_epochs": 0,
        "evaluation_channels": 2,
        "evaluation_cells": 3,
        "random_architectures": 0,
    }

    min_learning_rate: float = 0.001
    code_learning_rate: float = 6e-3
    code_weight_decay: float = 1e-3
    evaluation_preset: Literal["quick", "paper"] = "quick"
    evaluation_epochs: int = 10
    evaluation_channels: int | None = None
    evaluation_cells: int | None = None
    random_architectures: int = 3


@dataclass(frozen=True)
class EvaluateOptions(RunOptions):
    """Options of training a discrete network from scratch.

    Parameters
    ----------
    cutout : int or None
        Side in pixels of the square cut out of training images; by default the data set's (16 for CIFAR).
    drop_path : float
        Probability of dropping an operation at the end of training; it rises linearly from 0.
    auxiliary_weight : float
        Weight of the auxiliary head's loss; 0: no such head.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {
            "data": "cifar10",
            "channels": 36,
            "cells": 20,
            "batch_size": 96,
            "epochs": 600,
            "learning_rate": 0.025,
            "drop_path": 0.2,
            "auxiliary_weight": 0.4,
        },
        # the mobile setting; the colours' variation is DARTS's
        "imagenet": {
            "stem": "imagenet",
            "image_size": 224,
            "crop": "resized",
            "colour_jitter": 0.4,
            "cutout": 0,
            "channels": 48,
            "cells": 14,
            "batch_size": 1024,
            "epochs": 250,
            "learning_rate": 0.5,
            "schedule": "linear",
            "warm_up_epochs": 5,
            "weight_decay": 3e-5,
            "label_smoothing": 0.1,
            "auxiliary_weight": 0.4,
        },
    }
    least: ClassVar[dict[str, float]] = {"cutout": 0, "drop_path": 0, "auxiliary_weight": 0}
    below_one: ClassVar[tuple[str, ...]] = ("drop_path",)

    cutout: int | None = None
    drop_path: float = 0.0
    auxiliary_weight: float = 0.0


@dataclass(frozen=True)
class TrainOptions(SparseCodeOptions, EvaluateOptions):
    """Options of one-stage training: search inside the target network, then its normal schedule of `epochs`.

    Parameters
    ----------
    code_learning_rate : float
        Of the codes b (Adam).
    code_weight_decay : float
        Of the codes b.
    search_epochs : int
        Epochs of search at most; what is not frozen then is frozen as it is.
    freeze_threshold : float
        A node is frozen when its z moved by no more than this between two recoveries.
    freeze_floor : float
        A node is not frozen before ||z|| is this many times the threshold: it must have moved before it can settle.
    size_limit : int or None
        Refuse architectures whose discrete network has more parameters than this.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {
            **EvaluateOptions.presets["paper"],
            "matrix": "uniform",
            "code_learning_rate": 6e-4,
            "search_epochs": 200,
            "size_limit": 3_700_000,
        },
        # how long the search may take is ours: how long the published one took is not known
        "imagenet": {
            **EvaluateOptions.presets["imagenet"],
            "matrix": "uniform",
            "code_learning_rate": 6e-4,
            "search_epochs": 100,
        },
    }
    least: ClassVar[dict[str, float]] = {
        "code_learning_rate": 0,
        "code_weight_decay": 0,
        "search_epochs": 1,
        "freeze_threshold": 0,
        "freeze_floor": 0,
        "size_limit": 1,
    }

    code_learning_rate: float = 6e-3
    code_weight_decay: float = 1e-3
    search_epochs: int = 15
    freeze_threshold: float = 1e-3
    freeze_floor: float = 10.0
    size_limit: int | None = None


def _check_ranges(options: BaseOptions) -> None:
    classes = [cls for cls in type(options).__mro__ if issubclass(cls, BaseOptions)]
    least_of = {name: least for cls in classes for name, least in cls.least.items()}
    most_of = {name: most for cls in classes for name, most in cls.most.items()}
    above_zero = {name for cls in classes for name in cls.above_zero}
    below_one = {name for cls in classes for name in cls.below_one}
    for field in option_fields(type(options)):
        value = getattr(options, field.name)
        if value is None and field.optional:
            continue
        if field.several:
            fits = isinstance(value, tuple) and all(_fits(v, field.type) for v in value)
        else:
            fits = _fits(value, field.type)
        if not fits:
            raise UserError(f"{field.name} must be {_in_words(field)}, got {value!r}")
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise UserError(f"{field.name} must be finite, got {value!r}")
        least = least_of.get(field.name)
        if least is not None and value < least:
            raise UserError(f"{field.name} must be at least {least}, got {value!r}")
        most = most_of.get(field.name)
        if most is not None and value > most:
            raise UserError(f"{field.name} must be at most {most}, got {value!r}")
        if field.name in above_zero and value <= 0:
            raise UserError(f"{field.name} must be above 0, got {value!r}")
        if field.name in below_one and value >= 1:
            raise UserError(f"{field.name} must be below 1, got {value!r}")
        if field.choices and value not in field.choices:
            raise UserError(
                f"{field.name} must be one of {', '.join(field.choices)}, got {value!r}"
            )


def _fits(value: Any, kind: type) -> bool:
    if kind is tuple:
        whole = value if isinstance(value, tuple) else (value,)
        return all(type(v) is int for v in whole)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _in_words(field: OptionField) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        tuple: "a whole number or several",
    }
    return f"a tuple of {words[field.type]}" if field.several else words[field.type]


@dataclass(frozen=True)
class OptionField:
    """One option as the command line needs it.

    Parameters
    ----------
    name, default, help
    type : type
        int, float, str, bool, or tuple for one or several whole numbers.
    choices : tuple of str
        The allowed values, when they are listed.
    optional : bool
        Whether None is allowed.
    several : bool
        Whether it is a tuple of any number of such values.
    """

    name: str
    default: Any
    help: str
    type: type
    choices: tuple[str, ...]
    optional: bool
    several: bool = False


def option_fields(options: type[BaseOptions]) -> list[OptionField]:
    """Return the options of a class, described by its annotations and its docstring's parameters."""
    helps: dict[str, str] = {}
    for base in reversed(options.__mro__):
        helps |= _parameter_texts(base)
    hints = get_type_hints(options)
    found = []
    for field in dataclasses.fields(options):
        kinds = [hints[field.name]]
        if get_origin(kinds[0]) in (Union, types.UnionType):
            kinds = list(get_args(kinds[0]))
        optional = type(None) in kinds
        kinds = [kind for kind in kinds if kind is not type(None)]
        several = len(kinds) == 1 and get_origin(kinds[0]) is tuple
        if several:  # tuple[X, ...]
            kinds = [get_args(kinds[0])[0]]
        choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()
        kind = tuple if len(kinds) > 1 else str if choices else kinds[0]
        found.append(
            OptionField(
                field.name, field.default, helps[field.name], kind, choices, optional, several
            )
        )
    return found


def _parameter_texts(cls: type) -> dict[str, str]:
    """Read {name: text} off the numpydoc section Parameters."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Parameters\n-+\n(.*?)(?:\n\n|\Z)", doc, re.S | re.M)
    entries = re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", section[1] if section else "", re.M)
    return {name: " ".join(text.split()) for name, text in entries}
