"""What a step costs on a GPU, calculated: nothing of it was measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU on paper, and a step of training on it. FLOP, bytes and seconds."""

    rate: float = 790e12
    """Matrix products in bfloat16."""
    bandwidth: float = 4.8e12
    clients: int = 30
    tokens: int = 30 * 16 * 20
    weights: float = 85e6
    """Frozen and adapted: twelve layers of RoBERTa-base."""
    factors: float = 1.33e6
    """Numbers in a client's adapter: 72 maps at rank 8."""
    maps: int = 72
    widths: float = (5 * 2 * 768 + 1 * 2 * 768 + 2 * (768 + 3072) - 2 * 2 * 768) / 6
    """d_in + d_out of a map, on average: four of 768 by 768, two of 768 by 3072."""
    launches: int = 1500
    launch: float = 5e-6
    flop: int = 4
    """Of a frozen weight and token, forward and back."""
    kept: int = 16
    """Bytes a trained number: value, gradient, two moments."""
    memory: float = 24e9
    elementwise: float = 6e9
    activations: float = 2.8e9
    loop_steps: tuple[float, float] = (25e-3, 40e-3)
    """What a step of one client takes in a loop, bound by launches: a guess."""


CARD = Card()


def _parts(card):
    """Part -> (work in words, seconds at the card's limit)."""
    flop = card.flop * card.weights * card.tokens
    ratio = card.factors / card.weights
    traffic = 2 * 2 * card.maps * card.widths * card.tokens * 2
    optimizer = card.clients * card.factors * 4 * 7
    return {
        "frozen maps, forward and back": (
            f"{card.weights / 1e6:.0f}M weights x {card.flop} FLOP x {card.tokens:,} = {flop / 1e12:.1f} TFLOP",
            flop / card.rate,
        ),
        "factors, arithmetic": (
            f"{100 * ratio:.0f} % of that, if each token meets its own client's slots only",
            ratio * flop / card.rate,
        ),
        "factors, traffic": (
            f"{card.maps} maps: read the input, write and add the output, and the same back: {traffic / 1e9:.0f} GB unfused",
            traffic / card.bandwidth,
        ),
        "element-wise (GELU, norms, residuals)": (
            f"{card.elementwise / 1e9:.0f} GB",
            card.elementwise / card.bandwidth,
        ),
        "optimiser": (
            f"{card.clients} clients x {card.factors / 1e6:.2f}M numbers, moments in float32: {optimizer / 1e9:.1f} GB",
            optimizer / card.bandwidth,
        ),
    }


def gpu_table():
    """What a step costs on paper, part by part."""
    card, parts = CARD, _parts(CARD)
    lines = [
        f"For a card with {card.rate / 1e12:.0f} TFLOP/s in bfloat16 and {card.bandwidth / 1e12:.1f} TB/s; "
        f"{card.clients} clients x 16 sequences x 20 tokens are {card.tokens:,} tokens a step.", "",
        "| part | work | time at the limit |", "|---|---|---|",
        *(f"| {part} | {work} | {1000 * seconds:.1f} ms |" for part, (work, seconds) in parts.items()),
        f"| launches | about {card.launches:,} kernels | hidden only if the queue runs ahead: {1e6 * card.launch:.0f} us each "
        f"is {1000 * card.launch * card.launches:.1f} ms |",
    ]  # fmt: skip
    step = sum(seconds for _, seconds in parts.values())
    loop = [card.clients * seconds for seconds in card.loop_steps]
    share = card.flop * card.weights * card.tokens / card.rate / step
    lines += [
        "",
        f"So a step takes {1000 * step:.0f} ms or more, at most {1000 * (card.clients * 16 / step // 1000):,.0f} examples a second, "
        f"{100 * share:.0f} % of the matrix rate. A loop over clients has the same launches for every client's 320 "
        "tokens, which keep the card busy for less time than it takes to launch them: at a guess "
        f"{card.clients} x {1000 * card.loop_steps[0]:.0f} to {1000 * card.loop_steps[1]:.0f} ms a step, "
        f"{loop[0] / step:.0f} to {loop[1] / step:.0f} times slower.",
    ]
    return "\n".join(lines)


def gpu_memory_words():
    """What lies on the card, on paper."""
    card = CARD
    base, adapters = 125e6 * 2, card.kept * card.factors * card.clients
    room = (card.memory - base - adapters) / (card.activations / card.tokens)
    return (
        f"Activations are {card.activations / 1e9:.1f} GB at {card.tokens:,} tokens (12 layers, bfloat16, nothing kept for "
        f"frozen weights); base {base / 1e6:.0f} MB; adapters, gradients and moments {card.kept} bytes a number, "
        f"{adapters / 1e6:.0f} MB for {card.clients} clients. A card of {card.memory / 1e9:.0f} GB takes about "
        f"{10_000 * round(room / 10_000):,} tokens a pass at most."
    )
