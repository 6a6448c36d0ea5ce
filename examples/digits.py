"""Write the 1,797 real handwritten digits that ship with scikit-learn as PNG label folders."""

import sys
from pathlib import Path

VALIDATION_EVERY = 5
"""Each fifth image validates: 1,437 for training, 360 for validation."""


def write_digits(directory: Path) -> Path:
    """Write ``train/<label>/<number>.png`` and ``validation/<label>/<number>.png``.

    Args:
        directory: made when missing; files in it are written anew.

    Returns:
        `directory`.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)  # [1797, 8, 8]; the source has 17 grey levels
    for number, (image, label) in enumerate(zip(images, bunch.target, strict=True)):
        channel = "validation" if number % VALIDATION_EVERY == 0 else "train"
        folder = directory / channel / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    return directory


if __name__ == "__main__":
    sys.stdout.write(f"{write_digits(Path(sys.argv[1]))}\n")
