"""Pages that no file holds: the README as home, the sources that pages link to, lists of folders; and links between all of them.

Texts are written for the repository: a link leads to a file of it, wherever that lies. On the site, files outside docs/ get a page with
their text, so that every link works there too, without a server that has the repository.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Files of the repository that have a page of their own, and its name in the site.
MOVED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
LANGUAGES = {
    ".py": "python",
    ".cuh": "cpp",
    ".cpp": "cpp",
    ".h": "cpp",
    ".toml": "toml",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".json": "json",
    ".sh": "bash",
}
LANGUAGES |= {".ts": "typescript", ".js": "javascript", ".css": "css", ".html": "html"}
TEXT_BYTES = 200_000  # of a source page; longer files are cut
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
LINK = re.compile(r"(\]\()([^)\s]+)(\s+\"[^\"]*\")?(\))")
CLICK = re.compile(r"^\s*click \w+ .*\n", re.MULTILINE)
LIST = re.compile(r"^([-*+]|\d+\.) ")


def tracked() -> list[str]:
    """Paths of the repository, new files that are not ignored included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(path for path in set(listed) if (ROOT / path).is_file())


class Repository:
    """Which page of the site a path of the repository has."""

    def __init__(self, files: list[str]) -> None:
        self.files = set(files)
        self.folders = {parent.as_posix() for path in files for parent in Path(path).parents if parent != Path()}

    def page_of(self, path: str) -> str | None:
        """The file of the site for a path of the repository; None if there is no such path."""
        if path in MOVED:
            return MOVED[path]
        if path in self.files:
            return (
                path.removeprefix("docs/")
                if path.startswith("docs/") and not path.startswith("docs/site/")
                else f"source/{visible(path)}.md"
            )
        if path.startswith("docs/") and f"{path}/index.html" in self.files:
            return f"{path}/index.html".removeprefix("docs/")
        if path in self.folders:
            return "decisions/index.md" if path == "docs/decisions" else f"source/{visible(path)}/index.md"
        return None


def visible(path: str) -> str:
    """A path without names that begin with a dot, which mkdocs leaves out."""
    return re.sub(r"(^|/)\.", r"\1_", path)


def origin_of(page: str) -> str:
    """The path of the repository whose text a page of the site has."""
    return next((path for path, moved in MOVED.items() if moved == page), f"docs/{page}")


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """`change` each line that is not part of a block of code."""
    lines, fence = [], ""
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
        else:
            line = change(line)
        lines.append(line)
    return "".join(lines)


def targets(page: str, text: str) -> set[str]:
    """Paths of the repository that a text links to."""
    found: set[str] = set()

    def look(line: str) -> str:
        for _, target, _, _ in LINK.findall(line):
            path = target.partition("#")[0]
            if path and not re.match(r"[a-z]+:|/", target):
                found.add(posixpath.normpath(posixpath.join(posixpath.dirname(origin_of(page)), path)))
        return line

    outside_fences(text, look)
    return found


def with_links(page: str, text: str, repository: Repository) -> str:
    """The text of a page with links to pages of the site. A link that leads nowhere stays as it is, for the strict build to find."""
    folder = posixpath.dirname(origin_of(page))

    def one(match: re.Match[str]) -> str:
        path, hash_, anchor = match[2].partition("#")
        if not path or re.match(r"[a-z]+:|/", match[2]):
            return match[0]
        to = repository.page_of(posixpath.normpath(posixpath.join(folder, path)))
        if to is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(to, posixpath.dirname(page) or '.')}{hash_}{anchor}{match[3] or ''}{match[4]}"

    return CLICK.sub("", outside_fences(text, lambda line: LINK.sub(one, line)))


def spaced(text: str) -> str:
    """A list may follow a line of text in the repository; here it needs an empty line before it."""
    lines: list[str] = []

    def change(line: str) -> str:
        before = lines[-1] if lines else ""
        starts = LIST.match(line) and before.strip() and not LIST.match(before) and not before.startswith((" ", "#", "|", ">"))
        lines.append(line)
        return f"\n{line}" if starts else line

    return outside_fences(text, change)


def source_page(path: str) -> str:
    """The text of a file of the repository as a page."""
    data = (ROOT / path).read_bytes()
    title = f"---\nsearch:\n  exclude: true\n---\n\n# {posixpath.basename(path)}\n\n`{path}`\n\n"
    if b"\0" in data[:8000]:
        return f"{title}{len(data):,} bytes that are no text.\n"
    text = data[:TEXT_BYTES].decode(errors="replace")
    ticks = "`" * max(4, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    cut = "\n\nThe rest is left out here.\n" if len(data) > TEXT_BYTES else ""
    return f"{title}{ticks} {LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n{ticks}\n{cut}"


def folder_page(folder: str, repository: Repository) -> tuple[str, set[str]]:
    """What a folder holds, as a page with links; and the paths it links to."""
    inside = sorted({path.removeprefix(f"{folder}/").split("/")[0] for path in repository.files if path.startswith(f"{folder}/")})
    rows = [f"- [{name}{'/' if f'{folder}/{name}' in repository.folders else ''}]({{{folder}/{name}}})" for name in inside]
    page = f"source/{visible(folder)}/index.md"
    text = "\n".join(rows)
    for name in inside:
        to = repository.page_of(f"{folder}/{name}")
        assert to is not None
        text = text.replace(f"({{{folder}/{name}}})", f"({posixpath.relpath(to, posixpath.dirname(page))})")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {folder}/\n\n{text}\n", {f"{folder}/{name}" for name in inside}


def decisions_page(repository: Repository) -> str:
    """The decisions with their titles."""
    rows = []
    for path in sorted(path for path in repository.files if re.fullmatch(r"docs/decisions/\d{4}-[^/]+\.md", path)):
        first = (ROOT / path).read_text().partition("\n")[0].lstrip("# ").strip()
        number = Path(path).name[:4]
        rows.append(f"- [{number}]({Path(path).name}): {re.sub(rf'^{number}:? *', '', first)}")
    return "# Decisions\n\nWhy things are as they are: half a page each, written when it was decided.\n\n" + "\n".join(rows) + "\n"


def source_pages(texts: dict[str, str], repository: Repository) -> dict[str, str]:
    """Pages for all paths outside docs/ that pages link to, and for those that folders among them hold."""
    pages: dict[str, str] = {}
    waiting = {path for page, text in texts.items() for path in targets(page, text)}
    while waiting:
        path = waiting.pop()
        page = repository.page_of(path)
        if page is None or not page.startswith("source/") or page in pages:
            continue
        if path in repository.folders:
            pages[page], more = folder_page(path, repository)
            waiting |= more
        else:
            pages[page] = source_page(path)
    return pages
