"""What mkdocs does besides: pages that no file holds, links of the repository, diagrams without a foreign server, checks."""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # deploy.build_console, tests.unit.farm_fake
import check  # noqa: E402
import diagrams  # noqa: E402
import pages  # noqa: E402
import ref_cli  # noqa: E402
import ref_http  # noqa: E402
import ref_metrics  # noqa: E402

log = logging.getLogger("mkdocs.hooks.hltfarm")
PYTHON = "reference/python/"
GENERATED = {
    "reference/cli.md": ref_cli.cli_page,
    "reference/environment.md": ref_cli.environment_page,
    "reference/http-api.md": ref_http.http_page,
    "reference/openapi.json": ref_http.openapi_json,
    "reference/metrics.md": ref_metrics.metrics_page,
}
STYLE = "assets/site.css"


def in_nav(nav: Any) -> list[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in in_nav(part)]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that the navigation does not name get a place in it, so that none is forgotten."""
    assert config.nav is not None
    sections: dict[str, list[Any]] = {name: entries for section in config.nav for name, entries in section.items()}
    known = set(in_nav(config.nav))
    tutorials: list[Any] = []
    for path in sorted(path.removeprefix("docs/") for path in pages.tracked() if path.startswith("docs/") and path.endswith(".md")):
        folder = path.partition("/")[0]
        if path in known or folder in ("site", "decisions", "reports"):
            continue
        (tutorials if folder == "tutorials" else sections["Operate"]).append(path)
    if tutorials:
        sections["Start"].append({"Tutorials": tutorials})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of docs/ holds."""
    repository = pages.Repository(pages.tracked())
    texts = {moved: (ROOT / path).read_text() for path, moved in pages.MOVED.items()}
    texts["decisions/index.md"] = pages.decisions_page(repository)
    texts |= {page: generate() for page, generate in GENERATED.items()}
    for page in in_nav(config.nav):
        if page.startswith(PYTHON):
            module = page.removeprefix(PYTHON).removesuffix(".md")
            texts[page] = f"---\ntitle: {module.removeprefix('hltfarm.')}\n---\n\n::: {module}\n"
    written = {file.src_uri: file.content_string for file in files.documentation_pages()}
    sources = pages.source_pages(written | {name: text for name, text in texts.items() if name in pages.MOVED.values()}, repository)
    log.info("%d pages of sources that other pages link to", len(sources))
    for name, text in {**texts, **sources, STYLE: (Path(__file__).parent / "site.css").read_text()}.items():
        files.append(File.generated(config, name, content=text))
    config.extra["repository"] = repository
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the repository become links of the site."""
    name = page.file.src_uri
    if name.startswith(("source/", "reference/")):
        return markdown
    return pages.with_links(name, pages.spaced(markdown), config.extra["repository"])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A chain of steps from left to right is wide: it scrolls rather than shrinks."""
    return re.sub(r'(<pre class="mermaid"><code>flowchart LR.*?</pre>)', r'<div class="wide">\1</div>', html, flags=re.DOTALL)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Diagrams are drawn by a script of the site, on the pages that have one."""
    if 'class="mermaid"' not in output:
        return output
    script = posixpath.relpath(diagrams.SCRIPT, posixpath.dirname(page.file.dest_uri) or ".")
    first = output.index("<script src=") if "<script src=" in output else output.index("</body>")
    return f'{output[:first]}<script src="{script}"></script>\n{output[first:]}'


def on_post_build(config: MkDocsConfig) -> None:
    """The script of the diagrams, then every link of every page."""
    site = Path(config.site_dir)
    diagrams.install(site, ROOT / "build" / "npm")
    faults = check.faults(site)
    for fault in faults:
        log.error(fault)
    if faults:
        raise PluginError(f"{len(faults)} links or parts of the site cannot be used")
    log.info("%d pages: every link and every part is there, and none is of another server", len(list(site.rglob("*.html"))))
