"""Memory of the daemon: what threads leave behind when their buffers are gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEFT_KIB_MAX = 8 * 1024
PROGRAM = """
import ctypes, threading
from gsfs import memory

def anonymous_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

if not memory.share_one_arena():
    print("other")
    raise SystemExit
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
together = threading.Barrier(4)
stay = []

def move(pins):
    for _ in range(3):  # glibc raises its limits as it sees large blocks come and go
        together.wait()
        buffer = libc.malloc(8 << 20)
        ctypes.memset(buffer, 1, 8 << 20)
        if pins:  # something behind the buffer: it cannot shrink away
            stay.append(libc.malloc(100_000))
        together.wait()
        libc.free(buffer)

before = anonymous_kib()
threads = [threading.Thread(target=move, args=[number < 2]) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
memory.give_back()
print(anonymous_kib() - before)
"""


def test_what_threads_had_at_their_peak_is_given_back() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    if answer.stdout.strip() == "other":
        pytest.skip("the C library is not glibc")
    assert int(answer.stdout) < LEFT_KIB_MAX
