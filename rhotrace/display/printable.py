"""Text that comes from a file, a recipe or a path, made safe to show: in a terminal it could otherwise send commands.

A run file from elsewhere may contain escape sequences in its attributes, its datasets' names and its own name.
"""

from __future__ import annotations

import re

# C0 but tab and line feed, DEL and C1; marks that change the order of the text around them; halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with each control character in a readable form, such as ``\x1b``; tabs and line ends remain.

    A byte of a file's name that is not UTF-8 is shown likewise, such as ``\xff``.
    """
    return _UNPRINTABLE.sub(_shown, text)


def escaped_in_json(text: str) -> str:
    """JSON with the same content in which those characters are escaped."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
