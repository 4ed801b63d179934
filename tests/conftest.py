"""Fixtures that every suite may use: samples, the GPU gate, and the watch for leaked processes, threads and shared memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leaks import Footprint

ROOT = Path(__file__).resolve().parent.parent
PIXEL_SAMPLE_VARIABLE = "HLTFARM_PIXEL_SAMPLE"
#: Suites whose tests start processes, threads or shared memory, and must not leave any behind.
WATCHED = ("integration", "e2e")


def pytest_configure() -> None:
    """A suite started in the background of a script inherits an ignored SIGINT; its children must be interruptible all the same."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no device."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    reason = why_no_gpu() if gpu_items else None
    if reason is not None:
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason=reason))


def why_no_gpu() -> str | None:
    """Why the GPU tests cannot run here; None if they can."""
    try:
        import cupy
    except ImportError:
        return "no GPU: cupy is not installed"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no GPU: {error}"
    return None if count else "no GPU: no CUDA device"


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def pixel_sample() -> Path:
    """Directory with a pixeltrack-standalone data set and its reference results; the test is skipped where there is none."""
    directory = Path(os.environ.get(PIXEL_SAMPLE_VARIABLE, ROOT.parent / "shared" / "data" / "pixel-sample"))
    if not (directory / "raw.bin").is_file():
        pytest.skip(f"no pixel sample at {directory} (set {PIXEL_SAMPLE_VARIABLE} to a directory with raw.bin)")
    return directory


@pytest.fixture(scope="session")
def demo_sample() -> Path:
    """The small sample that is part of the distribution."""
    path = ROOT / "loadgen" / "data" / "demo.hlt"
    if not path.is_file():
        pytest.skip(f"no demo sample at {path}")
    return path


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an integration or end-to-end test that leaves a process, a thread or a shared-memory segment behind."""
    if not any(part in WATCHED for part in request.path.relative_to(ROOT).parts):
        yield
        return
    before = Footprint.now()
    yield
    left = before.left_behind(deadline_s=5.0)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)
