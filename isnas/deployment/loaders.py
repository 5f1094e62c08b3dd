"""Python files that are written beside exported networks: they load and use them without isnas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..tasks.images import Preparation

MARK = "Written by isnas"
"""Such a file begins with this: one that does not is somebody's own."""


@dataclass(frozen=True)
class Facts:
    """The facts that a loader needs.

    Parameters
    ----------
    file : str
        Name of the exported file, which lies beside the loader.
    version : str
        Version of isnas.
    classes : tuple of str
    preparation : Preparation
    batch_size : int or None
        None: any.
    normalised_inside : bool
        Whether the network takes pixels, uint8, and normalises them itself.
    """

    file: str
    version: str
    classes: tuple[str, ...]
    preparation: Preparation
    batch_size: int | None
    normalised_inside: bool


def loader(facts: Facts, packages: Sequence[str], load: str) -> str:
    """Return the text of a loader.

    Parameters
    ----------
    facts : Facts
    packages : sequence of str
        Names of the packages that it needs beside NumPy and Pillow, as they are installed.
    load : str
        Source of ``scores(images)``, (B, C, H, W) -> (B, classes), both arrays; with its imports above.
    """
    imports, load = _split(load)
    imports += ["import numpy as np", "from PIL import Image, ImageOps"]
    imports.sort(key=lambda line: (line.startswith("from"), line))
    name = ascii(facts.file)[1:-1].replace('"', "'")
    return "\n".join(
        [
            f'"""{MARK} {facts.version} beside {name}: loads and uses it without isnas.',
            "",
            f"Needs {', '.join(['numpy', 'pillow', *packages])}. As a command: python THIS_FILE IMAGES...",
            '"""',
            "",
            *(() if facts.preparation.crop == "pad" else ["import math"]),
            "import sys",
            "from pathlib import Path",
            "",
            *imports,
            "",
            f"FILE = Path(__file__).with_name({facts.file!a})",
            f"CLASSES = {_listed(facts.classes)}",
            f"SIZE = {facts.preparation.size}  # pixels of each side of a prepared image",
            *(
                ()
                if facts.batch_size is None
                else [f"BATCH = {facts.batch_size}  # images at a time"]
            ),
            *_normalisation(facts),
            "",
            "",
            *_prepare(facts),
            "",
            "",
            load.strip("\n"),
            "",
            "",
            *_predict(facts),
            "",
            "",
            'if __name__ == "__main__":',
            "    for path in sys.argv[1:]:",
            "        name, probability = predict(path)[0]",
            '        print(f"{path}: {name} {100 * probability:.2f} %")',
            "",
        ]
    )


def _split(source: str) -> tuple[list[str], str]:
    """Return the import lines at the beginning of a source, and the rest."""
    lines = source.strip("\n").splitlines()
    number = next(i for i, line in enumerate(lines) if not line.startswith(("import", "from")))
    return lines[:number], "\n".join(lines[number:])


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 10:
        return ascii(list(names))
    return "\n".join(["[", *(f"    {name!a}," for name in names), "]"])


def _normalisation(facts: Facts) -> list[str]:
    if facts.normalised_inside:
        return []
    return [
        f"{name} = np.array({list(values)}, dtype=np.float32)[:, None, None]"
        for name, values in (("MEAN", facts.preparation.mean), ("STD", facts.preparation.std))
    ]


