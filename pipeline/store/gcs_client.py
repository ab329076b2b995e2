"""gcsfs where it is not what the store counts on; fsspec takes this class for gs:// and gcs://."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientTimeout
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError


class GcsClient(GCSFileSystem):  # type: ignore[misc]
    """GCS over its JSON API alone: gRPC, which gcsfs mixes in, does not survive a fork.

    With `once`, a request is not repeated: gcsfs tries six times, and logs a traceback at the end.
    """

    def __init__(self, *args: Any, once: bool = False, **kwargs: Any) -> None:
        self._once = once
        # aiohttp's own is five minutes for all of a request.
        kwargs.setdefault("requests_timeout", ClientTimeout(sock_connect=10, sock_read=30))
        super().__init__(*args, **kwargs)

    async def _request(self, *args: Any, **kwargs: Any) -> Any:
        request = GCSFileSystem._request
        try:
            return await (request.__wrapped__ if self._once else request)(self, *args, **kwargs)
        except ValueError as error:  # gcsfs' word for some answers with status 400
            raise HttpError({"code": 400, "message": str(error)}) from None
