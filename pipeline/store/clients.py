"""The client of each kind of store: its class, and what hints say of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module

from pipeline.store.sections import configured

LOCAL_PROTOCOLS = frozenset({None, "", "file", "local"})
S3_PROTOCOLS = frozenset({"s3", "s3a"})
GCS_PROTOCOLS = frozenset({"gs", "gcs"})
AZURE_PROTOCOLS = frozenset({"az", "abfs", "abfss"})
BUCKET_PROTOCOLS = S3_PROTOCOLS | GCS_PROTOCOLS | AZURE_PROTOCOLS
WEB_PROTOCOLS = frozenset({"http", "https"})
ONCE_PROTOCOLS = GCS_PROTOCOLS | AZURE_PROTOCOLS  # whose classes below take `once`


def split_protocol(uri: str) -> tuple[str | None, str]:
    """The protocol and the rest; data:x.parquet is a path, which fsspec would split."""
    if "://" not in uri and "::" not in uri:
        return None, uri
    from fsspec.core import split_protocol  # takes a moment to import, and a local job needs none

    protocol, rest = split_protocol(uri)
    return protocol, str(rest)


@dataclass(frozen=True, slots=True)
class Client:
    """What hints say of one kind of store."""

    container: str = "bucket"
    credentials: str = ""  # in the environment
    endpoint: str = ""


S3 = Client(
    credentials="S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role",
    endpoint="S3: AWS_ENDPOINT_URL",
)
GCS = Client(
    credentials="GCS: GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login` "
    "or the machine's service account",
    endpoint="GCS: STORAGE_EMULATOR_HOST",
)
AZURE = Client(
    container="container",
    credentials="Azure: AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with "
    "AZURE_STORAGE_ACCOUNT_KEY, a managed identity or AZURE_STORAGE_SAS_TOKEN, which expires",
    endpoint="Azure: AZURE_STORAGE_CONNECTION_STRING",
)
_CLIENTS = {
    **dict.fromkeys(S3_PROTOCOLS, S3),
    **dict.fromkeys(GCS_PROTOCOLS, GCS),
    **dict.fromkeys(AZURE_PROTOCOLS, AZURE),
}


def client_of(uri: str) -> Client:
    """The client of the store that `uri` is on."""
    return _CLIENTS.get(split_protocol(uri)[0] or "", Client())


@cache
def register() -> None:
    """Give fsspec our own classes where the packages' are not what the store counts on.

    They are imported when a store is opened, since the packages are optional. Called before each
    use of fsspec that opens one.
    """
    import fsspec

    ours = dict.fromkeys(GCS_PROTOCOLS, ("pipeline.store.gcs_client", "GcsClient", "gcsfs"))
    ours |= dict.fromkeys(AZURE_PROTOCOLS, ("pipeline.store.azure_client", "AzureClient", "adlfs"))
    for protocol, (module, name, package) in ours.items():
        fsspec.register_implementation(protocol, f"{module}.{name}", True, f"{package} is missing")
        if protocol in fsspec.registry:  # someone opened one before: a name replaces no class
            found = getattr(import_module(module), name)
            fsspec.register_implementation(protocol, found, clobber=True)


def spelling_hint(uri: str) -> str:
    """What to do about a URI that does not exist."""
    container = client_of(uri).container
    return f"check the spelling, or create the {container}{configured().note(uri)}"


def access_hint(uri: str) -> str:
    """What to do about a store that refuses."""
    if split_protocol(uri)[0] in LOCAL_PROTOCOLS:
        return "check the owner and mode of the file and of the directories above it"
    return (
        f"check the credentials{_unless_configured(uri, client_of(uri).credentials)} and that "
        f"they may list, read and write there{configured().note(uri)}"
    )


def options_hint(uri: str) -> str:
    """What to do about a client that cannot be made."""
    where = _unless_configured(uri, client_of(uri).credentials)
    return f"check the options of the store{where}{configured().note(uri)}"


def retry_hint(uri: str) -> str:
    """What to do about a store that does not work."""
    if split_protocol(uri)[0] in LOCAL_PROTOCOLS:
        return "check the disk, then run the same command again to resume"
    return (
        f"check the network and the endpoint{_unless_configured(uri, client_of(uri).endpoint)}, "
        f"then run the same command again to resume{configured().note(uri)}"
    )


def _unless_configured(uri: str, variables: str) -> str:
    return f" ({variables})" if variables and not configured().section(uri) else ""
