"""Let pages of the manual link to other files of the repository, on the site as in the repository.

A link such as `../benchmarks/results/atari.png` leads out of `docs/`. This hook of MkDocs adds each
such file to the site, under its path in the repository, and rewrites the links. Programs become
pages with highlighted code. A link to a folder becomes text. Nothing is copied within the
repository.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "benchmarks/README.md")
"""Pages of the site outside of docs/."""
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#:]+)([^)\s]*)\)")
"""Text, path and anchor of a link or a picture within the repository."""


def on_files(files, config):
    """Add the pages of `PAGES`, and all files outside of docs/ that a page links to."""
    for path in PAGES:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))

    pages = [file for file in files if file.is_documentation_page()]
    linked = {target for page in pages for target in _targets(_in_repository(page.src_uri))}
    for path in sorted(linked - set(PAGES)):
        if path.startswith("docs/") or not (ROOT / path).is_file():
            continue
        if path.endswith(".py"):
            content = f"# {path}\n\n````python\n{(ROOT / path).read_text()}````\n"
            files.append(File.generated(config, f"{path}.md", content=content))
        else:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite links from paths in the repository to paths on the site."""
    if page.file.src_uri.endswith(".py.md"):
        return markdown

    source = _in_repository(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def rewritten(match):
        text, link, anchor = match.groups()
        target = _target(source, link)
        if (ROOT / target).is_dir():
            return text

        target = target.removeprefix("docs/") + (".md" if target.endswith(".py") else "")
        return f"[{text}]({posixpath.relpath(target, folder or '.')}{anchor})"

    return LINK.sub(rewritten, markdown)


def _in_repository(src_uri):
    """Return the path of a page in the repository."""
    return src_uri if src_uri in PAGES else f"docs/{src_uri}"


def _targets(source):
    """Return the paths in the repository to which a page links."""
    return {_target(source, link) for _, link, _ in LINK.findall((ROOT / source).read_text())}


def _target(source, link):
    """Return the path in the repository of a link on the page `source`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
