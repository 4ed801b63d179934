"""The allocator settings of an ingest, in a process of their own: they cannot be taken back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_the_c_library_takes_the_settings() -> None:
    code = "from hltfarm.service.ingest.memory import keep_payload_memory; assert keep_payload_memory()"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)
