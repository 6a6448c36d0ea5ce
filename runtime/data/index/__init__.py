"""Indexes of trees of images: built over many processes and hosts, kept up to date, read by mmap.

`runtime.data.index.reader.Index` reads one; ``slipway index`` builds one.
"""
