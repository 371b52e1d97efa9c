"""Sentences of WikiText-2, as they were before they were cut into words."""

import re

from experiments.data import data_file

_SHORTEST, _LONGEST = 6, 60  # words
_HEADING = re.compile(r"\s*=.*=\s*")
_JOINED = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
_BEFORE = re.compile(r" ([.,;:!?%)\]]|'s\b|n't\b)")
_AFTER = re.compile(r"([(\[$£]) ")
_QUOTED = re.compile(r'" ([^"]*?) "')
_END = re.compile(r"(?<=[a-z)\]\"][.!?]) (?=[A-Z\"])")


def wikitext_sentences(part: str) -> list[str]:
    """The sentences of `valid` or `test`, each once, in their order.

    Those with an unknown word are left out: `<unk>` is no English.
    """
    text = data_file(f"wikitext2/{part}.txt").read_text(encoding="utf-8")
    found: dict[str, None] = {}
    for line in text.splitlines():
        if line.strip() and not _HEADING.fullmatch(line):
            found.update(dict.fromkeys(sentences_of(line)))
    return list(found)


def sentences_of(paragraph: str) -> list[str]:
    """The usable sentences of one paragraph of WikiText-2."""
    parts = _END.split(_written(paragraph.strip()))
    return [
        part
        for part in parts
        if "<unk>" not in part and _SHORTEST <= len(part.split()) <= _LONGEST
    ]


def _written(text: str) -> str:
    """Without the spaces around marks."""
    for apart, together in _JOINED:
        text = text.replace(apart, together)
    text = _QUOTED.sub(r'"\1"', text)
    return _AFTER.sub(r"\1", _BEFORE.sub(r"\1", text))
