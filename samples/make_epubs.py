#!/usr/bin/env python3
"""Makes the two EPUBs of samples/library from samples/sources, byte for byte the same each time.

    make_epubs.py

A source is a head of `name: value` lines, a blank line and Markdown's headings, paragraphs, *emphasis* and
**strong**. The Skarnholm Light becomes an EPUB 3 with a nested nav, The Slow Loaf an EPUB 2 with a DOCTYPE,
its named entities and an NCX. Both list their manifest by file name and their spine by reading order, as
many publishers do: who reads by manifest gets the chapters in the wrong order.
"""

import html
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent
# The earliest time a ZIP can hold: the archive must not depend on the day it was made.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
XHTML_11_ENTITIES = {"—": "&mdash;", "°": "&deg;", "\u00a0": "&nbsp;", "é": "&eacute;", "½": "&frac12;"}

CONTAINER = """<?xml version="1.0" encoding="UTF-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
  <rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""


@dataclass
class Section:
    """A heading with its paragraphs; `level` 1 is the outermost."""

    level: int
    title: str
    paragraphs: list = field(default_factory=list)
    href: str = ""


def main():
    for name, build in [("the-skarnholm-light", epub3), ("the-slow-loaf", epub2)]:
        head, sections = read_source(SAMPLES / "sources" / f"{name}.md")
        path = SAMPLES / "library" / f"{name}.epub"
        write_zip(path, {"META-INF/container.xml": CONTAINER, **build(head, sections)})
        words = sum(len(p.split()) for s in sections for p in s.paragraphs)
        print(f"{path.name}: {len(sections)} sections, {words} words, {path.stat().st_size} bytes")


def read_source(path):
    head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    sections = []
    for block in re.split(r"\n\s*\n", body.strip()):
        heading = re.match(r"(#+) (.+)", block)
        if heading:
            sections.append(Section(len(heading[1]), heading[2]))
        else:
            sections[-1].paragraphs.append(" ".join(block.split()))
    return dict(line.split(": ", 1) for line in head.splitlines()), sections


def epub3(head, sections):
    """A file for each part and each chapter; the sections of a chapter are anchors in its file."""
    files = into_files(sections, file_level=2)
    pages = {}
    for name, content in files.items():
        body = "".join(section_html(section, html.escape) for section in content)
        pages[name] = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html>\n'
            '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">\n'
            f"<head><title>{html.escape(content[0].title)}</title></head>\n"
            f'<body epub:type="bodymatter">\n{body}</body>\n</html>\n'
        )
    nav = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html>\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">\n'
        f"<head><title>{html.escape(head['title'])}</title></head>\n<body>\n"
        f'<nav epub:type="toc" id="toc">\n<h1>Contents</h1>\n{nav_list(sections, 1)}</nav>\n</body>\n</html>\n'
    )
    manifest = '    <item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>\n'
    package = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">\n'
        f'  <metadata xmlns:dc="http://purl.org/dc/elements/1.1/">\n{dublin_core(head)}'
        f'    <meta property="dcterms:modified">{head["modified"]}</meta>\n  </metadata>\n'
        f"  <manifest>\n{manifest}{manifest_items(files)}  </manifest>\n"
        f"  <spine>\n{spine_items(files)}  </spine>\n</package>\n"
    )
    return in_oebps({"content.opf": package, "nav.xhtml": nav, **pages})


def epub2(head, sections):
    """A file for each chapter; its sections are anchors, and the NCX points at them."""
    files = into_files(sections, file_level=1)
    pages = {}
    for name, content in files.items():
        body = "".join(section_html(section, with_entities) for section in content)
        pages[name] = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">\n'
            '<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en">\n'
            f"<head><title>{with_entities(content[0].title)}</title></head>\n<body>\n{body}</body>\n</html>\n"
        )
    ncx = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "http://www.daisy.org/z3986/2005/ncx-2005-1.dtd">\n'
        '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1" xml:lang="en">\n'
        f'<head><meta name="dtb:uid" content="{head["identifier"]}"/><meta name="dtb:depth" content="2"/></head>\n'
        f"<docTitle><text>{html.escape(head['title'])}</text></docTitle>\n<navMap>\n{nav_points(sections)}</navMap>\n</ncx>\n"
    )
    manifest = '    <item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>\n'
    package = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<package xmlns="http://www.idpf.org/2007/opf" version="2.0" unique-identifier="id">\n'
        '  <metadata xmlns:dc="http://purl.org/dc/elements/1.1/">\n'
        f"{dublin_core(head)}  </metadata>\n"
        f"  <manifest>\n{manifest}{manifest_items(files)}  </manifest>\n"
        f'  <spine toc="ncx">\n{spine_items(files)}  </spine>\n</package>\n'
    )
    return in_oebps({"content.opf": package, "toc.ncx": ncx, **pages})


def into_files(sections, file_level):
    """Groups the sections by file, in reading order, and gives each its href."""
    files = {}
    name = ""
    for section in sections:
        if section.level <= file_level:
            name = f"{slug(section.title)}.xhtml"
            assert name not in files, name
            files[name] = []
            section.href = name
        else:
            section.href = f"{name}#{slug(section.title)}"
        files[name].append(section)
    return files


def section_html(section, escape):
    anchor = section.href.partition("#")[2]
    attribute = f' id="{anchor}"' if anchor else ""
    paragraphs = "".join(f"<p>{inline(p, escape)}</p>\n" for p in section.paragraphs)
    return f"<h{section.level}{attribute}>{escape(section.title)}</h{section.level}>\n{paragraphs}"


def inline(text, escape):
    text = escape(text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)


def with_entities(text):
    # A degree sign or a per cent sign holds on to its number.
    text = re.sub(r"(?<=\d) (?=[°%])", "\u00a0", text)
    return "".join(XHTML_11_ENTITIES.get(c, c) for c in html.escape(text))


def nav_list(sections, level):
    """Nested <ol> of the sections at `level` and below."""
    items = []
    starts = [i for i, s in enumerate(sections) if s.level == level]
    for start, end in zip(starts, starts[1:] + [len(sections)]):
        link = f'<a href="{sections[start].href}">{html.escape(sections[start].title)}</a>'
        inner = sections[start + 1 : end]
        items.append(f"<li>{link}{chr(10) + nav_list(inner, level + 1) if inner else ''}</li>\n")
    return f"<ol>\n{''.join(items)}</ol>\n"


def nav_points(sections):
    points = []
    for order, section in enumerate(sections, start=1):
        following = sections[order].level if order < len(sections) else 1
        label = f"<navLabel><text>{html.escape(section.title)}</text></navLabel>"
        closing = "</navPoint>" * (section.level - following + 1)
        points.append(f'<navPoint id="p{order}" playOrder="{order}">{label}<content src="{section.href}"/>{closing}\n')
    return "".join(points)


def dublin_core(head):
    names = {"identifier": 'identifier id="id"', "title": "title", "author": "creator", "language": "language"}
    names |= {"rights": "rights", "description": "description"}
    return "".join(
        f"    <dc:{tag}>{html.escape(head[name])}</dc:{tag.split()[0]}>\n" for name, tag in names.items()
    )


def manifest_items(files):
    return "".join(
        f'    <item id="{Path(name).stem}" href="{name}" media-type="application/xhtml+xml"/>\n' for name in sorted(files)
    )


def spine_items(files):
    return "".join(f'    <itemref idref="{Path(name).stem}"/>\n' for name in files)


def slug(title):
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def in_oebps(files):
    return {f"OEBPS/{name}": content for name, content in files.items()}


def write_zip(path, files):
    """Stored, not compressed: what a compressor writes differs from version to version."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"mimetype": "application/epub+zip", **files}.items():
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content.encode("utf-8"))


if __name__ == "__main__":
    main()
