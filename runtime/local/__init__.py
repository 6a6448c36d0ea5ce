"""The local platform: runs the job descriptions of the service on a developer's machine."""
