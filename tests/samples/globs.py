"""A tree with odd names, and what globs over it name; imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass

# Of the files below `tree/`; those of FOREIGN are no Parquet.
FILES = (
    "a.parquet", "b.parquet", "ab.parquet", "UP.PARQUET", "ä.parquet", "s pace.parquet",
    "[x].parquet", "{a,b}.parquet", "x*y.parquet", "-dash.parquet",
    "sub/a.parquet", "sub/c.parquet", "sub/deep/a.parquet", "sub/deep/er/d.parquet",
    "dir.parquet/part-0.parquet", "run1/r.parquet", "run[1]/q.parquet", "k=1/l=2/p.parquet",
    ".hidden.parquet", "_under.parquet", ".dir/h.parquet", "_dir/u.parquet",
    "made.embed/part-0.parquet",
)  # fmt: skip
FOREIGN = ("made.embed/_bei/spec.json", "notes.txt")
# Below `elsewhere/`, and in the tree by a link. A store without links has it as `linked/o.parquet`.
LINKED_FILE = "o.parquet"
# Link → where it leads, both from `tree/`.
LINKS = {"linked": "../elsewhere", "again.parquet": "a.parquet"}

TOP = (
    "-dash", "UP", "[x]", "a", "ab", "b", "s pace", "x*y", "{a,b}", "ä",
)  # fmt: skip
SUB = ("sub/a", "sub/c", "sub/deep/a", "sub/deep/er/d")
BELOW = ("dir.parquet/part-0", "k=1/l=2/p", "linked/o", "run1/r", "run[1]/q", *SUB)

# What others find where it is not what we find.
FOLDERS = "only files, not what is in folders"
NO_FOLDER = "an error: only folders match"
DOWN = "no linked folders below `**`"
BYTES = "`?` and `[!a]` are one byte"
ONE_STAR_STAR = "an error: two `**`"
ONLY_FOLDERS = "nothing: only folders match"
REFUSES = "an error: `**` within a name"
PATTERN = "nothing: it is a pattern"
FOUND = "the same"


@dataclass(frozen=True, slots=True)
class Glob:
    """A glob in `tree/`, the files that it names (without .parquet), and how others differ."""

    pattern: str
    files: tuple[str, ...]
    duckdb: str = FOUND
    polars: str = FOUND

    @property
    def paths(self) -> list[str]:
        """The files' paths in `tree/`, sorted."""
        return sorted(f"{name}.{'PARQUET' if name == 'UP' else 'parquet'}" for name in self.files)


def _same(pattern: str, *files: str) -> Glob:
    return Glob(pattern, files)


_LOWER = tuple(name for name in TOP if name != "UP")

GLOBS = (
    _same("[ab].parquet", "a", "b"),
    _same("[^a].parquet", "a"),
    _same("[a-c]*.parquet", "a", "ab", "b"),
    Glob("[!a].parquet", ("b", "ä"), duckdb=BYTES),
    Glob("?.parquet", ("a", "b", "ä"), duckdb=BYTES),
    _same("*.PARQUET", "UP"),
    _same("s *", "s pace"),
    _same("-*", "-dash"),
    _same("x*y.parquet", "x*y"),
    _same("x[*]y.parquet", "x*y"),
    _same("[[]x].parquet", "[x]"),
    Glob("[x].parquet", ("[x]",), polars=PATTERN),
    _same("{a,b}.parquet", "{a,b}"),
    _same("{a,ab}.parquet"),
    _same("*.{parquet,txt}"),
    _same("nothing*"),
    _same("run[1]/*", "run1/r"),
    _same("run[[]1]/*", "run[1]/q"),
    _same("sub/**/a.parquet", "sub/a", "sub/deep/a"),
    _same("**/a.parquet", "a", "sub/a", "sub/deep/a"),
    _same("sub//*.parquet", "sub/a", "sub/c"),
    _same("./sub/./*.parquet", "sub/a", "sub/c"),
    _same("k=1/../sub/*.parquet", "sub/a", "sub/c"),
    _same("k=*/l=*/*.parquet", "k=1/l=2/p"),
    _same("**/l=2/*", "k=1/l=2/p"),
    _same("dir.parquet/*", "dir.parquet/part-0"),
    _same("*.parquet/*", "dir.parquet/part-0"),
    _same("linked/*", "linked/o"),
    Glob("_*", ("_under", "_dir/u"), FOLDERS, FOLDERS),
    _same(".*.parquet", ".hidden"),
    _same(".dir/*", ".dir/h"),
    _same("_dir/*", "_dir/u"),
    _same("made.embed/*.parquet", "made.embed/part-0"),
    _same("sub", *SUB),
    _same("sub/", *SUB),
    _same("dir.parquet", "dir.parquet/part-0"),
    Glob("*.parquet", (*_LOWER, "dir.parquet/part-0"), FOLDERS, FOLDERS),
    Glob("*", (*TOP, *BELOW), FOLDERS, FOLDERS),
    Glob("*/*", BELOW, FOLDERS, FOLDERS),
    Glob("*/", (*TOP, *BELOW), NO_FOLDER, ONLY_FOLDERS),
    Glob("sub/*", SUB, FOLDERS, FOLDERS),
    Glob("sub/*/", SUB, NO_FOLDER, ONLY_FOLDERS),
    Glob("sub/***", SUB, FOLDERS, REFUSES),
    Glob("**", (*TOP, *BELOW), DOWN, ONLY_FOLDERS),
    Glob("**/", (*TOP, *BELOW), NO_FOLDER, ONLY_FOLDERS),
    Glob("**/*", (*TOP, *BELOW), DOWN),
    Glob("**/*.parquet", (*_LOWER, *BELOW), DOWN),
    Glob("**/o.parquet", ("linked/o",), DOWN),
    Glob("*/**", BELOW, polars=ONLY_FOLDERS),
    Glob("sub/**", SUB, polars=ONLY_FOLDERS),
    Glob("sub/**/", SUB, NO_FOLDER, ONLY_FOLDERS),
    Glob("**a.parquet", ("a",), polars=REFUSES),
    Glob("s**.parquet", ("s pace",), polars=REFUSES),
    Glob("**/deep/**/a.parquet", ("sub/deep/a",), ONE_STAR_STAR),
)  # fmt: skip
