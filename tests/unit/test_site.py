"""What the documentation site adds to the texts: references out of the code, links, and the check of the pages. `make docs` builds it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hltfarm.service.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of docs/site by name."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    return import_module


def test_every_command_and_every_variable_is_in_the_reference(site: Any) -> None:
    cli = site("ref_cli")
    page = cli.cli_page()
    for command in COMMANDS:
        assert f"`hltfarm {command}`" in page
    assert "### `hltfarm ctl menu upload`" in page.replace("####", "###")
    row = next(line for line in page.splitlines() if line.startswith("| `--pileup"))
    assert "default" in row
    assert "None" not in page
    variables = cli.environment_page()
    assert "| `HLTFARM_CONTROL_HTTP` | [`control --http`](cli.md#hltfarm-control) |" in variables
    assert "env var" not in variables
    assert all(f"| `{name}` |" in variables for name in cli.in_sources())


def test_a_variable_that_nobody_described_stops_the_build(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = site("ref_cli")
    monkeypatch.delitem(cli.OTHERS, "HLTFARM_CPU")
    with pytest.raises(ValueError, match="HLTFARM_CPU"):
        cli.environment_page()


def test_every_operation_and_every_schema_is_in_the_reference(site: Any) -> None:
    http = site("ref_http")
    page, document = http.http_page(), http.document()
    for path, item in document["paths"].items():
        for method in item:
            assert f"### `{method.upper()} {path}`" in page
    places = {title.lower() for title in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= places


def test_metrics_that_the_operators_page_names_are_in_the_reference(site: Any) -> None:
    page = site("ref_metrics").metrics_page()
    told = set(re.findall(r"^\| `(hlt_\w+)` \|", page, re.MULTILINE))
    section = (ROOT / "docs" / "operating.md").read_text().partition("\n## Metrics")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(hlt_\w+)`", section)) <= told
    assert "| `hlt_frames_refused_total` | counter | `code` |" in page


def test_links_of_the_repository_become_links_of_the_site(site: Any) -> None:
    pages = site("pages")
    repository = pages.Repository(["README.md", "docs/a.md", "docs/images/p.png", "docs/decisions/0001-x.md", "proto/wire.py", ".ci/run"])
    text = "[a](docs/a.md#place) ![p](docs/images/p.png) [w](proto/wire.py) [f](proto) [d](docs/decisions) [c](.ci/run)"
    text += " [x](https://x.org/a) [n](no.md)\n"
    assert pages.with_links("index.md", text, repository) == (
        "[a](a.md#place) ![p](images/p.png) [w](source/proto/wire.py.md) [f](source/proto/index.md) [d](decisions/index.md)"
        " [c](source/_ci/run.md) [x](https://x.org/a) [n](no.md)\n"
    )
    assert pages.with_links("decisions/0001-x.md", "[r](../../README.md) [a](../a.md)", repository) == "[r](../index.md) [a](../a.md)"
    code = "```sh\n[a](docs/a.md)\n```\n"
    assert pages.with_links("index.md", code, repository) == code
    assert pages.spaced("Text:\n- one\n- two\n") == "Text:\n\n- one\n- two\n"
    assert pages.source_pages({"index.md": text}, repository).keys() == {
        "source/proto/wire.py.md",
        "source/proto/index.md",
        "source/_ci/run.md",
    }


def test_the_check_finds_what_is_broken(site: Any, tmp_path: Path) -> None:
    check = site("check")
    (tmp_path / "b.html").write_text('<p id="here">')
    (tmp_path / "ok.css").write_text("a {}")
    good = (
        '<link rel="stylesheet" href="ok.css"><a href="b.html#here">b</a><a href="https://example.org/x">x</a><a href="#top" id="top">t</a>'
    )
    (tmp_path / "a.html").write_text(good)
    assert check.faults(tmp_path) == []
    bad = '<a href="c.html"></a><a href="b.html#gone"></a><a href="#no"></a><a href="https:///x"></a><a href="javascript:x"></a>'
    (tmp_path / "a.html").write_text(
        bad + '<img src="p.png"><script src="https://cdn.example.org/s.js"></script><link rel="icon" href="//e.org/i">'
    )
    (tmp_path / "ok.css").write_text("@import 'https://fonts.example.org/f';")
    found = "\n".join(check.faults(tmp_path))
    assert len(found.splitlines()) == 9
    for text in (
        "c.html",
        "b.html#gone",
        "#no",
        "https:///x",
        "javascript:x",
        "p.png",
        "cdn.example.org",
        "//e.org/i",
        "fonts.example.org",
    ):
        assert text in found
