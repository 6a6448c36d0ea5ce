"""Channels to batches: what is in a channel, in which order it is read, and where we are in it."""
