"""What a run reports of itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells only with what came before")
def test_peak_memory_is_this_process_own() -> None:
    ballast = np.ones(600 * MIB, np.uint8)
    code = "from flashportrait.result import peak_resident_bytes; print(peak_resident_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 20 * MIB < peak < ballast.nbytes
