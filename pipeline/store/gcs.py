"""Google Cloud Storage: listings page by page, and the buckets that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.store.backends import RemoteStore
from pipeline.store.client_errors import no_bucket
from pipeline.store.object_info import ObjectInfo, is_folder, object_info
from pipeline.store.uris import filesystem

_PAGE_OBJECTS = 1000


class GcsStore(RemoteStore):
    """GCS. `ifGenerationMatch=0` makes a write create-only."""

    __slots__ = ()

    def create(self, name: str, data: bytes | memoryview) -> None:
        """In one request, however large, so that the condition holds for all of the write.

        Of a write in pieces, as gcsfs makes it of 50 MiB and more, it is checked at the start.
        """
        fs, path = self._at(name)
        with self._not_found_is_the_bucket():
            fs.pipe_file(path, bytes(data), mode="create", chunksize=len(data) + 1)

    def replace(self, name: str, data: bytes | memoryview) -> None:
        with self._not_found_is_the_bucket():
            super().replace(name, data)

    def info(self, name: str) -> ObjectInfo:
        """One request; gcsfs lists as well, in case it is a directory."""
        fs, path = self._at(name)
        bucket, _, key = path.partition("/")
        if not key:
            raise FileNotFoundError(path)
        item = fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        return object_info(name, item, int(item["size"]))

    @contextmanager
    def _not_found_is_the_bucket(self) -> Iterator[None]:
        """Gcsfs drops what the store says of a 404; of these requests only one can be meant."""
        try:
            yield
        except FileNotFoundError as error:
            raise no_bucket(self.root) from error

    def list(self, prefix: str, recursive: bool, after: str) -> Iterator[list[ObjectInfo]]:
        """List page by page, 1,000 names in memory; the API returns names in byte order.

        https://cloud.google.com/storage/docs/json_api/v1/objects/list
        """
        fs, root = filesystem(self.root, prefix)
        bucket, _, key = root.partition("/")
        base = f"{key}/" if key else ""
        request: dict[str, Any] = {"prefix": base + prefix, "maxResults": _PAGE_OBJECTS}
        if after:
            request["startOffset"] = base + after  # which is listed too
        if not recursive:
            request["delimiter"] = "/"
        while True:
            with self._not_found_is_the_bucket():
                page = fs.call("GET", "b/{}/o", bucket, json_out=True, **request)
            names = ((item["name"][len(base) :], item) for item in page.get("items", ()))
            yield [
                object_info(name, item, int(item["size"]))
                for name, item in names
                if name != after and not is_folder(name)
            ]
            if not (token := page.get("nextPageToken")):
                return
            request["pageToken"] = token
