# SPDX-License-Identifier: Apache-2.0
"""Every exception that fedlora raises on purpose.

::

    FedloraError
    |-- UserError           the input was wrong: one plain sentence, exit code 2
    |   |-- ConfigError     a key of the config, a command-line argument
    |   |-- DataError       data files, columns, labels, splits
    |   |-- ModelError      bases, targets, adapters on disk
    |   |-- MethodError     a method and what is asked of it do not fit
    |   |-- RunFolderError  a run folder that is in the way, foreign or damaged
    |   `-- DivergedError   training left the finite numbers at so many clients that a round failed
    |-- QuorumError         too few clients took part in a round
    |-- ReportError         a page that could not be drawn or written
    |-- PayloadError         bytes that are no payload, or contents that were not ordered
    `-- StateLostError     a client no longer holds what an order builds on

The message of a `UserError` says what was wrong and where, the value got, what was expected and what
to do. This file stands below every floor and imports nothing but the standard library.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FedloraError(Exception):
    """The root of all that fedlora raises on purpose."""


class UserError(FedloraError):
    """The input was wrong. The message is one sentence for the person at the keyboard."""


class ConfigError(UserError):
    """A key of the config or a command-line argument."""


class DataError(UserError):
    """Data files, columns, labels or splits."""


class ModelError(UserError):
    """Bases, targets or adapters on disk."""


class MethodError(UserError):
    """A method and what is asked of it do not fit together."""


class RunFolderError(UserError):
    """A run folder that is in the way, belongs to another run or is damaged."""


class DivergedError(UserError):
    """Training left the finite numbers at so many clients that a round failed."""


class QuorumError(FedloraError):
    """Fewer clients than the quorum took part in a round. The state before the round is whole: a run can be resumed."""


class ReportError(FedloraError):
    """A page that could not be drawn or written; the runs that it tells of are as they were."""


class PayloadError(FedloraError):
    """Bytes that are no payload, a value that cannot travel, or contents that were not ordered."""


class StateLostError(FedloraError):
    """A client was sent only what changed but no longer holds the rest."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence about an unknown name: the closest known one, or all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of: {', '.join(names)}."
