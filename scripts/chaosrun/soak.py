"""Random faults at several jobs and workers on one Redis; exits 1 where a promise did not hold."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chaosrun.strikes import strike
from chaosrun.traffic import Totals, Traffic
from chaosrun.world import World
from fixtures_redis import RedisServer

STALL_LIMIT_S = 120.0
_PAUSE_S = (0.3, 3.0)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/chaos soak`."""
    parser.add_argument("--seed", type=int, default=0, help="of faults and jobs")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument(
        "--no-reconciler",
        action="store_true",
        help="the control: workers never look for lost work, so that jobs must stand still",
    )
    parser.add_argument("--no-poison", action="store_true", help="no row that kills its process")
    parser.add_argument("--keep", action="store_true", help="keep outputs and logs, say where")


def run(options: argparse.Namespace) -> int:
    """Soak, and print the totals; the exit code."""
    root = Path(tempfile.mkdtemp(prefix="bei-jobs-soak-"))
    (root / "redis").mkdir()
    world = World(root, RedisServer(root / "redis"), not options.no_reconciler)
    traffic = Traffic(world, random.Random(options.seed), poison=not options.no_poison)
    faults: Counter[str] = Counter()
    try:
        traffic.prepare()
        world.start(options.workers)
        seconds = options.minutes * 60
        with ThreadPoolExecutor(1) as pool:
            storm = pool.submit(_storm, world, options.seed, seconds, faults)
            traffic.run(seconds, STALL_LIMIT_S)
            storm.result()
        computed = world.computations()
    finally:
        world.close()
    print(_report(options, faults, traffic.totals, computed))
    broken = _broken(traffic.totals)
    if options.keep or broken:
        print(f"logs and outputs: {root}")
    else:
        shutil.rmtree(root)
    return 1 if broken else 0


def _storm(world: World, seed: int, seconds: float, faults: Counter[str]) -> None:
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(*_PAUSE_S))
        name = strike(world, rng)
        faults[name] += 1
        print(f"{seconds - (end - time.monotonic()):6.1f} s  {name}", flush=True)
    world.heal()


def _broken(totals: Totals) -> bool:
    stalled = totals.longest_stall > STALL_LIMIT_S
    return bool(totals.violations or totals.lost or totals.doubled or stalled)


def _report(
    options: argparse.Namespace, faults: Counter[str], totals: Totals, computed: int
) -> str:
    lines = [
        f"seed {options.seed}, {options.minutes:g} minutes, {options.workers} workers"
        + (", no reconciler" if options.no_reconciler else ""),
        *(f"  {count:4}  {name}" for name, count in faults.most_common()),
        f"faults                {sum(faults.values())}",
        f"jobs done             {totals.done} ({totals.resumed} times failed and resumed)",
        f"shards                {totals.shards}, by {totals.attempts} attempts, "
        f"{computed} computations",
        f"rows verified         {totals.rows}",
        f"rows lost, doubled    {totals.lost}, {totals.doubled}",
        f"longest stall         {totals.longest_stall:.1f} s (limit {STALL_LIMIT_S:.0f} s)",
        f"violations            {len(totals.violations)}",
        *(f"  {violation}" for violation in totals.violations),
    ]
    return "\n".join(lines)
