"""The flags of ``slipway convert``, apart from what does the work: ``slipway --help`` needs no NumPy."""

import argparse

FORMS = (
    "folders", "pairs", "tar", "recordio-image", "recordio-protobuf", "tfrecord", "parquet", "csv", "tsv", "jsonlines",
    "npy",
)  # fmt: skip
"""What can be written."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("source", metavar="SOURCE", nargs="?", help="a directory, a file, a .lst, or an index of `slipway index`")
    add("--to", choices=FORMS, help="form of the output")
    add("--out", metavar="DIR", help="the output; one that was cut off is gone on with")
    add("--content-type", default="", metavar="TYPE", help="of the source (default: by its first bytes)")
    add("--root", metavar="DIR", help="where the images of an index or a .lst lie")
    cut = parser.add_argument_group("shards and order")
    add = cut.add_argument
    add("--shard-mb", type=float, default=128, metavar="MB", help="about this size for each (default 128)")
    add("--shards", type=int, metavar="N", help="this number instead, for each split")
    add("--shuffle", action="store_true", help="write the samples in a random order, the same for the same seed")
    add("--seed", type=int, default=0, help="of the order (default 0)")
    add("--by-label", action="store_true", help="shards of one label each, in a directory for each label")
    add("--split", metavar="NAME=PART,...", help="such as train=0.9,validation=0.1: by a hash of each sample's key")
    images = parser.add_argument_group("images")
    add = images.add_argument
    add("--short-edge", type=int, default=0, metavar="PIXELS", help="shrink larger images to this short edge")
    add("--center-crop", action="store_true", help="cut the middle square of --short-edge")
    add("--quality", type=int, default=92, metavar="Q", help="of images that are encoded anew (default 92)")
    add("--image-format", default="keep", choices=("keep", "jpg", "png", "webp"), help="encode others anew")
    add("--decode", action="store_true", help="decode every image, so that damaged ones are found")
    fields = parser.add_argument_group("fields and labels")
    add = fields.add_argument
    for role in ("label", "image", "text", "key"):
        add(f"--{role}-field", default="", metavar="NAME", help=f"field that is the {role}")
    add("--drop", action="append", default=[], metavar="NAME", help="leave a field out (repeatable)")
    add("--labels", metavar="FILE", help="names to numbers: JSON, or a name on each line (default: sorted names)")
    add("--lst", metavar="DIR", help="write a .lst of each split to this directory, as a channel of its own")
    matrix = fields.add_mutually_exclusive_group()
    matrix.add_argument("--sparse", action="store_true", help="write vectors without their zeros")
    matrix.add_argument("--dense", action="store_true", help="write vectors with their zeros")
    add("--dtype", default="float32", choices=("float32", "float64"), help="of numbers that come as text or JSON")
    add("--header", default="auto", choices=("auto", "yes", "no"), help="names of columns in CSV that is written")
    add("--names", default="key", choices=("key", "number"), help="names of samples in the output")
    work = parser.add_argument_group("work")
    add = work.add_argument
    add("--on-bad", default="raise", choices=("raise", "skip"), help="a sample that cannot be converted")
    add("--processes", default="auto", metavar="N", help="default: one for each CPU that this job may use")
    add("--share", metavar="K/N", help="do part K of N, for hosts side by side; auto: by this job's hosts")
    add("--merge", nargs="+", metavar="DIR", help="make --out of the parts that were made with --share")
    add("--verify", metavar="DIR", help="check what was converted against its manifest")
    add("--plan", action="store_true", help="print what would be made; make nothing")
    add("--json", action="store_true", help="print the result as one JSON object")
