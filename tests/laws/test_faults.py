"""Each law has a planted fault that it must catch: a law that cannot fail is no law.

The faults are those that public implementations have (methods.md, section 5) and those that a new method
is likely to have. `FAULTS` is the list: the law, the fault, and what is wrong with it.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from fedlora.core.adapter import BOTH, INPUT, OUTPUT, SIDES
from fedlora.core.lowrank import LowRank, compress, stack
from fedlora.core.schema import UploadSchema, whole_sides
from fedlora.core.slots import whole
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages.clip import Clip
from fedlora.federation.stages.server_optimizer import FedAvgM
from fedlora.laws import book
from fedlora.laws.book import LAWS
from fedlora.laws.check import check_law
from fedlora.laws.world import play
from fedlora.methods.base import Method, move_to
from fedlora.methods.fair import FAIR
from fedlora.methods.fedex import FedEx
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.ffa import FFA
from fedlora.methods.flexlora import FlexLoRA
from fedlora.methods.flora import FLoRA
from fedlora.methods.hetlora import HetLoRA
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.reducers import HeadMean, SlotSum, factors
from fedlora.methods.replicate import Replicate
from fedlora.methods.rolora import RoLoRA
from fedlora.methods.sides import send
from fedlora.methods.zeropad import ZeroPad


@dataclass(frozen=True)
class ChangesWhatItReceives(FedIT):
    """Works on the server's own tensors where they are not copied on the way."""

    def receive(self, payload, kept, client, spec):
        start = super().receive(payload, kept, client, spec)
        for tensor in start.adapter.output.values():
            tensor.add_(0.01)
        return start


@dataclass(frozen=True)
class LeaksB(FedSA):
    """(d) One shared object holds the private side: client k + 1 starts from client k's B."""

    def receive(self, payload, kept, client, spec):
        start = super().receive(payload, kept, client, spec)
        last = getattr(self, "_shared_model", None)
        fits = last is not None and start.adapter.ranks() == last.ranks()
        return replace(start, adapter=start.adapter.with_side("output", last.output)) if fits else start

    def upload(self, start, trained, kept, round):
        object.__setattr__(self, "_shared_model", trained.adapter)
        return super().upload(start, trained, kept, round)


@dataclass(frozen=True)
class SendsB(FedSA):
    """(d) The private side travels with the shared one."""

    def upload(self, start, trained, kept, round):
        _, keep = super().upload(start, trained, kept, round)
        return whole(trained.adapter), keep

    def upload_schema(self, state, client, spec, round):
        return UploadSchema((whole_sides(spec, BOTH, self.dispatched_ranks(state, client)),))


@dataclass(frozen=True)
class Unseeded(FedIT):
    """(k) Draws A from a stream that the seed does not name."""

    def init(self, spec, seed):
        state = super().init(spec, seed)
        return move_to(state, {"input": {m: torch.rand_like(A) for m, A in state.adapter.input.items()}})


@dataclass(frozen=True)
class RedrawsA(FFA):
    """(k) Every client draws the frozen side for itself."""

    def receive(self, payload, kept, client, spec):
        start = super().receive(payload, kept, client, spec)
        own = torch.Generator().manual_seed(int(client.id[1:]))
        drawn = {m: torch.randn(A.shape, generator=own) for m, A in start.adapter.input.items()}
        return replace(start, adapter=start.adapter.with_side("input", drawn))


@dataclass(frozen=True)
class RemembersOutside(FedIT):
    """(f) Carries momentum in an attribute that no checkpoint holds."""

    def aggregate(self, state, updates, round):
        new = super().aggregate(state, updates, round)
        past = getattr(self, "_momentum", None)
        object.__setattr__(self, "_momentum", new.adapter.output)
        if past is None:
            return new
        return move_to(new, {"output": {m: 0.5 * (B + past[m]) for m, B in new.adapter.output.items()}})


@dataclass(frozen=True)
class NoWeights(FedIT):
    """(c) Every client counts the same."""

    def aggregate(self, state, updates, round):
        even = (replace(u, client=replace(u.client, counted_as=1.0)) for u in updates)
        return super().aggregate(state, even, round)


@dataclass(frozen=True)
class WeightsTwice(FedIT):
    """(c) Weights are applied a second time."""

    def aggregate(self, state, updates, round):
        squared = (replace(u, client=replace(u.client, counted_as=u.weight**2)) for u in updates)
        return super().aggregate(state, squared, round)


@dataclass(frozen=True)
class CountsExamples(FedIT):
    """(c) Clients count by their examples, whatever the federation counts by."""

    def aggregate(self, state, updates, round):
        counted = (replace(u, client=replace(u.client, counted_as=None)) for u in updates)
        return super().aggregate(state, counted, round)


