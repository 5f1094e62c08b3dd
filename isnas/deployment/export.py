"""Export of trained networks to files that other programs read, each with a loader beside it that needs no isnas."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.images import ImageNetwork
from ..runs.saved import network_file
from ..runtime.errors import UserError
from ..runtime.files import write_atomically
from ..runtime.randomness import generator
from ..spaces.genotype import Genotype
from ..tasks.images import Preparation
from . import loaders
from .classifier import Classifier, load_classifier
from .plain import plain_source

TOLERANCE = 1e-4
"""Largest difference from the network's scores, as a share of the largest score, or of 1 where that is less."""

OPSET = 18
"""Version of ONNX's operators that is written, whatever the default of torch's exporter: old runtimes read it, too."""


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Parameters
    ----------
    path : Path
        The file.
    loader : Path
        A Python file beside it that loads and uses it without isnas.
    difference : float
        Largest absolute difference of its scores from the network's, on random images.
    largest : float
        Largest absolute score of the network on these.
    images : int
        Number of these.
    by : str
        Name and version of the program that has run the exported file.
    """

    path: Path
    loader: Path
    difference: float
    largest: float
    images: int
    by: str


@dataclass(frozen=True)
class _Format:
    """A format of files.

    Parameters
    ----------
    suffix : str
    needs : tuple of str
        Packages that must be there, by their names for import and installation.
    loading : tuple of str
        Those that the loader needs.
    write : callable
        Returns the file's content and the loader's source for it.
    """

    suffix: str
    needs: tuple[str, ...]
    loading: tuple[str, ...]
    write: Callable[[_Exportable], tuple[bytes, str]]


class _Exportable(nn.Module):
    """A network as it is exported: images in, scores out."""

    def __init__(
        self, classifier: Classifier, batch_size: int | None, normalised_inside: bool, facts: dict
    ) -> None:
        super().__init__()
        self.network = _usable(classifier.network)
        self.preparation = classifier.preprocess
        self.batch_size = batch_size
        self.normalised_inside = normalised_inside
        self.facts = facts
        for name in ("mean", "std"):
            values = torch.tensor(getattr(classifier, name), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None], persistent=normalised_inside)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores, (B, classes), for images (B, C, H, W).

        The images are normalised float32, or uint8 pixels where they are normalised here.
        """
        if self.normalised_inside:
            images = (images.to(torch.float32) / 255 - self.mean) / self.std
        return self.network(images)

    def images(self, number: int) -> Tensor:
        """Return random images as they come in, always the same."""
        size = (number, self.preparation.channels, *2 * (self.preparation.size,))
        drawn = generator(0, "export", number)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=drawn)
        return pixels if self.normalised_inside else self.preparation.normalised(pixels)

    def exported(self) -> torch.export.ExportedProgram:
        """Return the network as PyTorch's export sees it."""
        # an example of one image would make the size of the batch a constant
        example = self.images(2 if self.batch_size is None else self.batch_size)
        batch = {0: torch.export.Dim("batch")} if self.batch_size is None else None
        return torch.export.export(self.eval(), (example,), dynamic_shapes={"images": batch})


