"""S3 for the local platform: inputs, outputs and checkpoints of a job, and what its containers need to reach it.

Everything that the rest of the package knows of boto3 stands in `client`; it is imported on first use. Any endpoint
that speaks S3 will do.
"""

from runtime.local.s3.uri import S3Uri, is_s3, parse_s3_uri

__all__ = ["S3Uri", "is_s3", "parse_s3_uri"]
