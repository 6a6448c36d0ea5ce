"""Effects on this host: processes, sockets, signals, and the watch over all of them. Layer 3."""