def export_network(
    path: str | Path,
    format: str = "onnx",
    out: str | Path | None = None,
    *,
    batch_size: int | None = None,
    with_normalization: bool = False,
) -> Exported:
    """Export a trained network of images, and check what was exported against the network before anything is written.

    The file takes ``images``, (B, C, H, W), and gives ``logits``, (B, classes): scores before the softmax. It holds the
    names of the classes and how images are prepared. Beside it a Python file is written that loads it, prepares images
    and uses it, and needs nothing of isnas: ``network_onnx.py`` beside ``network.onnx``.

    Parameters
    ----------
    path : path
        See `isnas.load_classifier`.
    format : {"onnx", "torch-export", "safetensors"}
        ONNX; PyTorch's own file of ``torch.export`` (.pt2), which needs no class of Python; or the weights by their
        names, with a self-contained module of plain PyTorch in the Python file beside.
    out : path, optional
        By default beside the network, with the format's suffix.
    batch_size : int, optional
        Number of images that the file takes at a time; by default any. Not for safetensors, which takes any.
    with_normalization : bool
        Whether the file takes pixels, uint8, and normalises them itself; otherwise it takes float32, normalised. Not
        for safetensors, which holds nothing but weights.

    Raises
    ------
    UserError
        When packages are missing (it says how to install them), the network cannot be loaded, or what was exported
        differs from it.
    """
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size must be at least 1, or dynamic, got {batch_size}")
    kind = FORMATS[format]
    if format == "safetensors":
        given = {"batch_size": batch_size is not None, "with_normalization": with_normalization}
        for name in (name for name, there in given.items() if there):
            raise UserError(f"{name} is for onnx and torch-export: safetensors holds weights only")
    _check_installed(format, kind.needs)
    classifier = load_classifier(path)
    file = network_file(path).with_suffix(kind.suffix) if out is None else Path(out)
    if file.is_dir():
        file = file / f"network{kind.suffix}"
    loader = file.with_name(f"{file.stem}_{file.suffix[1:] or kind.suffix[1:]}.py")
    _check_own(loader)
    exportable = _Exportable(
        classifier,
        batch_size,
        with_normalization,
        _facts(classifier.network, classifier.classes, classifier.preprocess, with_normalization),
    )
    with torch.no_grad():
        content, load = kind.write(exportable)
    facts = loaders.Facts(
        file.name,
        exportable.facts["isnas"],
        classifier.classes,
        classifier.preprocess,
        batch_size,
        with_normalization,
    )
    text = loaders.loader(facts, kind.loading, load)
    difference, largest, images = _compared(exportable, classifier, file.name, content, text)
    if not difference <= TOLERANCE * max(1.0, largest):
        raise UserError(
            f"what was exported differs from the network: by {difference:.1e} where scores go up to "
            f"{largest:.3g}; nothing was written"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None
    write_atomically(file, content)
    write_atomically(loader, text)
    by = kind.loading[0]
    version = importlib.metadata.version(by)
    return Exported(file, loader, difference, largest, images, f"{by} {version}")


def _facts(
    network: ImageNetwork, classes: tuple[str, ...], preparation: Preparation, inside: bool
) -> dict[str, str]:
    """Return what is written into the file beside the network: texts by name, JSON but for the version."""
    from .. import __version__

    prepared = {
        **asdict(preparation),
        "channels": preparation.channels,
        "input": "uint8 pixels" if inside else "float32, (pixel / 255 - mean) / std",
    }
    return {
        "isnas": __version__,
        "classes": json.dumps(classes),
        "preparation": json.dumps(prepared),
        "genotype": json.dumps(Genotype.of(network).to_json()),
    }


def _usable(network: ImageNetwork) -> ImageNetwork:
    """Return a copy of the network without what only its training needed."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    if hasattr(network, "auxiliary_head"):
        del network.auxiliary_head
    return network


def _check_installed(format: str, packages: tuple[str, ...]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{format} needs {', '.join(missing)}: pip install {' '.join(missing)} (or isnas[export])"
        )


def _check_own(loader: Path) -> None:
    """Raise a `UserError` where the loader would replace a file that is not one."""
    if loader.exists():
        try:
            begin = loader.read_bytes()[:100].decode(errors="replace")
        except OSError as error:
            raise UserError(f"{loader} cannot be read: {error.strerror}") from None
        if loaders.MARK not in begin:
            raise UserError(f"{loader} is there already and not by isnas: choose another --out")


def _compared(
    exportable: _Exportable, classifier: Classifier, name: str, content: bytes, loader: str
) -> tuple[float, float, int]:
    """Run what was exported by its loader; return the largest difference, the largest score, and how many images."""
    sizes = (1, 2, 3) if exportable.batch_size is None else (exportable.batch_size,)
    difference = largest = 0.0
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        (Path(place) / name).write_bytes(content)
        path = Path(place) / "loader.py"
        path.write_text(loader, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("isnas_exported", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for size in sizes:
            images = exportable.images(size)
            given = images
            if exportable.normalised_inside:
                given = classifier.preprocess.normalised(images)
            expected = classifier.network(given).double().numpy()
            got = module.scores(images.numpy()).astype(np.float64)
            if got.shape != expected.shape:
                return float("nan"), float(abs(expected).max()), sum(sizes)
            difference = np.maximum(difference, abs(got - expected).max())  # NaN stays
            largest = max(largest, float(abs(expected).max()))
    return float(difference), largest, sum(sizes)


def _onnx(exportable: _Exportable) -> tuple[bytes, str]:
    import onnx

    program = torch.onnx.export(
        exportable.exported(),
        input_names=["images"],
        output_names=["logits"],
        external_data=False,
        opset_version=OPSET,
        verbose=False,
    )
    model = program.model_proto
    if exportable.batch_size is None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for node in model.graph.node:
        del node.metadata_props[:]  # lines of the source, with paths of this machine
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, exportable.facts)
    onnx.checker.check_model(model)
    return model.SerializeToString(), loaders.ONNX


def _torch_export(exportable: _Exportable) -> tuple[bytes, str]:
    program = exportable.exported()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"isnas.json": json.dumps(exportable.facts)})
    return buffer.getvalue(), loaders.TORCH_EXPORT


def _safetensors(exportable: _Exportable) -> tuple[bytes, str]:
    from safetensors.torch import save

    network = exportable.network
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    size, channels = exportable.preparation.size, exportable.preparation.channels
    shapes = f"(B, {channels}, {size}, {size}), normalised -> (B, {network.options.classes})."
    load = loaders.SAFETENSORS.format(network=plain_source(network, shapes))
    return save(state, metadata=exportable.facts), load


FORMATS = {
    "onnx": _Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",), _onnx),
    "torch-export": _Format(".pt2", (), ("torch",), _torch_export),
    "safetensors": _Format(
        ".safetensors", ("safetensors",), ("torch", "safetensors"), _safetensors
    ),
}
"""The formats by name."""
