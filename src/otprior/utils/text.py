"""Text from outside as it can be shown: names of files, starts and classes may hold anything."""

from __future__ import annotations

import re

# Control characters but tab and line feed, other line ends, what turns the direction of reading, and the
# stand-ins for bytes of a file's name that are no UTF-8.
_UNSHOWN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text, in which what would steer a terminal, turn the reading or cannot be written stands as its number.

    Examples:
        >>> print(printable("gr\\udcfcn \\x1b[31m"))
        gr\\udcfcn \\u001b[31m
    """
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def markdown(text: str) -> str:
    """The text in a line of Markdown, in which nothing of it is markup.

    Examples:
        >>> print(markdown("<b> a_b | c"))
        \\<b\\> a\\_b \\| c
    """
    return re.sub(r"[\\`*_\[\]<>|&~$]", r"\\\g<0>", printable(" ".join(text.split())))
