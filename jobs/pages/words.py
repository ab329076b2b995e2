"""Numbers as people read them."""

from __future__ import annotations

import re


def count(number: float) -> str:
    """Such as 1,234."""
    return f"{number:,.0f}"


def number(value: float) -> str:
    """About three digits: 12,345; 123; 1.23; 0.0123."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def amount(of_money: float) -> str:
    """About four digits, but all of those before the point: 0.01234; 12.34; 12,345.60."""
    return f"{of_money:,.2f}" if abs(of_money) >= 100 else f"{of_money:.4g}"


def share(part: float, of: float = 1.0) -> str:
    """A percentage, which is 0 % only for nothing and 100 % only for everything."""
    if not of:
        return "–"
    percent = 100 * part / of
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent % 1 else f"{percent:.0f} %"


def size(number_of_bytes: float) -> str:
    """Such as 4.61 MB."""
    value, units = float(number_of_bytes), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:  # which three digits round to 1000
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """Such as 12 s, 3 min 20 s or 5 h 10 min."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def numbers_open(text: str) -> str:
    """The text with N for each number: the same for messages that differ in numbers alone."""
    return re.sub(r"\d[\d,.]*", "N", text)


def beginning(text: str, most: int) -> str:
    """The first `most` characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shortened(text: str, most: int) -> str:
    """The text in at most `most` characters: its middle is left out."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"
