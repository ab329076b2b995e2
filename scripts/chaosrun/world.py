"""The fleet under the soak: a Redis, and workers that a service manager starts again."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.points import sabotaged
from faults.processes import Machine
from faults.proxy import Proxy
from fixtures_redis import RedisServer

# How long a service manager waits before it starts a worker again.
_RESTART_S = 1.0
_TICK_S = 0.2


@dataclass
class Site:
    """A machine of the fleet: it keeps its state and its network, its worker comes and goes."""

    number: int
    proxy: Proxy
    worker: Machine
    lives: int = 1


@dataclass
class World:
    """Everything that faults may hit."""

    root: Path
    server: RedisServer
    reconciler: bool
    sites: list[Site] = field(default_factory=list)
    logs: list[Machine] = field(default_factory=list)  # every worker that ever was
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self, workers: int) -> None:
        self.server.start()
        for number in range(workers):
            proxy = Proxy(self.server.port)
            self.sites.append(Site(number, proxy, self._worker(number, 1, proxy)))
        threading.Thread(target=self._restart_the_dead, daemon=True).start()

    def _worker(self, number: int, life: int, proxy: Proxy) -> Machine:
        home = self.root / f"site-{number}"
        environment = sabotaged(CHAOS_POISON="1", BEI_JOBS_STATE_DIR=str(home / "state"))
        environment["BEI_JOBS_TASK_SECONDS"] = "60"
        environment["BEI_JOBS_BATCH_SECONDS"] = "10"
        if not self.reconciler:
            environment["CHAOS_NO_RECONCILER"] = "1"
        worker = Machine(proxy.redis_url, home / f"life-{life}", environment)
        self.logs.append(worker)
        return worker

    def _restart_the_dead(self) -> None:
        while not self._over.wait(_TICK_S):
            for site in self.sites:
                if site.worker.process.poll() is not None and not self._over.wait(_RESTART_S):
                    site.lives += 1
                    site.worker = self._worker(site.number, site.lives, site.proxy)

    def heal(self) -> None:
        """Nothing is wrong from here on, except what a fault left behind."""
        for site in self.sites:
            site.proxy.heal()

    def computations(self) -> int:
        """Shards that were computed, those that another attempt had committed included."""
        return sum(worker.log.count(" rows\n") for worker in self.logs)

    def close(self) -> None:
        self._over.set()
        time.sleep(2 * _TICK_S)  # a restart under way
        for worker in self.logs:
            worker.kill()
        for site in self.sites:
            site.proxy.close()
        self.server.kill()