@dataclass(frozen=True)
class OnlyTheFirst(FFA):
    """(c) A misspelt accumulator: every client but the first is dropped."""

    def aggregate(self, state, updates, round):
        return super().aggregate(state, iter([next(iter(updates))]), round)


@dataclass(frozen=True)
class ClaimsTooMuch(FedIT):
    """The average of A and B apart, declared exact."""

    @property
    def facts(self):
        return replace(super().facts, exact="update")


@dataclass(frozen=True)
class ScaleTwice(FFA):
    """(a) The step is scaled once more, as by an alpha / r at the server."""

    def step(self, sums, side):
        return {module: 2.0 * step for module, step in super().step(sums, side).items()}


@dataclass(frozen=True)
class Transposed(FlexLoRA):
    """(b) The singular vectors change places: right in shape only where a map is square."""

    def advance(self, state, total, round):
        new = super().advance(state, total, round).adapter
        A = {m: new.output[m].T if new.output[m].shape[0] == A.shape[1] else A for m, A in new.input.items()}
        B = {m: new.input[m].T if new.output[m].shape[0] == A.shape[1] else new.output[m] for m, A in A.items()}
        return move_to(state, {"input": A, "output": B})


@dataclass(frozen=True)
class HalfTheRoot(FlexLoRA):
    """The root of the singular values goes to one side and to no other: the product is lost."""

    def aggregate(self, state, updates, round):
        sent = [(u.weight, factors(u)) for u in updates]
        total = sum(weight for weight, _ in sent)
        best = {
            m: compress(stack([(w / total, own.pair(m)) for w, own in sent]), r)
            for m, r in state.adapter.ranks().items()
        }
        roots = {m: pair.B / pair.B.norm(dim=0).sqrt().clamp(min=1e-6) for m, pair in best.items()}
        return move_to(state, {"input": {m: pair.A for m, pair in best.items()}, "output": roots})


@dataclass(frozen=True)
class OwnPhase(RoLoRA):
    """(i) Each client counts its own rounds, so clients freeze different sides."""

    def client(self, payload, kept, client, spec, round):
        own = kept.get("count", 0) + 1
        outcome = yield from super().client(payload, kept, client, spec, own)
        return replace(outcome, kept={**outcome.kept, "count": own})

    def upload_schema(self, state, client, spec, round):
        slots = self.dispatched_ranks(state, client)
        return UploadSchema((whole_sides(spec, OUTPUT, slots), whole_sides(spec, INPUT, slots)))

    def aggregate(self, state, updates, round):
        sent = list(updates)
        for side in SIDES:
            own = [u for u in sent if u.sides.get(side)]
            if own:
                state = super().aggregate(state, iter(own), 1 if side == "output" else 2)
                changed = {**state.extra["changed"], side: round}
                state = replace(state, extra={"changed": changed})
        return state


@dataclass(frozen=True)
class LosesUnowned(ZeroPad):
    """A slot that nobody sent becomes zero on both sides and is dead for ever."""

    def advance(self, state, sums, round):
        mean = {s: {m: t.float() for m, t in sums.mean(s).items()} for s in SIDES}
        return move_to(state, mean)


@dataclass(frozen=True)
class SendsEverything(Replicate):
    """Every client is sent all slots, whatever its rank."""

    def dispatch(self, state, client, round):
        return send(state.adapter, BOTH, state.adapter.ranks(), implied_zeros=True)

    def upload_schema(self, state, client, spec, round):
        return UploadSchema((whole_sides(spec, BOTH, state.adapter.ranks()),))


@dataclass(frozen=True)
class PerModule(LoRAA2):
    """Budget slots in every module, then some: more goes up than the budget."""

    def client(self, payload, kept, client, spec, round):
        generous = replace(client, rank=client.rank + 1)
        return super().client(payload, kept, generous, spec, round)

    def upload_schema(self, state, client, spec, round):
        return super().upload_schema(state, replace(client, rank=client.rank + 1), spec, round)


@dataclass(frozen=True)
class Sums(FedIT):
    """The sum instead of the mean."""

    def advance(self, state, sums, round):
        return move_to(state, {s: {m: t.float() for m, t in sums.totals[s].items()} for s in SIDES})


@dataclass(frozen=True)
class ForgetsLatecomers(RoLoRA):
    """Only the side of the round before is sent, also to a client that missed it."""

    def dispatch(self, state, client, round):
        return send(state.adapter, BOTH if round == 1 else self.trains(round - 1), state.adapter.ranks(), True)

    def receive(self, payload, kept, client, spec):
        rank = client.rank
        zeros = {
            "input": {m: torch.zeros(rank, d_in) for m, (_, d_in) in spec.shapes.items()},
            "output": {m: torch.zeros(d_out, rank) for m, (d_out, _) in spec.shapes.items()},
        }
        return super().receive({**zeros, **payload} if not kept else payload, kept, client, spec)


