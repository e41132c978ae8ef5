"""What processes use, from /proc (Linux): CPU time, which other work hardly changes, and memory."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int | None = None) -> float:
    """CPU time of a process and all its threads, in its code and in the kernel; own: None."""
    told = Path(f"/proc/{pid or 'self'}/stat").read_text()
    # The name in parentheses may hold anything; utime and stime are the 14th and 15th field.
    user, system = told.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * _TICK_S


def resident(pid: int | None = None) -> int:
    """Resident bytes of a process; own: None."""
    return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * _PAGE
