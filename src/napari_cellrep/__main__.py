"""``python -m napari_cellrep`` is the command ``cellrep``."""

import sys

from napari_cellrep.cli import main

if __name__ == "__main__":
    sys.exit(main())
