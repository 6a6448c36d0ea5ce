"""The flags of ``slipway inspect``, apart from what does the work: ``slipway --help`` needs no NumPy."""

import argparse

SECONDS = 6.0
"""Default bound of the look."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("what", metavar="PATH|CHANNEL", help="directory, file, s3:// prefix, checkpoints, index, or a job's channel")
    add("--content-type", default="", metavar="TYPE", help="as the channel would have it, such as 'text/csv'")
    add("--seconds", type=float, default=SECONDS, metavar="S", help=f"longest look (default {SECONDS:g})")
    add("--show", type=int, default=3, metavar="N", help="samples to show (default 3)")
    add("--json", action="store_true", help="print the result as one JSON object")
    advise = parser.add_argument_group("--advise: seconds before step 1, MB/s and cost of each input mode")
    advise.add_argument("--advise", action="store_true")
    advise.add_argument("--hosts", type=int, default=1, metavar="N")
    advise.add_argument("--instance", default="", metavar="TYPE", help="such as ml.g5.2xlarge")
    advise.add_argument("--epochs", type=float, default=1.0, metavar="N")
    advise.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes per host (default 8)")
    advise.add_argument(
        "--device-samples-per-s", type=float, default=0.0, metavar="X", help="that one host trains when data waits"
    )
    advise.add_argument("--price", type=float, default=0.0, metavar="USD", help="of one host for one hour")
    advise.add_argument("--prices", default="", metavar="FILE", help="a price file of your own")
