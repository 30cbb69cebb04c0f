"""Text from files we did not write: models, task files and plugins name things as they like."""

from __future__ import annotations


def plain(text: str) -> str:
    """The text on one line, with every control character (escape sequences, line breaks) replaced."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
