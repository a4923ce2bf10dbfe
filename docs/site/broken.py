"""What a reader of the built site would stumble over: links that lead nowhere, pictures without words, a network,
formulas with a command that there is not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote

SOURCES = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href", "a": "href"}
REMOTE = re.compile(r"(https?:)?//")
FETCHED = re.compile(r"""url\(\s*["']?(?:https?:)?//|@import\s+["'](?:https?:)?//""")
MATH = re.compile(r'class="math [^>]*>(.*?)</(?:div|span)>', re.DOTALL)
COMMAND = re.compile(r"\\([A-Za-z]+)")
MACRO = re.compile(r"""[{,]"?(?:\\\\)?([A-Za-z]+)"?:["[]""")  # as MathJax's script names those that it knows


@dataclass
class Page(HTMLParser):
    """What a page refers to, and the anchors that it has."""

    name: str
    anchors: set[str] = field(default_factory=set)
    links: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.anchors |= {told[key] for key in ("id", "name") if told.get(key)}
        target = told.get(SOURCES.get(tag, ""))
        if tag == "link" and not {"stylesheet", "icon", "preload"} & set((told.get("rel") or "").split()):
            target = None  # it is told to robots
        if target is not None and not target.startswith(("data:", "mailto:", "javascript:")):
            if not REMOTE.match(target):
                self.links.append((tag, target))
            elif tag != "a":
                self.wrong.append(f"{tag} {target}: needs a network; the site is to be read without one")
        words = (told.get("alt") or "").strip()
        if tag == "img" and (not words or words == target or words.endswith((".png", ".svg", ".jpg"))):
            self.wrong.append(f"a picture without alternative text: {(target or '')[:60]}")


def wrong(site: Path) -> list[str]:
    """Every fault of a site, a line each."""
    pages, known = {}, {name for script in site.glob("_static/tex-*.js") for name in MACRO.findall(script.read_text())}
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        if name.startswith("_static/") or name == "explorer.html":
            continue
        page = pages[name] = Page(name)
        page.feed(text := path.read_text())
        commands = COMMAND.findall(unescape(" ".join(MATH.findall(text))))
        page.wrong += [
            f"\\{command} in a formula: MathJax has no such command" for command in sorted({*commands} - known)
        ]
    faults = [f"{page.name}: {fault}" for page in pages.values() for fault in page.wrong]
    for page in pages.values():
        for tag, target in dict.fromkeys(page.links):
            path, _, mark = unquote(target).partition("#")
            path = path.partition("?")[0]
            named = normpath(join(dirname(page.name), path)) if path else page.name
            if not (site / named).is_file():
                faults.append(f"{page.name}: {tag} {target}: there is no {named}")
            elif mark and named in pages and mark not in pages[named].anchors:
                faults.append(f"{page.name}: {tag} {target}: {named} has no #{mark}")
    for path in sorted(site.rglob("*.css")):
        if FETCHED.search(path.read_text()):
            faults.append(f"{path.relative_to(site)}: takes something from a network")
    return faults
