"""The tutorials and the tour of the README, word for word: every block of commands of a page runs in one shell, in an empty folder with the
files beside the page.

The only liberties: the ports are free ones, generated collisions are kept for the next page, and samples are small.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hltfarm.loadgen.simulation import generator
from hltfarm.proto.errors import ConfigError
from hltfarm.service.farm_process import free_ports

try:
    generator.generator_version()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

PAGES = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
BLOCK = re.compile(r"^(<!-- needs libzmq -->\n)?```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
MOST = {"--events": 20, "--pileup": 8, "--duration": 12}
SHIM = """#!/bin/bash
case "$1" in
  simulate) exec {command} "$@" --cache {cache} ;;
  serve) exec {command} "$@" --backend cpu --threads 1 --http 127.0.0.1:{http} --ingest tcp://127.0.0.1:{ingest} ;;
  *) exec {command} "$@" ;;
esac
"""
PYTHON = f"{sys.executable} -P"
COMMAND = f"{PYTHON} -c 'from hltfarm.service.cli import main; main()'"


@pytest.fixture(scope="module")
def collisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated collisions, which take most of the time: kept for all pages, also those that other processes of the test run work on."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "collisions"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the names of local sockets have a limit of 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tut-") as name:
        yield Path(name)


def has_c() -> bool:
    """Whether a C program with libzmq can be built here."""
    compiler = shutil.which("cc")
    if compiler is None:
        return False
    return subprocess.run([compiler, "-E", "-x", "c", "-"], input="#include <zmq.h>\n", text=True, capture_output=True).returncode == 0


def text_of(name: str) -> str:
    """A page; of the README its tour, behind the build."""
    if name != "README.md":
        return (PAGES / name).read_text()
    readme = (PAGES.parents[1] / name).read_text()
    begin = readme.index("Now a farm that stays")
    return readme[begin : readme.index("\n## ", begin)]


def script(page: str, http: int, ingest: int) -> str:
    """The commands of a page, one after the other."""
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    c = has_c()
    for needs_c, block in BLOCK.findall(page):
        if not needs_c or c:
            lines.append(block)
    text = "\n".join(lines)
    for option, most in MOST.items():
        text = re.sub(rf"{option} (\d+)", lambda m, option=option, most=most: f"{option} {min(int(m[1]), most)}", text)
    # Minimum bias is what pileup is made of in any case.
    text = text.replace("sleep 8", "sleep 3").replace("--process ttbar", "--process minbias")
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{http}").replace("127.0.0.1:7400", f"127.0.0.1:{ingest}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["README.md", *sorted(path.name for path in PAGES.glob("*.md"))])
def test_page_runs_as_written(name: str, folder: Path, collisions: Path) -> None:
    page = text_of(name)
    work, binaries = folder / "work", folder / "bin"
    work.mkdir()
    binaries.mkdir()
    for path in PAGES.iterdir():
        if path.suffix in (".py", ".yaml", ".c"):
            shutil.copy(path, work)
    for target, text in FILE.findall(page):
        (work / target).write_text(text)
    http, ingest = free_ports(2)
    (binaries / "hltfarm").write_text(SHIM.format(command=COMMAND, cache=collisions, http=http, ingest=ingest))
    (binaries / "python").write_text(f'#!/bin/bash\nexec {PYTHON} "$@"\n')
    for path in binaries.iterdir():
        path.chmod(0o755)
    shutil.copy(binaries / "python", binaries / "python3")
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
        "HLTFARM_URL": f"http://127.0.0.1:{http}",
        "NO_PROXY": "127.0.0.1",
    }
    shell = subprocess.Popen(
        ["bash", "-c", script(page, http, ingest)], cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = shell.communicate(timeout=880)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        said, _ = shell.communicate()
        pytest.fail(f"{name} did not end:\n{said[-4000:]}")
    assert shell.returncode == 0, said[-6000:]


@pytest.mark.skipif(not has_c(), reason="no C compiler with the headers of libzmq (Debian: libzmq3-dev)")
def test_the_c_source_makes_the_frames_of_the_test_vectors(tmp_path: Path) -> None:
    program = tmp_path / "client"
    build = ["cc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(PAGES / "client.c"), "-lzmq"]
    subprocess.run(build, check=True, capture_output=True, text=True)
    said = subprocess.run([str(program), "--vectors"], check=True, capture_output=True, text=True).stdout
    made = dict(line.split() for line in said.splitlines())
    page = (PAGES.parent / "wire-format.md").read_text()
    for name in ("hello", "event"):
        vector = re.search(rf"\*\*{name}\*\*\n\n {{4}}fields.*\n {{4}}header {{2}}([0-9a-f\s]+?)\n {{4}}body", page)
        assert vector is not None
        assert made[name] == "".join(vector[1].split())
