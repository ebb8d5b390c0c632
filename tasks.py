"""Set up and run: ``python3.11 tasks.py demo`` or ``python3.11 tasks.py test``. Standard library only.

Makes ``.venv`` beside this file with everything in it, then

- ``demo [OUT]``: runs the main job on the bundled sample; where there is a screen, opens napari on the result;
- ``test``: lint, types, import contracts, the everyday tests and the slow ones (``test --quick``: no slow ones);
- ``setup``: only the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")

# What Qt and OpenGL need on a bare Debian or Ubuntu; desktop systems have them.
APT = (
    "xvfb xauth libgl1 libgl1-mesa-dri libegl1 libglib2.0-0 libdbus-1-3 libfontconfig1 fonts-dejavu-core "
    "libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0 libgssapi-krb5-2"
)


def run(*command: object, **env: str) -> None:
    """Run a command; end with its exit code when it fails."""
    print("$", *command, flush=True)
    code = subprocess.call([str(c) for c in command], cwd=HERE, env={**os.environ, **env})
    if code:
        sys.exit(code)


def setup(extra: str) -> None:
    """Make the environment, or bring it up to date."""
    if sys.version_info < (3, 11):  # noqa: UP036  (an older Python may well be what starts this file)
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", VENV)
    target = f".[{extra}]"
    constraints = HERE / "ci" / "constraints.txt"
    # torch first and pinned: a machine without a GPU gets the build at hand instead of gigabytes of CUDA.
    run(
        PYTHON,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-c",
        constraints,
        "torch",
        "-e",
        target,
    )


def has_screen() -> bool:
    """Whether a window could be shown."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def virtual_screen() -> None:
    """Install a virtual screen where there is none: on a bare Debian or Ubuntu, when we may."""
    if has_screen() or not sys.platform.startswith("linux") or shutil.which("Xvfb"):
        missing_gl = sys.platform.startswith("linux") and not _has_library("libxcb-cursor.so.0")
        if not missing_gl:
            return
    if shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", **quiet)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *APT.split(), **quiet)
    else:
        sys.exit(f"The window's tests need a screen. Install a virtual one and try again: {APT}")


def _has_library(name: str) -> bool:
    import ctypes

    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def demo(out: str) -> None:
    """Run the main job; open napari on the result where there is a screen."""
    setup("gui")
    view = ["--view"] if has_screen() and "CI" not in os.environ else []
    run(BIN / "cellrep", "demo", out, *view)


def test(quick: bool) -> None:
    """Everything that has to be green."""
    virtual_screen()
    setup("dev")
    run(BIN / "ruff", "check", ".")
    run(BIN / "ruff", "format", "--check", ".")
    run(BIN / "lint-imports")
    run(BIN / "mypy")
    # Tests share the processes as they come; each process has a virtual screen of its own (pytest-xvfb).
    processes = min(4, max(2, os.cpu_count() or 1))
    which = "not slow" if quick else "slow or not slow"
    run(PYTHON, "-m", "pytest", "-q", "-m", which, "-n", processes, OMP_NUM_THREADS="1")


def main() -> None:
    """Parse the one word."""
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    match words:
        case ["setup"]:
            setup("dev")
        case ["demo", *out]:
            demo(out[0] if out else "demo-out")
        case ["test"]:
            test("--quick" in sys.argv)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
