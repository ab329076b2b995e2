"""The table of the fault matrix: one line per test."""

from __future__ import annotations

from dataclasses import dataclass, field

LETTERS = "XVPBS"
HOLDS, BROKEN, OPEN = "✓", "✗", "–"
# Under P: it failed loudly, and the same command resumed.
RESUMED = "↻"


@dataclass
class Line:
    """One fault, and what held after it."""

    kind: str
    fault: str
    test: str
    seconds: float | None = None  # from the end of the fault to the next commit or the end
    marks: dict[str, str] = field(default_factory=lambda: dict.fromkeys(LETTERS, OPEN))

    def cells(self) -> list[str]:
        seconds = OPEN if self.seconds is None else f"{self.seconds:.1f}"
        return [self.kind, self.fault, self.test, seconds, *(self.marks[x] for x in LETTERS)]


def table(lines: list[Line]) -> str:
    """The lines as a Markdown table."""
    head = ["kind", "fault", "test", "s to recovery", *LETTERS]
    rows = [head, ["---"] * len(head), *(line.cells() for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