@dataclass(frozen=True)
class TakesStepsAgain(FedEx):
    """A client whose reply got lost has grown its merged update already, and takes the same step once more."""

    def upload(self, start, trained, kept, round):
        up, keep = super().upload(start, trained, kept, round)
        return up, {**keep, "through": 0}


@dataclass(frozen=True)
class OnlyTheNewestStep(FLoRA):
    """A client that missed rounds gets the last stack alone."""

    def missing(self, state, client):
        steps = super().missing(state, client).get("steps", {})
        newest = max(steps, key=int, default=None)
        return {"steps": {newest: steps[newest]}} if newest else {}


@dataclass(frozen=True)
class NoResidual(FedEx):
    """Declares the update exact, but merged updates nothing."""

    def with_merged(self, state, step, round):
        return state


@dataclass(frozen=True)
class TransposedFold(FLoRA):
    """(b) The residual is merged transposed: no shape tells on square maps."""

    def with_merged(self, state, step, round):
        turned = {m: v.T if not isinstance(v, LowRank) and v.shape[0] == v.shape[1] else v for m, v in step.items()}
        return super().with_merged(state, turned, round)


@dataclass(frozen=True)
class UnevenTwins(FAIR):
    """Corrects B by what A A^T alone explains, with a ridge on the wrong side."""

    def correction(self, product, A, B):
        return super().correction(product, A, B) - self.ridge * B


@dataclass(frozen=True)
class TwoHeads(HetLoRA):
    """Weights by norm, declared as weights by examples."""

    @property
    def facts(self):
        return replace(super().facts, example_weighted=True)


@dataclass(frozen=True)
class MomentsOutside(FedAvgM):
    """(f) Keeps the momentum of the server in an attribute instead of the state."""

    def step(self, before, after, kept):
        state, keep = super().step(before, after, getattr(self, "_past", kept))
        object.__setattr__(self, "_past", keep)
        return state, kept


class CountsOnlyTheData(LocalTransport):
    """Bytes by formula: the tensors, without what it takes to name them."""

    def exchange(self, orders):
        for answer in super().exchange(orders):
            down = answer.traffic.down - 100
            yield replace(answer, traffic=replace(answer.traffic, down=down))


def counted_by_formula(method, world):
    """The bytes law, over a transport that counts wrongly."""
    observed = book.observed
    book.observed = lambda method, world: play(method, world, sent_as=CountsOnlyTheData)
    try:
        book.bytes_counted(method, world)
    finally:
        book.observed = observed


@dataclass(frozen=True)
class PrunesUnsaid(HetLoRA):
    """A client that has pruned itself sends fewer slots than the method says it would."""

    def upload_schema(self, state, client, spec, round):
        return Method.upload_schema(self, state, client, spec, round)


@dataclass(frozen=True)
class SaysTheOtherSide(RoLoRA):
    """The sides that the server expects are those of the round before."""

    def upload_schema(self, state, client, spec, round):
        return super().upload_schema(state, client, spec, round + 1)


@dataclass(frozen=True)
class ScoreUnsaid(FedIT):
    """A number travels that nobody was told of."""

    def client(self, payload, kept, client, spec, round):
        outcome = yield from super().client(payload, kept, client, spec, round)
        return replace(outcome, update=replace(outcome.update, numbers={"score": 0.5}))


def with_an_open_door(method, world):
    """The door's law, over a door that lets everything in."""
    own = book.validate_reply
    book.validate_reply = lambda reply, order: reply
    try:
        book.upload_validation(method, world)
    finally:
        book.validate_reply = own


@dataclass(frozen=True)
class LeavesTheHead(Clip):
    """Clips the sides and lets the head through as it came."""

    def incoming(self, update, start):
        clipped = super().incoming(replace(update, head={}), start)
        return replace(clipped, head=update.head)


@dataclass(frozen=True)
class DropsTheHead(Clip):
    """Forgets the head on the way."""

    def incoming(self, update, start):
        return replace(super().incoming(update, start), head={})


@dataclass(frozen=True)
class ForgetsTheHeadsCentre(Pipeline):
    """Behind stages, takes the mean of the heads, whatever the method says."""

    def aggregate(self, state, updates, round):
        sent, heads = list(updates), HeadMean()
        for update in sent:
            heads.add(update)
        after = super().aggregate(state, iter(sent), round)
        return replace(after, head=heads.total() or state.head) if self.stages else after


