"""The commands and the code of the documentation's pages run as they stand there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from pictures import make_folder, photograph

from isnas.cli import main

DOCS = Path(__file__).parents[2] / "docs"
SHORT = {"train": "--channels 2 --cells 3 --batch-size 8 --search-epochs 1 --epochs 1 --device cpu"}
"""Options that make the commands of the pages quick."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the code of a page: language and text of each block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    make_folder(tmp_path / "photos", each=8, size=(32, 32))
    photograph(1, (40, 50)).save("new.jpg")
    photograph(2, (40, 50)).save("photos/train/cat/0.jpg")
    known = set(sys.modules)
    languages = []
    for language, text in blocks("use.md"):
        languages.append(language)
        if language == "python":
            exec(compile(text, "use.md", "exec"), {"__name__": "use"})
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line, comments=True)
            if program == "isnas":
                assert main([*words, *shlex.split(SHORT.get(words[0], ""))]) == 0, line
    assert languages.count("python") == 3 and languages.count("sh") == 4
    assert "photos_safetensors" in set(sys.modules) - known
    del sys.modules["photos_safetensors"]
    found = {path.name for path in tmp_path.iterdir()}
    assert {"found.csv", "photos.onnx", "photos_onnx.py", "photos.torchscript.pt"} <= found
