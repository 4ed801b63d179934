"""The pure parts of the web console, tested by Node.js; and what a browser's policy would refuse."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy import build_console

SOURCES = build_console.HERE / "src"


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        pytest.skip("no Node.js and npm on this machine")
    try:
        build_console.packages()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the locked packages of the console cannot be had: {error}")
    return found


def test_pure_parts(node: str, tmp_path: Path) -> None:
    subprocess.run([node, "build.mjs", "--tests", str(tmp_path)], cwd=build_console.HERE, check=True, timeout=60)
    files = sorted(str(path) for path in tmp_path.rglob("*.test.mjs"))
    assert len(files) == len(list(SOURCES.rglob("*.test.ts"))) >= 3
    done = subprocess.run([node, "--test", "--test-reporter=tap", *files], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) >= 25


def test_types(node: str) -> None:
    build_console.run("check")


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    page = (build_console.HERE / "index.html").read_text()
    assert not re.search(r"<style|style=|\bon\w+=|javascript:|<script(?![^>]*\bsrc=)", page)
    for file in [build_console.HERE / "index.html", *SOURCES.rglob("*.css"), *SOURCES.rglob("*.ts")]:
        text = file.read_text().replace("http://www.w3.org/", "")
        assert not re.search(r"https?://|url\(\s*[\"']?data:|innerHTML|insertAdjacentHTML|\beval\(", text), file


def test_a_build_is_known_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    for name in ("build.mjs", "index.html", "package-lock.json", "src/main.ts"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(build_console, "HERE", tmp_path)
    monkeypatch.setattr(build_console, "STAMP", tmp_path / "static" / "build.txt")
    assert not build_console.built()
    (tmp_path / "static").mkdir()
    build_console.STAMP.write_text(build_console.digest() + "\n")
    assert build_console.built()
    (tmp_path / "src" / "main.ts").write_text("other")
    assert not build_console.built()


def test_without_npm_the_build_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(script: str, *arguments: str) -> None:
        raise subprocess.CalledProcessError(1, ["npm", "ci"])

    monkeypatch.setattr(build_console, "STAMP", tmp_path / "build.txt")
    monkeypatch.setattr(build_console, "run", failing)
    assert build_console.build() is False
    assert "the web console is not built" in capsys.readouterr().err
