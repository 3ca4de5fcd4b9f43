"""The code in README and docs/, cut out so that tests can run it."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str

    def commands(self) -> list[str]:
        """The block's shell commands, each on one line and without its comment."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"\s+# .*", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    return [Block(page, *found) for found in _FENCE.findall(page.read_text())]


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]
