"""Where the command line starts: `bei-jobs`, `python -m bei_jobs`, and every call of `bei_jobs`.

Python looks in the working directory and in PYTHONPATH before it looks among installed packages,
and many projects have a `jobs/`, `workers/` or `pipeline/` of their own. So this installation is
put first before anything else of it is imported. Spawned processes inherit the order.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit."""
    put_own_installation_first()
    from jobs.cli import main as run

    run()


def put_own_installation_first() -> None:
    """Order `sys.path`: the standard library, the directory that holds this package, the rest.

    Not before the standard library: the directory is usually site-packages, and obsolete backports
    there, such as the `uuid` for Python 2, would break everything that imports them.
    """
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    standard = [entry for entry in sys.path if _is_standard_library(entry)]
    rest = [entry for entry in sys.path if entry not in (*standard, own)]
    sys.path[:] = [*standard, own, *rest]


def _is_standard_library(entry: str) -> bool:
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return (
        entry == os.path.dirname(os.__file__)
        or os.path.basename(entry) == "lib-dynload"
        or os.path.basename(entry) == archive
    )


if __name__ == "__main__":
    main()
