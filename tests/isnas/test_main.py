"""The process of the command: interrupted while it imports, and left alone by the one that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHED = """
import os, signal, sys, time
import isnas.runtime.parent as parent
parent.EVERY, parent.GRACE = 0.05, 0.5
parent.stop_with_parent()
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(60)
"""
LAUNCHER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # whoever takes over orphans here may leave them unwaited for
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(process: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(process):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("kind", ["hearing", "deaf"])
def test_a_process_of_torchrun_ends_with_it(kind: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, LAUNCHED, kind],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TORCHELASTIC_RUN_ID": "x"},
    ) as launcher:
        process = int(launcher.stdout.readline())
        time.sleep(0.2)
        assert alive(process)
        launcher.kill()
        assert gone(process, 20)


def test_a_process_of_somebody_else_goes_on() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TORCHELASTIC_RUN_ID"}
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, LAUNCHED, "hearing"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as launcher:
        process = int(launcher.stdout.readline())
        launcher.kill()
        assert not gone(process, 1)
        os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_an_interruption_while_torch_is_imported_is_one_line() -> None:
    # whoever runs this may ignore the signal, which would be inherited
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; runpy.run_module('isnas', run_name='__main__')"
    command = [sys.executable, "-X", "importtime", "-c", code, "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for line in process.stderr:
            if b" torch." in line:  # the first module inside the package
                process.send_signal(signal.SIGINT)
                break
        shown = process.stderr.read().decode()
        assert process.wait() == 130
        assert process.stdout.read() == b""
    said = [line for line in shown.splitlines() if not line.startswith("import time:")]
    assert said == ["stopped"]


@pytest.mark.slow
def test_processes_of_a_killed_torchrun_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "isnas", "train", "--out", str(run), "--quiet"]
    command += ["--channels", "2", "--cells", "3", "--batch-size", "256", "--epochs", "200"]
    with subprocess.Popen(
        [*command, "--device", "cpu", "--search-epochs", "200"],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as launcher:
        end = time.monotonic() + 300
        while not list(run.glob("checkpoints/*.pt")) and time.monotonic() < end:
            time.sleep(0.05)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert len(children) >= 2
        launcher.kill()
        assert all(gone(int(child), 60) for child in children)


def test_public_names_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, isnas; assert 'torch' not in sys.modules; "
        "from isnas import *; assert Genotype is isnas.Genotype; "
        "assert {'Genotype', 'train', 'draw_cells'} <= set(isnas.__all__) & set(dir(isnas)); "
        "assert not hasattr(isnas, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