@dataclass(frozen=True)
class ForgetsTheReducer(Pipeline):
    """Behind stages, adds up slot by slot, whatever the method says."""

    def aggregate(self, state, updates, round):
        if not self.stages:
            return super().aggregate(state, updates, round)
        sums = SlotSum(state.adapter)
        for update in updates:
            sums.add(update)
        return self.method.advance(state, sums.total(), round)


@dataclass(frozen=True)
class AsksTwice(ZeroPad):
    """Asks for the rank of a client that has it already: half of half is dispatched."""

    def dispatched_ranks(self, state, client):
        return dict.fromkeys(state.adapter.output, self.rank(state, client))


@dataclass(frozen=True)
class CountsTheLongest(FedIT):
    """Lets the client with the longest update count twice, and says that sums are all it needs."""

    def aggregate(self, state, updates, round):
        sent = sorted(updates, key=lambda update: update.norm())
        longest = sent[-1]
        twice = replace(longest, client=replace(longest.client, examples=2 * longest.client.examples))
        return super().aggregate(state, iter([*sent[:-1], twice]), round)


@dataclass(frozen=True)
class SaysProductsAlone(FAIR):
    """Takes sums of the factors, too, and does not say so."""

    @property
    def facts(self):
        return replace(super().facts, consumes="product sums")


@dataclass(frozen=True)
class SaysSums(FedIT):
    """A median that claims to be a sum."""

    centre: str = "median"

    @property
    def facts(self):
        return replace(super().facts, consumes="slot sums")


FAULTS = [
    ("stages", lambda: Pipeline(FedIT(), (LeavesTheHead(norm=0.05),))),
    ("stages", lambda: Pipeline(LoRAA2(pool_rank=3), (LeavesTheHead(norm=0.01),))),
    ("stages", lambda: Pipeline(FedIT(), (DropsTheHead(norm=0.05),))),
    ("sums", CountsTheLongest),
    ("sums", SaysProductsAlone),
    ("sums", SaysSums),
    ("hooks", lambda: ForgetsTheHeadsCentre(FedIT(centre="median"))),
    ("hooks", lambda: ForgetsTheReducer(FedIT(centre="trimmed", trim=0.4))),
    ("ranks once", AsksTwice),
    ("agreement", ChangesWhatItReceives),
    ("agreement", LeaksB),
    ("order", LeaksB),
    ("repetition", Unseeded),
    ("resume", RemembersOutside),
    ("weights", NoWeights),
    ("weights", WeightsTwice),
    ("weights", CountsExamples),
    ("exactness", OnlyTheFirst),
    ("exactness", ClaimsTooMuch),
    ("exactness", ScaleTwice),
    ("exactness", Transposed),
    ("exactness", HalfTheRoot),
    ("exactness", RedrawsA),
    ("exactness", OwnPhase),
    ("privacy of sides", LeaksB),
    ("privacy of sides", SendsB),
    ("absence", LosesUnowned),
    ("ranks", SendsEverything),
    ("ranks", PerModule),
    ("idempotence", Sums),
    ("latecomer", ForgetsLatecomers),
    ("latecomer", TakesStepsAgain),
    ("latecomer", OnlyTheNewestStep),
    ("exactness", NoResidual),
    ("exactness", TransposedFold),
    ("idempotence", UnevenTwins),
    ("weights", TwoHeads),
    ("resume", lambda: Pipeline(FedIT(), (MomentsOutside(),))),
    ("validation", lambda: PrunesUnsaid(keep=0.5, penalty=30.0)),
    ("validation", SaysTheOtherSide),
    ("validation", ScoreUnsaid),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=lambda own: getattr(own, "__name__", own))
def test_planted_fault_is_caught(name, fault):
    law = next(law for law in LAWS if law.name == name)
    subject = fault()
    pipeline = subject if isinstance(subject, Pipeline) else Pipeline(subject)
    verdict = check_law(pipeline, law, examples=150)
    assert verdict.held is False, f"{name} did not catch {fault.__name__}: {fault.__doc__}"
    assert "modules [" in verdict.example  # the smallest world is told
    assert "Error:" not in verdict.example  # caught by what the law says, not by breaking down


def test_wrongly_counted_bytes_are_caught():
    law = next(law for law in LAWS if law.name == "bytes")
    assert check_law(Pipeline(FedIT()), replace(law, check=counted_by_formula)).held is False


def test_an_open_door_is_caught():
    law = next(law for law in LAWS if law.name == "validation")
    verdict = check_law(Pipeline(FedIT()), replace(law, check=with_an_open_door))
    assert verdict.held is False
    assert "let in with something that nobody asked for" in verdict.example


def test_every_law_has_a_planted_fault():
    assert {law.name for law in LAWS} == {name for name, _ in FAULTS} | {"bytes"}
