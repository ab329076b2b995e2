"""A TCP proxy between a worker and a server, to cut, delay and swallow what passes."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import Literal

CHUNK = 1 << 16
TICK_S = 0.05

State = Literal["open", "cut", "black hole"]


class _Link:
    """One connection through the proxy. A dead link accepts bytes and delivers none."""

    def __init__(self, client: socket.socket, server: socket.socket, proxy: Proxy) -> None:
        self._ends = (client, server)
        self._proxy = proxy
        self.dead = False
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        client, server = self._ends
        with selectors.DefaultSelector() as waiting:
            waiting.register(client, selectors.EVENT_READ, server)
            waiting.register(server, selectors.EVENT_READ, client)
            with suppress(OSError):
                while all(self._forward(key) for key, _ in waiting.select()):
                    pass
        self.close()

    def _forward(self, key: selectors.SelectorKey) -> bool:
        source = key.fileobj
        assert isinstance(source, socket.socket)
        data = source.recv(CHUNK)
        time.sleep(self._proxy.latency)
        if self.dead or self._proxy.state == "black hole":
            # An end that hangs up is not noticed by the other one either.
            while not data and (self.dead or self._proxy.state == "black hole"):
                time.sleep(TICK_S)
                if self._proxy.closed:
                    return False
            return bool(data)
        if data:
            key.data.sendall(data)
        return bool(data)

    def close(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Listens on a port of 127.0.0.1 and connects each client to `target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.state: State = "open"
        self.latency = 0.0  # seconds, each way
        self.closed = False
        self._links: list[_Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self.state = "cut"
        self._close_links()

    def black_hole(self) -> None:
        """Keep connections open and accept new ones, but deliver nothing."""
        self.state = "black hole"

    def half_open(self) -> None:
        """The connections of now never deliver again and never end; new ones work."""
        for link in self._links:
            link.dead = True

    def heal(self) -> None:
        """Deliver again, over new connections: what was swallowed is lost."""
        swallowed = self.state == "black hole"
        self.state, self.latency = "open", 0.0
        if swallowed:
            self._close_links()

    def retarget(self, port: int) -> None:
        """Send new connections to another server and break the old ones, as a failover does."""
        self.target = port
        self._close_links()

    def close(self) -> None:
        self.closed = True
        self._listener.close()
        self._close_links()

    def _close_links(self) -> None:
        links, self._links = self._links, []
        for link in links:
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.state == "cut":
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self._links.append(_Link(client, server, self))
