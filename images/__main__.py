"""`python -m images`: build the images of images.toml and show their sizes."""

import argparse
import sys
from collections.abc import Sequence

from images.build import Workplace, build
from images.catalog import HOME, Catalog, read_catalog
from images.engine import Engine
from images.quiet import StepFailed
from runtime.base.errors import ExitCode, UserError


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("build", help="build one image as slipway-NAME:FLAVOUR")
    one.add_argument("name", help="key of images/images.toml")
    one.add_argument("--flavour", default="cpu", help="cpu or cuda (default: cpu)")
    one.add_argument(
        "--base",
        default="",
        help="image with the right Python to build on; 'default' pulls the one pinned in the Dockerfile"
        " (without --base: a Debian tree made by mmdebstrap, which needs no registry)",
    )
    commands.add_parser("sizes", help="show the sizes of the built images; 1 when one is above its budget")
    return top


def sizes(catalog: Catalog, engine: Engine) -> bool:
    """Print a table; return whether every built image keeps its budget."""
    print(f"{'image':<28}{'MB':>9}{'budget':>8}")
    kept = True
    for image in catalog.images.values():
        for flavour in image.flavours.values():
            size = engine.size_mb(image.tag(flavour.name))
            over = size is not None and size > flavour.max_mb
            kept = kept and not over
            shown = "not built" if size is None else f"{size:.0f}"
            verdict = "  above its budget" if over else ""
            print(f"{image.tag(flavour.name):<28}{shown:>9}{flavour.max_mb:>8}{verdict}")
    return kept


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 when it failed.
    """
    arguments = parser().parse_args(argv)
    place = Workplace(HOME.parent, HOME.parent / ".cache")
    try:
        catalog = read_catalog()
        if arguments.command == "sizes":
            return 0 if sizes(catalog, Engine.connect(place.logs)) else int(ExitCode.USER_ERROR)
        build(
            arguments.name,
            arguments.flavour,
            arguments.base,
            catalog,
            place,
            lambda line: print(line, flush=True),
        )
        return 0
    except StepFailed as error:
        print(f"images: {error}\n--- its whole log:\n{error.output}", file=sys.stderr)
    except UserError as error:
        print(f"images: {error}", file=sys.stderr)
    return int(ExitCode.USER_ERROR)


if __name__ == "__main__":
    sys.exit(main())
