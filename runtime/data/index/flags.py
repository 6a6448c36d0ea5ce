"""The flags of ``slipway index``, apart from what does the work: ``slipway --help`` needs no NumPy."""

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("root", metavar="TREE", nargs="?", help="directory whose images are indexed")
    add("--out", metavar="DIR", required=True, help="the index; one that is there is brought up to date")
    add(
        "--kind",
        default="auto",
        choices=("auto", "pairs", "labels", "images"),
        help="captions beside images, label folders, or images alone (default: as the first directory looks)",
    )
    add("--caption-suffix", default=".txt", metavar=".EXT", help="the caption of a.jpg is in a.EXT (default .txt)")
    add("--headers", action="store_true", help="look at each image's first bytes: it must be one; width and height")
    add("--processes", default="auto", metavar="N", help="default: one for each CPU that this job may use")
    add("--share", metavar="K/N", help="build part K of N, for hosts and jobs side by side; auto: by this job's hosts")
    add("--recheck", action="store_true", help="read all again: files that were changed in place do not show else")
    add("--merge", nargs="+", metavar="DIR", help="make --out of the parts that were built with --share")
    add("--parquet", metavar="FILE", help="write the rows to a Parquet file too")
    add("--strict", action="store_true", help="fail when any image gets no row")
    add("--json", action="store_true", help="print the result as one JSON object")
