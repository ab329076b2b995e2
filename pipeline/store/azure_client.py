"""adlfs where it is not what the store counts on; fsspec takes this class for az:// and abfs://."""

from __future__ import annotations

import errno
import logging
from typing import Any

from adlfs import AzureBlobFileSystem
from azure.core.exceptions import ResourceNotFoundError

from pipeline.store.object_info import is_folder

# What each of eight ways to credentials lacks; the error says what to set.
logging.getLogger("azure.identity").setLevel(logging.ERROR)

_HOST = ".core.windows.net"


class AzureClient(AzureBlobFileSystem):  # type: ignore[misc]
    """Azure's blobs: names are taken as they are; with `once`, a call is not repeated."""

    def __init__(self, *args: Any, once: bool = False, **kwargs: Any) -> None:
        self._once = once
        super().__init__(*args, **kwargs)

    def do_connect(self) -> None:
        super().do_connect()
        if self._once:
            # adlfs hands no policy on, and the SDK's own waits for 18, 24 and 42 seconds.
            self.service_client._config.retry_policy.total_retries = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """CONTAINER/NAME, also of CONTAINER@ACCOUNT…; adlfs' own puts what follows a "?" last."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        protocol, colon, location = path.partition("://")
        if not colon or protocol not in cls.protocol:
            return path.lstrip("/")
        host, _, name = location.partition("/")
        container = host.rpartition("@")[0] or ("" if host.endswith(_HOST) else host)
        return f"{container}/{name}".strip("/") if container else name

    async def _find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> Any:
        """As fsspec describes it; the infos of files are those of `info`.

        adlfs' own has no `maxdepth`, takes the empty blob that stands for a directory for a file,
        and a container that does not exist for one without blobs.
        """
        base = self._strip_protocol(path).strip("/")
        container, key, _ = self.split_path(base)
        start = f"{key}/".lstrip("/") + kwargs.get("prefix", "")
        found: dict[str, Any] = {}
        for info in await self._blobs(container, start):
            parents = [f"{base}/{above}" for above in _parents(info["name"][len(base) + 1 :])]
            if maxdepth is None or len(parents) < maxdepth:
                found[info["name"]] = info
            if withdirs:
                for folder in parents[:maxdepth]:
                    found[folder] = {"name": folder, "size": 0, "type": "directory"}
        names = sorted(found)
        return {name: found[name] for name in names} if kwargs.get("detail") else names

    async def _blobs(self, container: str, start: str) -> list[dict[str, Any]]:
        """What is known of each blob of a container whose name starts with `start`."""
        try:
            async with self.service_client.get_container_client(container) as client:
                listed = client.list_blobs(name_starts_with=start, include=["metadata"])
                blobs = [blob async for blob in listed if not is_folder(blob.name)]
        except ResourceNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such container", container) from error
        return [info for info in await self._details(blobs) if info["type"] == "file"]


def _parents(name: str) -> list[str]:
    """The directories above a relative name, the topmost first."""
    return [name[:i] for i, char in enumerate(name) if char == "/"]
