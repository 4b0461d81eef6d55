# SPDX-License-Identifier: Apache-2.0
"""The trunk: what the layers below the lowest adapted one give, computed once for every token and read from then on.

Nothing there changes from step to step, from client to client or from run to run. States of tokens that lie in the
cache lie there too, memory-mapped; those of other tokens, a site's own examples above all, are held in memory alone.
"""

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlora.core.adapter import AdapterSpec
from fedlora.core.machine import cores
from fedlora.training.bases.maps import encoder_of
from fedlora.training.bases.model import Base
from fedlora.training.cache import made_once, make_room
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.current_pass import Below
from fedlora.training.forward.packing import PackedEncoder, pack
from fedlora.training.forward.trial import agree, some_tokens
from fedlora.training.memory import available, is_out_of_memory

_CACHE = "trunk"
_FORM = 1
"""Of the files; another one is another entry of the cache."""
_TOKENS = 512
"""Tokens of a pass, about."""
_NUMPY = {torch.float32: "<f4", torch.float64: "<f8", torch.bfloat16: "<i2", torch.float16: "<f2"}
"""The types of states on disk; numpy has no bfloat16, so its bits stand for it."""
_NAMES = {"id2label", "label2id", "problem_type", "transformers_version", "architectures", "dtype"}
"""Keys of a model's config that the layers do not know."""


class NoTrunk(UserWarning):
    """States are not kept, so that every pass computes them."""


def new_trunk(
    base: Base,
    spec: AdapterSpec,
    encoder: PackedEncoder,
    *,
    device: str,
    gigabytes: float,
    announce: Callable[[str], None],
) -> "Trunk | None":
    """The trunk of a base under an adapter; None where there is none, or where the layers cannot be told apart.

    Args:
        base: the resident model.
        spec: the adapter.
        encoder: of the base.
        device: where the base is.
        gigabytes: what all states of a trainer may take, and all that lie in the cache; 0: nothing is kept.
        announce: is told in a sentence what is about to take a while.
    """
    layer = _lowest_layer(base, spec, encoder) if gigabytes > 0.0 else 0
    first = _tried(base.model, encoder, layer, device) if layer else None
    if first is None:
        return None
    return Trunk(base, encoder, layer, first, room=int(gigabytes * 1e9), device=device, announce=announce)


