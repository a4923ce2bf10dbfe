"""Blocks of code in the README and in the pages of docs/."""

import re

from helpers.studies import PROJECT


def blocks(language: str, page: str = "README.md", heading: str = "") -> list[str]:
    """Those of a language, of a whole page or of one of its sections."""
    text = (PROJECT / page).read_text()
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
