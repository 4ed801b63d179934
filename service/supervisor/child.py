"""Launcher of a supervised process: dies with its supervisor, then becomes the program.

    python -I -S child.py SUPERVISOR_PID PROGRAM ARGUMENT...

Run as a file, in an interpreter of its own, because nothing may run Python between fork and exec of a process with threads.
The death signal (Linux, prctl(2)) outlives the exec. It is SIGKILL: when the supervisor is gone nobody could follow up a SIGTERM.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its supervisor and exec the program."""
    supervisor, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor:  # it died before the signal was set
        sys.exit("the supervisor is gone")
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
