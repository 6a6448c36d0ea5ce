"""A bucket as those read it who feed a job while it runs: FIFOs and mounts."""

from runtime.local.inputs.objects import StoredObject
from runtime.local.s3.client import S3Client
from runtime.local.s3.uri import S3Object, S3Uri


class BucketStore:
    """The objects of one bucket, by key; for several threads."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        """Name the bucket; nothing is asked yet."""
        self._client = client
        self._bucket = bucket
        self._known: dict[str, S3Object] = {}

    def list(self, prefix: str) -> list[StoredObject]:
        """List what begins with a prefix, without the empty objects that stand for folders."""
        listed = self._client.objects(S3Uri(self._bucket, prefix))
        found = [item for item in listed if item.size or not item.key.endswith("/")]
        self._known |= {item.key: item for item in found}
        return [StoredObject(item.key, item.size, item.etag) for item in found]

    def stat(self, key: str) -> StoredObject:
        """Look at one object.

        Raises:
            UserError: it is not there.
        """
        item = self._known[key] = self._client.head(S3Uri(self._bucket, key))
        return StoredObject(item.key, item.size, item.etag)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Read a part of an object, as it was when it was first looked at; shorter at its end only.

        Raises:
            UserError: it has changed since, or is gone.
            PlatformError: S3 does not answer, or breaks off again and again.
        """
        if key not in self._known:
            self.stat(key)
        return self._client.read(self._bucket, self._known[key], offset, length)
