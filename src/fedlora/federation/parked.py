# SPDX-License-Identifier: Apache-2.0
"""Answers that came before their turn: one client that is late would otherwise fill the memory with all the others."""

import tempfile
from contextlib import suppress
from dataclasses import replace
from typing import IO

from fedlora.core.payload import from_bytes, to_bytes, walk_tensors
from fedlora.core.rounds import Failure, Reply
from fedlora.errors import PayloadError

MOST_HELD = 256 * 2**20
"""Bytes of tensors that are kept in memory; what goes beyond lies in files without a name until its turn."""


class Parked:
    """Answers by client, of each one.

    Args:
        most: bytes of tensors that are kept in memory.
    """

    def __init__(self, most: int = MOST_HELD) -> None:
        self._most, self._held = most, 0
        self._answers: dict[str, Reply | Failure] = {}
        self._files: dict[str, IO[bytes]] = {}
        """Of those whose payload lies on disk."""

    def __contains__(self, client: str) -> bool:
        return client in self._answers

    def put(self, answer: Reply | Failure) -> None:
        """Keep an answer until its turn."""
        self._answers[answer.client] = answer
        if isinstance(answer, Failure):
            return
        size = _size(answer)
        if self._held + size <= self._most:
            self._held += size
        else:
            with suppress(OSError, PayloadError):  # no room on the disk, or no payload: then it stays in memory
                self._files[answer.client] = _written(to_bytes(answer.payload))
                self._answers[answer.client] = replace(answer, payload={})

    def pop(self, client: str) -> Reply | Failure | None:
        """A client's answer, as it came, to bit and type; None: there is none."""
        answer, file = self._answers.pop(client, None), self._files.pop(client, None)
        if isinstance(answer, Failure) or answer is None:
            return answer
        if file is None:
            self._held -= _size(answer)
            return answer
        with file:
            return replace(answer, payload=from_bytes(file.read()))

    def close(self) -> None:
        """Let go of what nobody has asked for."""
        for file in self._files.values():
            file.close()
        self._answers, self._files = {}, {}


def _size(reply: Reply) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in walk_tensors(reply.payload))


def _written(data: bytes) -> IO[bytes]:
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed, and gone, when its turn has come
    file.write(data)
    file.seek(0)
    return file
