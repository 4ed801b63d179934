"""What must hold for the built site: internal links lead to a page and a place on it, and no page loads anything from elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that make a browser load something, by element.
LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("object", "data"), ("embed", "src")}
LOADING_RELATIONS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload", "manifest", "prefetch"}
STYLE_URL = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")]+)")


@dataclass
class Content:
    """Of a page: places that links may name, links, and what it loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Reads a page."""

    def __init__(self) -> None:
        super().__init__()
        self.content = Content()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        given = {name: value or "" for name, value in attrs}
        self.content.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and "href" in given:
            self.content.links.append(given["href"])
        self.content.loads += [value for name, value in given.items() if (tag, name) in LOADS]
        if tag == "link" and LOADING_RELATIONS & set(given.get("rel", "").split()):
            self.content.loads.append(given.get("href", ""))
        self.content.loads += STYLE_URL.findall(given.get("style", ""))


def read(page: Path) -> Content:
    """What a page has."""
    reader = Reader()
    reader.feed(page.read_text())
    return reader.content


def faults(site: Path) -> list[str]:
    """What is wrong, in words; nothing if all is well. Links to other servers are held to the form of a URL, and not followed."""
    contents = {page.resolve(): read(page) for page in sorted(site.rglob("*.html"))}
    found = []
    for page, content in contents.items():
        name = page.relative_to(site.resolve()).as_posix()
        base = site.resolve() if name == "404.html" else page.parent
        found += [f"{name}: loads {load}" for load in content.loads if is_foreign(load)]
        found += [f"{name}: {load} is not there" for load in content.loads if local(load) and not target(base, site, load).is_file()]
        for link in content.links:
            fault = broken(link, page, base, site, contents)
            if fault:
                found.append(f"{name}: link {link!r} {fault}")
    for style in site.rglob("*.css"):
        found += [f"{style.relative_to(site)}: loads {url}" for url in STYLE_URL.findall(style.read_text())]
    return found


def is_foreign(url: str) -> bool:
    """Whether a URL is one of another server."""
    return bool(urlsplit(url).netloc)


def local(url: str) -> bool:
    """Whether a URL is one of a file of the site."""
    parts = urlsplit(url)
    return not parts.scheme and not parts.netloc and bool(parts.path)


def target(base: Path, site: Path, url: str) -> Path:
    """The file of a URL of the site."""
    path = unquote(urlsplit(url).path)
    file = (site / path.lstrip("/") if path.startswith("/") else base / path).resolve()
    return file / "index.html" if file.is_dir() else file


def broken(link: str, page: Path, base: Path, site: Path, contents: dict[Path, Content]) -> str | None:
    """Why a link cannot be followed, None if it can."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        if parts.scheme in ("http", "https"):
            return None if re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", parts.netloc) else "is no URL"
        return None if parts.scheme == "mailto" else "has a scheme that nothing opens"
    file = target(base, site, link) if parts.path else page
    if not file.is_file():
        return "leads nowhere"
    anchor = unquote(parts.fragment)
    if anchor and file in contents and anchor not in contents[file].ids and anchor != "__skip":
        return "leads to no place on that page"
    return None
