"""Trees of images with captions, for tests."""

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from runtime.data.index.files import Files, Listing


def jpeg(width: int = 20, height: int = 10) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 30)).save(stream, "JPEG")
    return stream.getvalue()


def add_pair(root: Path, name: str, caption: str | bytes | None = None, image: bytes | None = None) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg() if image is None else image)
    text = f"a picture of {name}" if caption is None else caption
    path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def grow(root: Path, directories: int, each: int) -> None:
    image = jpeg()
    for directory in range(directories):
        for number in range(each):
            add_pair(root, f"{directory:03d}/{number:04d}.jpg", image=image)


class SlowFiles(Files):
    """Every request takes `delay_s`; counts them, and how many were under way at one time."""

    delay_s = 0.002
    requests = 0
    under_way = 0
    most = 0
    read_names: ClassVar[list[str]] = []
    _lock = threading.Lock()

    @classmethod
    def reset(cls) -> None:
        cls.requests = cls.under_way = cls.most = 0
        cls.read_names = []

    def _request(self, count: int = 1) -> None:
        cls = SlowFiles
        with cls._lock:
            cls.requests += count
            cls.under_way += 1
            cls.most = max(cls.most, cls.under_way)
        time.sleep(self.delay_s * count)
        with cls._lock:
            cls.under_way -= 1

    def open_directory(self, path: str) -> int:
        self._request()
        return super().open_directory(path)

    def changed_ns(self, path: str) -> int:
        self._request()
        return super().changed_ns(path)

    def look(self, directory: int) -> Listing:
        self._request(2)
        return super().look(directory)

    def read(self, directory: int, names: Sequence[str], limit: int) -> list[bytes | OSError]:
        found: list[bytes | OSError] = []
        for name in names:
            self._request(3)
            SlowFiles.read_names.append(name)
            found += super().read(directory, [name], limit)
        return found


class CountedFiles(SlowFiles):
    """Counts requests, and slows none."""

    delay_s = 0.0
