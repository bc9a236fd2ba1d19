"""The named shapes: the twin of benches/hardware/shapes.rs, name for name, byte for byte and flop for flop.

What rows see is a list of levels, from the root to the leaves: `groups` segments of `tokens` tokens each, the rows spread
evenly over the groups. A batch of caches is one level, agents over a prompt are two, a tree has as many as it is deep.
"""

from dataclasses import dataclass

DIM = 128
PAGE_SIZE = 64


@dataclass(frozen=True)
class Shape:
    """One row of the comparison. Lengths in tokens; everything is bf16."""

    name: str
    kind: str  # prefill, images, levels, kv_append or sampling
    heads: tuple = (64, 8)  # of queries, of K and V
    rows: int = 0
    levels: tuple = ()  # of (groups, tokens)
    spans: tuple = ()  # of (first, end): images that see themselves
    window: int = 0
    vocab: int = 0
    pairs: int = 0  # visible pairs of a query row and a key

    @property
    def bytes(self):
        """Least bytes that a run reads and writes."""
        if self.kind == "sampling":
            return 2 * self.rows * self.vocab
        if self.kind == "kv_append":
            return 2 * 2 * self.rows * (self.heads[0] + 2 * self.heads[1]) * DIM
        keys = sum(groups * tokens for groups, tokens in self.levels)
        return keys * self.heads[1] * DIM * 2 * 2 + self.rows * self.heads[0] * DIM * 2 * 2

    @property
    def flops(self):
        """Multiplications and additions of visible pairs."""
        return 4 * self.pairs * self.heads[0] * DIM


def triangle(n):
    return n * (n + 1) // 2


def shapes(scale=1):
    """All shapes in the order of the report; `scale` divides every length, for a look at whether it runs."""

    def small(n):
        return max(n // scale, 1) if n else 0

    def levels(name, heads, levels):
        rows = levels[-1][0]
        pairs = rows * sum(tokens for _, tokens in levels)
        return Shape(name, "levels", heads, rows, tuple(levels), pairs=pairs)

    for length in (4096, 16384, 32768):
        n = small(length)
        yield Shape(f"prefill_causal_{length}", "prefill", rows=n, levels=((1, n),), pairs=triangle(n))
    for length, images, windows in ((8192, 8, (0, 4096)), (32768, 8, (0, 4096)), (32768, 20, (0,))):
        for window in windows:
            yield images_of(length, images, window, small)
    for batch in (1, 8, 32, 128):
        for keys in (1024, 8192, 32768):
            yield levels(f"decode_b{batch}_k{keys}", (64, 8), [(batch, small(keys))])
    yield levels("decode_b64_k32768_heads_32_8", (32, 8), [(64, small(32768))])
    for prompt in (512, 4096, 32768):
        for own in (0, 512, 2048):
            for n in (1, 4, 16, 64, 256):
                name = f"agents_n{n}_p{prompt}_u{own}"
                yield levels(name, (32, 8), [(1, small(prompt)), (n, small(own) + 1)])
    yield levels("tree_32768_4x4096_64", (32, 8), [(1, small(32768)), (4, small(4096)), (64, 1)])
    yield levels("join_64x2048", (32, 8), [(1, 64 * small(2048) + 1)])
    for rows in (64, 8192):
        yield Shape(f"kv_append_{rows}", "kv_append", rows=small(rows))
    yield Shape("sampling_64x200000", "sampling", rows=64, vocab=200_000 // scale)


def images_of(length, images, window, small):
    """A prefill with images of 512 tokens, evenly spread, each behind its text."""
    name = f"prefill_images_{images}_{length}" + (f"_window_{window}" if window else "")
    total, w = small(length), small(window)
    image = min(small(512), total // images)
    text = total // images - image
    total = images * (text + image)
    spans = tuple((i * (text + image) + text, (i + 1) * (text + image)) for i in range(images))
    pairs = triangle(total) + images * triangle(image - 1) - (triangle(max(total - w, 0)) if w else 0)
    return Shape(name, "images", rows=total, levels=((1, total),), spans=spans, window=w, pairs=pairs)
