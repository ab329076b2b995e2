"""Two Redis servers behind one address, of which the second takes over without the last writes."""

from __future__ import annotations

from dataclasses import dataclass

from faults.proxy import Proxy
from fixtures_redis import RedisServer
from fleet import until


@dataclass
class FailingOver:
    primary: RedisServer
    replica: RedisServer
    proxy: Proxy

    def __post_init__(self) -> None:
        self.replica.client().replicaof("127.0.0.1", str(self.primary.port))
        link = self.replica.client()
        until(lambda: link.info("replication").get("master_link_status") == "up", "a replica")

    @property
    def url(self) -> str:
        return self.proxy.redis_url

    def fall_behind(self) -> None:
        """Wait until the replica has everything, then let it hear nothing more."""
        self.primary.client().wait(1, 5000)
        self.replica.freeze()

    def fail_over(self) -> None:
        """Lose the primary and promote the replica, under the same address."""
        self.primary.kill()
        self.replica.thaw()
        self.replica.client().replicaof("NO", "ONE")
        self.proxy.retarget(self.replica.port)
