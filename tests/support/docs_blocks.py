"""Code blocks of the documentation and the README, by language and place.

A python block with a caption, `one_site.py`, is a whole script; a text block with the caption `one_site.py prints` is
what it writes to its standard output. Scripts take the ids of endpoints from environment variables.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

_DIRECTIVE = re.compile(r"^( *)\.\. code-block:: *(\S*) *$")
_OPTION = re.compile(r"^ *:([a-z]+):(.*)$")
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LITERAL = re.compile(r"(?<!`)(`{1,2})((?:parsl-globus|service|endpoint|login|demo)\s[^`]+?)\1(?!`)")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        place: File and line of its first line of code.
        language: As it is written, `python` for example.
        caption: The caption, or an empty text.
        text: The code.
    """

    place: str
    language: str
    caption: str
    text: str

    @property
    def page(self) -> str:
        """The file's name."""
        return self.place.partition(":")[0]


@dataclass(frozen=True)
class CommandLine:
    """A command line of `parsl-globus`.

    Attributes:
        place: File and line.
        words: What follows `parsl-globus`.
        mentioned: It stands in the text, not in a block.
    """

    place: str
    words: list[str]
    mentioned: bool

    @property
    def page(self) -> str:
        """The file's name."""
        return self.place.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.place} {' '.join(self.words)}"


def pages() -> list[Path]:
    """The README and every page of the documentation."""
    return [README, *sorted((ROOT / "docs").glob("*.rst"))]


def blocks(*languages: str) -> list[Block]:
    """Every code block in one of the languages, by page and line."""
    found = [block for path in pages() for block in (_of_markdown(path) if path == README else _of_rst(path))]
    return [block for block in found if block.language in languages]


def _of_markdown(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for match in _FENCED.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        yield Block(f"{path.name}:{line}", match[1], "", match[2])


def _of_rst(path: Path) -> Iterator[Block]:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if (directive := _DIRECTIVE.match(line)) is None:
            continue
        indent, options, at = len(directive[1]), {}, number + 1
        while (option := _OPTION.match(lines[at])) is not None:
            options[option[1]] = option[2].strip()
            at += 1
        body = []
        for inner in lines[at:]:
            if inner.strip() and len(inner) - len(inner.lstrip()) <= indent:
                break
            body.append(inner)
        code = textwrap.dedent("\n".join(body)).strip("\n") + "\n"
        yield Block(f"{path.name}:{at + 2}", directive[2], options.get("caption", ""), code)


def commands() -> list[CommandLine]:
    """Every command line of `parsl-globus`, from blocks and from the text.

    The text may leave `parsl-globus` out, and a block that begins with an option goes on with `service run`.
    """
    found = []
    for block in blocks("sh", "shell", "console", "ini"):
        text = re.sub(r" *\\\n *", " ", block.text)
        for line in text.splitlines():
            line = f"parsl-globus service run {line}" if line.startswith("--") else line
            parts = re.split(r"[()\"|&;]+", line.partition(" #")[0])
            matches = (re.search(r"(?:^|[\s/])parsl-globus (.*)", part) for part in parts)
            found += [CommandLine(block.place, _words(match[1]), mentioned=False) for match in matches if match]
    for path in pages():
        text = path.read_text()
        for match in _LITERAL.finditer(text):
            place = f"{path.name}:{text.count(chr(10), 0, match.start()) + 1}"
            found.append(CommandLine(place, _words(re.sub(r"^parsl-globus\s+", "", match[2])), mentioned=True))
    return found


def _words(command: str) -> list[str]:
    """Without what a shell takes for itself."""
    return shlex.split(re.sub(r"\s[<>].*", "", command))
