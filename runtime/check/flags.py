"""The command line of ``slipway check``; apart from what it does, so that ``slipway --help`` is quick."""

from __future__ import annotations

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="any image that the engine has")
    parser.add_argument("--kind", choices=("training", "processing"), default="training")
    parser.add_argument(
        "--only", action="append", default=[], metavar="CLAUSE", help="and what it rests on; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="print every clause with its reason; checks nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit's XML too")
    parser.add_argument("--strict", action="store_true", help="a warning gives exit status 1 too")
    job = parser.add_argument_group("the job of an image that runs an algorithm of its own")
    job.add_argument("--job", metavar="REQUEST.json", help="a CreateTrainingJob or CreateProcessingJob request")
    job.add_argument("--hp", action="append", default=[], metavar="KEY=VALUE")
    job.add_argument("--channel", action="append", default=[], metavar="NAME=PATH")
    job.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    job.add_argument("--failing-hp", action="append", default=[], metavar="KEY=VALUE", help="with it the job must fail")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--deadline", type=float, default=60.0, metavar="S", help="for each container; default 60")
    limits.add_argument(
        "--grace", type=int, default=30, metavar="S", help="after SIGTERM; default 30, the platform: 120"
    )
    limits.add_argument("--max-size", type=float, default=20.0, metavar="GB", help="default 20")
