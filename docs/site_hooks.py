"""Brings what lies outside docs/ into the site: the pages at the repository's root, and files that pages link to.

On the code host every link is a path in the repository. Here a link to README, ARCHITECTURE and their like becomes the page
that is made of them, and one to another file a copy of it; one to a folder loses its link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {
    "README.md": "readme.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "GLOSSARY.md": "glossary.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "bench.md",
}
"""Where each page of the repository lies in the site."""
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root, and what pages link to beside them."""
    for source, target in ROOT_PAGES.items():
        text = _rewritten((ROOT / source).read_text("utf-8"), posixpath.dirname(source), "")
        page = File.generated(config, target, content=text)
        if target in ("readme.md", "bench.md"):
            page.inclusion = page.inclusion.NOT_IN_NAV
        files.append(page)
    pages = [ROOT / source for source in ROOT_PAGES] + [Path(file.abs_src_path or "") for file in files if _is_in_docs(file)]
    for asset in sorted({asset for page in pages for asset in _assets(page)}):
        if files.get_file_from_path(f"files/{asset}") is None:
            files.append(File.generated(config, f"files/{asset}", content=(ROOT / asset).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page of docs/; pages of the root had theirs rewritten when they were added."""
    if page.file.src_uri in ROOT_PAGES.values():
        return markdown
    return _rewritten(
        markdown, posixpath.join("docs", posixpath.dirname(page.file.src_uri)), posixpath.dirname(page.file.src_uri)
    )


def _is_in_docs(file: File) -> bool:
    return bool(file.abs_src_path) and file.src_uri.endswith(".md") and file.src_uri not in ROOT_PAGES.values()


def _targets(text: str, folder: str) -> list[str]:
    """What a page links to, as paths in the repository."""
    plain = _FENCE.sub("", text)
    return [posixpath.normpath(posixpath.join(folder, match[2])) for match in _LINK.finditer(plain)]


def _assets(page: Path) -> list[str]:
    folder = page.parent.relative_to(ROOT).as_posix()
    targets = _targets(page.read_text("utf-8"), "" if folder == "." else folder)
    return [target for target in targets if _is_asset(target)]


def _is_asset(target: str) -> bool:
    return target not in ROOT_PAGES and not target.startswith("docs/") and (ROOT / target).is_file()


def _rewritten(text: str, folder: str, site_folder: str) -> str:
    """A page's text with the links that the site has, `folder` being the page's in the repository."""

    def rewrite(match: re.Match[str]) -> str:
        label, fragment = match[1], match[3] or ""
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if target in ROOT_PAGES:
            place = ROOT_PAGES[target]
        elif target.startswith("docs/") and (ROOT / target).is_file():
            place = target.removeprefix("docs/")
        elif _is_asset(target):
            place = f"files/{target}"
        else:
            return label
        return f"[{label}]({posixpath.relpath(place, site_folder or '.')}{fragment})"

    parts = _FENCE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(rewrite, part) for part in parts)
