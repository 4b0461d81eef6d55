"""What `mkdocs build` needs beyond docs/: pages of the root, files that pages link to, and the notebook as a page.

A link is written as it works in the repository; on the site it leads to the page made of that file, or to a copy of it.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "examples/quickstart.ipynb": "quickstart.md",
}
"""Path in the repository -> path on the site, of what lies outside docs/."""
_LINK = re.compile(r"(\]\()((?!\w+:)[^)#\s]+)([)#])")
_FENCE = re.compile(r"```.*?```", flags=re.S)


def site_path(path):
    """Where a file of the repository is on the site."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"


def repository_path(page):
    """Where a page of the site comes from."""
    return next((path for path, place in PAGES.items() if place == page), f"docs/{page}")


def linked(text, page):
    """Path in the repository of every file that a page links to."""
    folder = posixpath.dirname(repository_path(page))
    targets = [found[2] for found in _LINK.finditer(_FENCE.sub("", text))]
    return {posixpath.normpath(posixpath.join(folder, target)) for target in targets}


def relinked(text, page):
    """A page with its links as they are on the site."""
    folder = posixpath.dirname(repository_path(page))

    def moved(found):
        place = site_path(posixpath.normpath(posixpath.join(folder, found[2])))
        return found[1] + posixpath.relpath(place, posixpath.dirname(page) or ".") + found[3]

    return _LINK.sub(moved, text)


def spaced(text):
    """Blank lines around the marks of made blocks: Python-Markdown takes what follows a comment for HTML."""
    return re.sub(r"^<!-- .* -->$", "", text, flags=re.M)


def notebook(path):
    """A notebook as Markdown, with its outputs."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![output](data:image/png;base64,{data['image/png'].strip()})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def source_of(path):
    """The Markdown of a file of the repository."""
    whole = ROOT / path
    return notebook(whole) if whole.suffix == ".ipynb" else whole.read_text(encoding="utf-8")


def on_config(config):
    """The methods' pages, one by one, where the navigation has `Each method`."""
    pages = [{page.stem: f"methods/{page.name}"} for page in sorted((ROOT / "docs" / "methods").glob("*.md"))]
    (methods,) = [entry["Methods"] for entry in config.nav if "Methods" in entry]
    methods[:] = [{"Each method": pages} if "Each method" in entry else entry for entry in methods]
    return config


def on_files(files, config):
    """Add what lies outside docs/: the pages of the root, and every file that a page links to."""
    for path, place in PAGES.items():
        files.append(File.generated(config, place, content=source_of(path)))
    pages = {file.src_uri: file.content_string for file in files if file.is_documentation_page()}
    for target in sorted(set().union(*(linked(text, page) for page, text in pages.items()))):
        if site_path(target).startswith("files/"):
            files.append(File.generated(config, site_path(target), content=(ROOT / target).read_bytes()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite links, and drop the marks of made blocks."""
    return spaced(relinked(markdown, page.file.src_uri))
