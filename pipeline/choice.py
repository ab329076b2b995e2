"""Settings chosen for the user, with the reason: every `auto` reports both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

Value = TypeVar("Value", covariant=True)


@dataclass(frozen=True, slots=True)
class Choice(Generic[Value]):
    """A value and the reason for it."""

    value: Value
    reason: str


# Option name without the leading dashes → its choice.
Choices: TypeAlias = Mapping[str, Choice[object]]