class Trunk:
    """The states below one layer, of every set of tokens that it is asked for. Several threads may ask at once.

    Args:
        base: the resident model.
        encoder: of the base.
        layer: the number of the lowest adapted layer.
        like: states of any tokens (tokens, width).
        room: the bytes that states may take.
        device: where the base is.
        announce: is told in a sentence what is about to take a while.
    """

    def __init__(
        self,
        base: Base,
        encoder: PackedEncoder,
        layer: int,
        like: Tensor,
        *,
        room: int,
        device: str,
        announce: Callable[[str], None],
    ) -> None:
        self.layer = layer
        """The number of the lowest adapted layer."""
        self._encoder, self._device, self._announce = encoder, device, announce
        self._width, self._dtype, self._size = like.shape[1], like.dtype, like.element_size()
        self._most = self._room = room
        self._identity = _identity(base, layer, like, device)
        self._alone = threading.Lock()
        self._held: dict[int, tuple[Tokens, NDArray[Any] | None]] = {}
        self._entries: set[str] = set()

    def below(self, tokens: Tokens, examples: Indices) -> Below | None:
        """What takes the place of the layers below, for some examples end to end; None: they have to be computed.

        Args:
            tokens: of all examples; the first time their states are made.
            examples: which of them, in order.
        """
        states = self.states(tokens)
        if states is None:
            return None
        rows = numpy.concatenate([states[tokens.starts[e] : tokens.starts[e + 1]] for e in examples.tolist()])
        return Below(self.layer, torch.from_numpy(rows).view(self._dtype).to(self._device)[None])

    def states(self, tokens: Tokens) -> NDArray[Any] | None:
        """The states of all tokens (tokens, width), made the first time; None: they are not kept."""
        held = self._held.get(id(tokens))
        if held is None:
            with self._alone:  # who comes second waits, and finds what the first has made
                held = self._held.get(id(tokens)) or (tokens, self._kept(tokens))
                self._held[id(tokens)] = held
        return held[1]

    def _kept(self, tokens: Tokens) -> NDArray[Any] | None:
        """The states, where they fit; one line where they do not."""
        needed = int(tokens.starts[-1]) * self._width * self._size
        if not needed:
            return None
        reason = self._obstacle(tokens, needed)
        if reason is None:
            try:
                states = self._from_disk(tokens, needed) if tokens.cached else self._in_memory(tokens)
            except (OSError, RuntimeError, MemoryError) as error:
                if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                    raise
                reason = f"cannot be kept ({(str(error) or type(error).__name__).splitlines()[0]})"
            else:
                self._room -= needed
                return states
        what = f"What lies below layer {self.layer}, the lowest adapted one, of {len(tokens):,} examples"
        warnings.warn(f"{what} {reason}: every pass computes it again.", NoTrunk, stacklevel=2)
        return None

    def _obstacle(self, tokens: Tokens, needed: int) -> str | None:
        """Why states of so many bytes cannot be kept, as the end of a sentence; None: they can."""
        if needed > self._room:
            most = f"train.trunk_cache_gb = {self._most / 1e9:g}"
            return f"takes {needed / 1e9:.2g} GB, and {most} leaves {self._room / 1e9:.2g} GB"
        free = None if tokens.cached else available()
        if free is not None and needed > free // 2:
            return f"takes {needed / 1e9:.2g} GB of memory, of which {free / 1e9:.2g} GB are free"
        return None

    def _from_disk(self, tokens: Tokens, needed: int) -> NDArray[Any]:
        """The states, memory-mapped from the cache.

        Raises:
            OSError: the cache cannot be written.
        """
        digest = hashlib.sha256(self._identity)
        digest.update(tokens.starts.tobytes() + tokens.ids.tobytes())
        entry = digest.hexdigest()
        self._entries.add(entry)
        folder = made_once(f"{_CACHE}/{entry}", partial(self._write, tokens, needed))
        os.utime(folder)  # the longest unused go first
        shape = (int(tokens.starts[-1]), self._width)
        return numpy.asarray(numpy.memmap(folder / "states", dtype=_NUMPY[self._dtype], mode="r", shape=shape))

    def _write(self, tokens: Tokens, needed: int, folder: Path) -> None:
        make_room(_CACHE, self._most - needed, self._entries)
        with (folder / "states").open("wb") as file:
            for examples, states in self._computed(tokens):
                first = 0
                for begin, end in zip(tokens.starts[examples], tokens.starts[examples + 1], strict=True):
                    file.seek(int(begin) * self._width * self._size)
                    file.write(states[first : first + int(end - begin)].tobytes())
                    first += int(end - begin)

    def _in_memory(self, tokens: Tokens) -> NDArray[Any]:
        found = numpy.empty((int(tokens.starts[-1]), self._width), dtype=_NUMPY[self._dtype])
        for examples, states in self._computed(tokens):
            places = [numpy.arange(tokens.starts[e], tokens.starts[e + 1]) for e in examples.tolist()]
            found[numpy.concatenate(places)] = states
        return found

    def _computed(self, tokens: Tokens) -> Iterator[tuple[Indices, NDArray[Any]]]:
        """Some examples of one length at a time with their states end to end.

        An example's bits depend neither on its company nor on how many cores there are: a pass of one length has always
        the same shape, and on a CPU every core takes passes of its own and computes each alone. So a site's examples
        have there what they have in a simulation.
        """
        self._announce(
            f"computing what lies below layer {self.layer}, the lowest adapted one, for {len(tokens):,} examples, "
            f"once; this takes about as long as scoring them."
        )
        pieces = _of_one_length(tokens)
        work = partial(self._of_piece, tokens)
        if torch.device(self._device).type != "cpu":
            yield from ((piece, work(piece)) for piece in pieces)
            return
        count = cores()
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            while some := list(islice(pieces, 4 * count)):
                yield from zip(some, pool.map(work, some), strict=True)

    def _of_piece(self, tokens: Tokens, examples: Indices) -> NDArray[Any]:
        """The states of examples of one length, end to end."""
        length = int(tokens.lengths[examples[0]])
        count = max(1, _TOKENS // length)
        filled = numpy.concatenate([examples, numpy.repeat(examples[-1:], count - len(examples))])
        with torch.inference_mode():
            states = self._encoder.states(pack(tokens, [filled], self._device), self.layer)
            states = states[: len(examples) * length].cpu().contiguous()
        return states.view(torch.int16).numpy() if self._dtype == torch.bfloat16 else states.numpy()


def _of_one_length(tokens: Tokens) -> Iterator[Indices]:
    """All examples, in pieces of one length and at most so many tokens as a pass has."""
    order = numpy.argsort(tokens.lengths, kind="stable")
    lengths, firsts = numpy.unique(tokens.lengths[order], return_index=True)
    for length, group in zip(lengths.tolist(), numpy.split(order, firsts[1:]), strict=True):
        size = max(1, _TOKENS // length)
        yield from (group[first : first + size] for first in range(0, len(group), size))


def _lowest_layer(base: Base, spec: AdapterSpec, encoder: PackedEncoder) -> int:
    """The number of the lowest layer in which anything changes; 0 also where something changes below all layers."""
    if spec.kind == "dense":
        return 0
    layers = [encoder.layer_of(name) for name in spec.shapes]
    for name in base.head:  # what stands above the layers is in none
        owner = base.model.get_submodule(name.rpartition(".")[0])
        number = encoder.layer_of(name)
        if number is not None or isinstance(owner, nn.Embedding):
            layers.append(number)
    known = [number for number in layers if number is not None]
    return min(known) if len(known) == len(layers) else 0


def _tried(model: nn.Module, encoder: PackedEncoder, layer: int, device: str) -> Tensor | None:
    """The states of a few tokens (tokens, width), where the layers above give from them what they give without."""
    packed = pack(tokens := some_tokens(model), [numpy.arange(len(tokens))], device)
    try:
        with torch.inference_mode():
            states = encoder.states(packed, layer)
            found = encoder.hidden(packed, {}, below=Below(layer, states[None]))
            expected = encoder.hidden(packed, {})
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
        return None
    return states if states.dtype in _NUMPY and agree(found, expected, states.dtype) else None


def _identity(base: Base, layer: int, like: Tensor, device: str) -> bytes:
    """Everything but the tokens on which states depend, to the last bit."""
    import transformers

    config: Any = encoder_of(base.model).config
    parts = {
        "form": _FORM,
        "base": base.fingerprint,
        "config": {key: value for key, value in config.to_dict().items() if key not in _NAMES and key[0] != "_"},
        "layer": layer,
        "shape": [str(like.dtype), like.shape[1]],
        "device": torch.device(device).type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return json.dumps(parts, sort_keys=True, default=str).encode()
