"""What gives a job its channels other than as a directory: Pipe's FIFOs, FastFile's mounts, manifests, shards."""
