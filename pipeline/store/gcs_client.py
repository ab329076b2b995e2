"""gcsfs where it is not what the store counts on; fsspec takes this class for gs:// and gcs://."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientTimeout
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError


class GcsClient(GCSFileSystem):  # type: ignore[misc]
    """GCS over its JSON API alone: gRPC, which gcsfs mixes in, does not survive a fork."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # aiohttp's own is five minutes for all of a request.
        kwargs.setdefault("requests_timeout", ClientTimeout(sock_connect=10, sock_read=30))
        super().__init__(*args, **kwargs)

    async def _request(self, *args: Any, **kwargs: Any) -> Any:
        """One request; gcsfs' own tries six times, and logs a traceback when it gives up."""
        try:
            return await GCSFileSystem._request.__wrapped__(self, *args, **kwargs)
        except ValueError as error:  # gcsfs' word for some answers with status 400
            raise HttpError({"code": 400, "message": str(error)}) from None
