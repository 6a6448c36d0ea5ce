"""The image builder behind `make image/...`: needs the docker client, and no registry."""
