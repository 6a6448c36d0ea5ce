"""A stand-in for docker-compose, so that local mode of an unmodified SageMaker SDK runs through our platform.

Both SDKs write a compose file and every host's configuration, call ``docker-compose -f FILE up ...``, and collect what
lies in the directories that the file mounts. Here the hosts get a network of their own, the job ends when *all* hosts
have ended, causes and logs are kept, each host has a model directory of its own that is merged at the end, and what
`slipway run` can do is had by flags in the variable ``SLIPWAY_RUN_FLAGS``.
"""
