"""The command line in processes of its own that begin with the libraries imported: forks of one clean interpreter.

Such a process has files, signals, exit code, folder, environment and terminal of its own, as if it had been started by a
shell, and is there in a moment where an interpreter imports for eight seconds. It differs in one thing: what a library
reads from the environment while it is imported was read before. A test of that starts an interpreter.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import chdir
from multiprocessing import forkserver, get_context, reduction
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.imported"])


class Started:
    """A process, with what tests use of `subprocess.Popen`."""

    def __init__(self, process):
        self._process, self.pid = process, process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("fedlora", timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class _Passed:
    """A file descriptor on its way into the new process."""

    def __init__(self, number):
        self.number = number

    def __getstate__(self):
        return reduction.DupFd(self.number)

    def __setstate__(self, duplicate):
        self.number = duplicate.detach()


def start(*words, stdin, stdout, stderr, cwd=None, **environment):
    """Begin `fedlora WORDS` with these file descriptors, or with those of the tests where None; returns at once."""
    with pytest.MonkeyPatch.context() as patch, chdir(ROOT):  # where `tests.imported` is found
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
        env = {**os.environ, **environment}
    files = [None if number is None else _Passed(number) for number in (stdin, stdout, stderr)]
    process = _CONTEXT.Process(target=_command_line, args=(list(map(str, words)), str(cwd or Path.cwd()), env, files))
    process.start()
    return Started(process)


def run(*words, cwd=None, **environment):
    """Run `fedlora WORDS` to its end, with stdout and stderr piped, like `subprocess.run`."""
    said = [b"", b""]  # stdout and stderr

    def listen(place, end):
        with os.fdopen(end, "rb") as file:
            said[place] = file.read()

    ends = [os.pipe(), os.pipe()]
    process = start(*words, stdin=None, stdout=ends[0][1], stderr=ends[1][1], cwd=cwd, **environment)
    listeners = []
    for place, (reading, writing) in enumerate(ends):
        os.close(writing)
        listeners.append(threading.Thread(target=listen, args=(place, reading)))
        listeners[-1].start()
    for listener in listeners:
        listener.join()
    return subprocess.CompletedProcess(["fedlora", *words], process.wait(), *(part.decode() for part in said))


def _command_line(words, folder, environment, files):
    """In the new process: what an interpreter does before it begins, and then the command line."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for place, file in enumerate(files):
        if file:
            os.dup2(file.number, place)
            os.close(file.number)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = ["fedlora", *words]
    from fedlora import cli

    cli.main()
