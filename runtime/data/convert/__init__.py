"""Any form of a dataset into any other: ``slipway convert``.

What comes out is a function of the source, the options and the seed: not of the number of processes, hosts or
interruptions. A plan cuts the order of samples into shards; every shard is made alone, under a name of its own, and
gets its final name when it is whole.
"""
