"""From a command line to an exit code, with one sentence for what went wrong."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence

from napari_cellrep.cli._parser import make_parser
from napari_cellrep.specs import InputError

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 bad input, 130 stopped, 1 a fault of ours)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    if not debug:  # what is wrong with a file is said by us, in a sentence
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        args = make_parser(argv).parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return OK
    except KeyboardInterrupt:
        if _speaks():
            print(
                "cellrep: stopped. What was finished is kept; run the same command to go on.", file=sys.stderr
            )
        return STOPPED
    except InputError as error:
        return _fail(str(error), BAD_INPUT, debug)
    except OSError as error:
        return _fail(
            f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", BAD_INPUT, debug
        )
    except Exception as error:  # noqa: BLE001  (a person at a terminal gets a sentence, not a stack)
        text = f"something went wrong that should not have ({type(error).__name__}: {error}); --debug shows where."
        return _fail(text, FAILED, debug)
    return OK


def _fail(sentence: str, code: int, debug: bool) -> int:
    if not _speaks():
        return code
    if debug:
        traceback.print_exc()
    print(f"cellrep: {sentence}", file=sys.stderr, flush=True)
    return code


def _speaks() -> bool:
    """Whether this process says how it ended: of those that torchrun started, the first one to end so."""
    if "LOCAL_RANK" not in os.environ:
        return True
    from napari_cellrep.models._processes import first_to_fail

    return first_to_fail()
