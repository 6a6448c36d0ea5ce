"""What lies in a tree, where nobody has said it."""

import os
from pathlib import Path

from runtime.base.errors import UserError
from runtime.data.index.files import Files
from runtime.data.index.rows import Kind
from runtime.data.index.scan import IMAGE_SUFFIXES


def guess_kind(root: Path, files: Files | None = None) -> tuple[Kind, str]:
    """Guess what lies in a tree, from the first directory with images.

    Returns:
        ``pairs``, ``labels`` or ``images``, and the reason.

    Raises:
        UserError: no image is there.
    """
    tree = files or Files(str(root))
    waiting = [""]
    looked = 0
    while waiting:
        directory = waiting.pop()
        handle = tree.open_directory(directory)
        try:
            listing = tree.look(handle)
        finally:
            os.close(handle)
        looked += 1
        images = [name for name in listing.names if name.lower().endswith(IMAGE_SUFFIXES)]
        if images:
            captions = {name[: -len(".txt")] for name in listing.names if name.endswith(".txt")}
            paired = sum(name[: name.rindex(".")] in captions for name in images)
            where = f"{paired} of {len(images)} images in {directory or '.'} have a .txt beside them"
            if paired * 2 > len(images):
                return "pairs", where
            return ("labels" if directory else "images"), where
        waiting += sorted((f"{directory}/{name}" if directory else name for name in listing.directories), reverse=True)
    raise UserError(f"{root} holds no images in {looked} directories", allowed=", ".join(IMAGE_SUFFIXES))