def _prepare(facts: Facts) -> list[str]:
    grey, whole = facts.preparation.colour == "grey", facts.preparation.crop == "pad"
    end = (
        "return pixels[None]"
        if facts.normalised_inside
        else "return ((pixels.astype(np.float32) / np.float32(255) - MEAN) / STD)[None]"
    )
    kind = "uint8" if facts.normalised_inside else "float32"
    return [
        "def prepare(path):",
        f'    """Return an image file as the network takes it: (1, {1 if grey else 3}, SIZE, SIZE), {kind}."""',
        "    with Image.open(path) as opened:",
        *(() if whole else _BOX),
        "        image = ImageOps.exif_transpose(opened)  # upright",
        '    if image.mode.startswith("I"):  # 16 bits',
        "        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))",
        "    if image.has_transparency_data:  # on white",
        '        white = Image.new("RGBA", image.size, "white")',
        '        image = Image.alpha_composite(white, image.convert("RGBA"))',
        f'    image = image.convert("{"L" if grey else "RGB"}")',
        *(_WHOLE if whole else _CENTRE),
        "    pixels = np.asarray(image)[None]"
        if grey
        else "    pixels = np.asarray(image).transpose(2, 0, 1)",
        f"    {end}",
    ]


_WHOLE = [
    "    if image.size != (SIZE, SIZE):",
    "        side = min(image.size)",
    "        left, top = (image.width - side) // 2, (image.height - side) // 2",
    "        box = (left, top, left + side, top + side)",
    "        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)",
]

_BOX = [
    '        if opened.format not in ("JPEG", "MPO"):',
    "            opened.load()  # other formats say behind the pixels how they are turned",
    "        width, height = opened.size",
    "        if opened.getexif().get(0x0112) in (5, 6, 7, 8):  # it lies on its side",
    "            width, height = height, width",
    "        # the shorter side becomes 8/7 SIZE, and of that the centre is taken",
    "        shorter, resized = min(width, height), round(SIZE * 8 / 7)",
    "        new = [int(resized * side / shorter) for side in (width, height)]",
    "        left, top = (round((side - SIZE) / 2) for side in new)",
    "        x, y = width / new[0], height / new[1]",
    "        box = (left * x, top * y, (left + SIZE) * x, (top + SIZE) * y)",
    "        shrink = min(box[2] - box[0], box[3] - box[1]) / (2 * SIZE)",
    "        if shrink >= 2:  # the decoder of JPEG halves what is large, as in training",
    "            draft = math.ceil(opened.width / shrink), math.ceil(opened.height / shrink)",
    "            opened.draft(None, draft)",
]

_CENTRE = [
    "    x, y = image.width / width, image.height / height",
    "    box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)",
    "    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)",
]


def _predict(facts: Facts) -> list[str]:
    images = "prepare(path)"
    if facts.batch_size not in (None, 1):
        images = "np.repeat(prepare(path), BATCH, axis=0)"
    return [
        "def predict(path):",
        '    """Return (class, probability) of an image file, the most probable class first."""',
        f"    logits = scores({images})[0].astype(np.float64)",
        "    probabilities = np.exp(logits - logits.max())",
        "    probabilities /= probabilities.sum()",
        '    order = np.argsort(-probabilities, kind="stable")',
        "    return [(CLASSES[i], float(probabilities[i])) for i in order]",
    ]


ONNX = '''
import onnxruntime

session = onnxruntime.InferenceSession(FILE.read_bytes(), providers=["CPUExecutionProvider"])


def scores(images):
    """(B, C, SIZE, SIZE) -> (B, classes), before the softmax."""
    return session.run(None, {"images": images})[0]
'''

TORCH_EXPORT = '''
import torch

with FILE.open("rb") as file:
    network = torch.export.load(file).module()


def scores(images):
    """(B, C, SIZE, SIZE) -> (B, classes), before the softmax."""
    with torch.no_grad():
        return network(torch.tensor(images)).numpy()
'''

SAFETENSORS = '''
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

{network}

def load():
    """Return the trained network, in evaluation mode."""
    state = {{}}
    for key, value in load_file(FILE).items():  # the names of isnas, such as cells.0.inputs.1.2.weight
        layer, _, name = key.rpartition(".")
        state[f"{{layer.replace('.', '_')}}.{{name}}"] = value
    network = Network()
    network.load_state_dict(state)
    return network.eval()


network = load()


def scores(images):
    """(B, C, SIZE, SIZE) -> (B, classes), before the softmax."""
    with torch.no_grad():
        return network(torch.tensor(images)).numpy()
'''
