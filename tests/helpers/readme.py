"""The README's blocks of code."""

import re

from helpers.studies import PROJECT


def blocks(language: str, heading: str = "") -> list[str]:
    """Those of a language, of the whole README or of one section."""
    text = (PROJECT / "README.md").read_text()
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
