"""What was chosen for the user, and why: every `auto` says both."""

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


#: Option, as on the command line without its dashes → what was chosen for it.
Choices: TypeAlias = Mapping[str, Choice[object]]
