"""Which store a URI is on."""

from __future__ import annotations

from pipeline.store.backends import LocalStore, MemoryStore, RemoteStore, S3Store, Store
from pipeline.store.clients import GCS_PROTOCOLS, S3_PROTOCOLS
from pipeline.store.gcs import GcsStore
from pipeline.store.uris import is_local

_STORES: dict[str, type[RemoteStore]] = {
    "memory": MemoryStore,
    **dict.fromkeys(S3_PROTOCOLS, S3Store),
    **dict.fromkeys(GCS_PROTOCOLS, GcsStore),
}


def store_of(root: str) -> Store:
    """The store of the absolute URI `root`."""
    if is_local(root):
        return LocalStore(root)
    return _STORES.get(root.partition("://")[0], RemoteStore)(root)
