"""What lets the hosts of a job use S3."""

from dataclasses import dataclass


@dataclass(frozen=True)
class S3Grant:
    """What a container needs to use S3 as we do; never written to a file or a log."""

    environ: dict[str, str]
    """Credentials and region."""
    endpoint: str = ""
    """Of the user's own; empty: AWS."""

    def __repr__(self) -> str:
        return f"S3Grant(endpoint={self.endpoint!r})"

    def variables(self, endpoint: str) -> dict[str, str]:
        """Return the variables of a container.

        Args:
            endpoint: address under which it finds `endpoint`.
        """
        if not endpoint:
            return self.environ
        return {**self.environ, "AWS_ENDPOINT_URL_S3": endpoint, "S3_ENDPOINT_URL": endpoint}
