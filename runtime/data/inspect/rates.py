"""What modes and storage of the service do in a second: each figure with its source, or marked as unverified."""

MB = 1e6
GB = 1e9
SHARD_BYTES = 150 * MB
"""AWS's advice for a container file."""
SMALL_OBJECT = 50 * MB
"""AWS: below this size of an object, the download takes longer than its bytes."""
DOWNLOAD_MB_S = 167.0
"""AWS: 50 GB in shards of 100 MB come in about 5 minutes."""
DOWNLOAD_OBJECTS_S = 300.0
"""Objects that File mode fetches in a second, however small. Unverified."""
LIST_OBJECTS = 1000
LIST_S = 0.1
"""Seconds for one request that lists `LIST_OBJECTS`. Unverified."""
GET_S = 0.04
"""First byte of an object of S3. Unverified."""
STREAM_MB_S = 80.0
"""One stream from S3. Unverified."""
HOST_MB_S = 1200.0
"""All streams of one host, about 10 Gbit/s: larger instances have more. Unverified."""
PIPE_MB_S = 300.0
"""One FIFO, fed by the service. A reader takes 2,000 (measured); what the service writes is unverified."""
PIPE_START_S = 5.0
"""Unverified."""
EFS_OPEN_S = 0.0017
"""A metadata request of a network file system, from the case study of 50M pairs; one open is two of them."""
EFS_HOST_MB_S = 500.0
"""One client of EFS. Unverified."""
FSX_START_S = 120.0
"""The "Downloading" phase with FSx took 2 minutes in the case study."""
FSX_OPEN_S = 0.0017
FSX_MB_S = 1978.0
"""455 MB in 0.23 s, loaded."""
FSX_COLD_MB_S = 91.0
"""455 MB in 5 s, the first time: loaded from S3 meanwhile."""
FSX_LEAST_GB = 1200.0
START_S = 2.0
"""To open what is there already."""
VOLUME_ROOM = 1.25
"""Of an instance's volume: the data, and room for what the job writes."""
