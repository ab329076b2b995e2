"""xz, which pyarrow does not read. `lzma.LZMAFile` drops what follows a damaged stream silently."""

from __future__ import annotations

from lzma import FORMAT_XZ, LZMADecompressor, LZMAError

from pipeline.store.directory import OpenedFile

_BLOCK_BYTES = 1 << 20
# Four times what xz -9 needs; a file may ask for any amount.
_MEMORY_BYTES = 256 << 20


class XzStream:
    """The text of an xz file of one or more streams, read forwards."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        self._unread = b""
        self._decoder: LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end.

        Raises:
            OSError, EOFError: it is damaged, truncated, or needs too much memory.
        """
        try:
            return self._read(size)
        except LZMAError as error:
            raise OSError(f"xz: {error}") from error

    def _read(self, size: int) -> bytes:
        while decoder := self._decoder or self._next_stream():
            data = b""
            if decoder.needs_input and not (data := self._take()):
                raise EOFError("Truncated compressed stream")
            text = decoder.decompress(data, size)
            if decoder.eof:
                self._unread, self._decoder = decoder.unused_data, None
            if text:
                return text
        return b""

    def _take(self) -> bytes:
        data, self._unread = self._unread or self._file.read(_BLOCK_BYTES), b""
        return data

    def _next_stream(self) -> LZMADecompressor | None:
        while data := self._take():
            if data := data.lstrip(b"\0"):  # padding between streams
                self._unread = data
                self._decoder = LZMADecompressor(FORMAT_XZ, _MEMORY_BYTES)
                break
        return self._decoder
