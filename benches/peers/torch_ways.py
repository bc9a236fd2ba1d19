"""PyTorch's ways: SDPA on its flash and cuDNN kernels, FlexAttention, and compiled code for the small operations.

A way is a function of the inputs that returns what is timed; `Prepared.plan`, if any, is the host's part that depends on
lengths and not on numbers. Where query heads share a KV head and no mask tells their rows apart, they stand below each
other as rows, so that K is read once: what a user who wants speed would write.
"""

from dataclasses import dataclass
from typing import Callable, Optional

from shapes import DIM, PAGE_SIZE

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:  # `--dry-run` needs the names alone
    torch = None

MOST_BYTES = 40 << 30  # of copies that a way without sharing would need


@dataclass
class Prepared:
    """What is timed, and how its output becomes `[rows, heads, dim]`."""

    run: Callable
    plan: Optional[Callable] = None
    output: Callable = lambda out: out
    note: str = ""


class Inputs:
    """The numbers of a shape, the same for every way. K and V per level: `[groups, kv heads, tokens, dim]`."""

    def __init__(self, shape):
        self.shape = shape
        generator = torch.Generator(device="cuda").manual_seed(1)

        def noise(*size):
            return torch.rand(size, generator=generator, device="cuda", dtype=torch.bfloat16) * 2 - 1

        heads, kv = shape.heads
        if shape.kind == "sampling":
            self.logits = noise(shape.rows, shape.vocab)
            return
        if shape.kind == "kv_append":
            self.packed = noise(shape.rows, (heads + 2 * kv) * DIM)
            return
        self.q = noise(shape.rows, heads, DIM)
        self.k = [noise(groups, kv, tokens, DIM) for groups, tokens in shape.levels]
        self.v = [noise(groups, kv, tokens, DIM) for groups, tokens in shape.levels]

    def unshared(self, levels):
        """A copy of everything that a row sees for each row."""
        shape = self.shape
        size = 2 * shape.rows * shape.heads[1] * sum(t for _, t in shape.levels) * DIM * 2
        if len(levels) > 1 and size > MOST_BYTES:
            raise MemoryError(f"{size >> 30} GiB of copies")
        if len(levels) == 1:
            return levels[0]
        return torch.cat([x.repeat_interleave(shape.rows // x.shape[0], 0) for x in levels], 2)

    def rows_of(self, groups):
        """Queries by group, those of a KV head below each other: `[groups, kv heads, rows * heads of it, dim]`."""
        heads, kv = self.shape.heads
        q = self.q.view(groups, self.shape.rows // groups, kv, heads // kv, DIM)
        return q.transpose(1, 2).reshape(groups, kv, -1, DIM)

    def by_row(self, out):
        """The inverse of `rows_of` for an output or a sum of its rows."""
        groups, kv, _, *rest = out.shape
        out = out.view(groups, kv, self.shape.rows // groups, self.shape.heads[0] // kv, *rest)
        return out.transpose(1, 2).reshape(self.shape.rows, self.shape.heads[0], *rest)


def sdpa(backend):
    def prepare(x):
        backends = [getattr(SDPBackend, backend)]
        if x.shape.kind == "prefill":
            q = x.q.transpose(0, 1)[None]
            k, v = x.k[0], x.v[0]
            note = ""
            try:
                with sdpa_kernel(backends):
                    F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            except RuntimeError:
                group = q.shape[1] // k.shape[1]
                k, v, note = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), "K and V repeated beforehand"
            gqa = not note

            def run():
                with sdpa_kernel(backends):
                    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)

            return Prepared(run, output=lambda out: out[0].transpose(0, 1), note=note)
        q, k, v = x.rows_of(x.shape.rows), x.unshared(x.k), x.unshared(x.v)

        def run():
            with sdpa_kernel(backends):
                return F.scaled_dot_product_attention(q, k, v)

        return Prepared(run, output=x.by_row, note="unshared" if len(x.k) > 1 else "")

    return prepare


def merge(states):
    """Merges (out, lse) of disjoint keys."""
    lse = torch.stack([lse for _, lse in states])
    weights = torch.softmax(lse, 0)[..., None]
    return sum(w * out for w, (out, _) in zip(weights, states)).to(torch.bfloat16)


def sdpa_levels(x):
    """Every level once, for the rows of all that see it, on the flash kernel; states merged."""
    if len(x.k) == 1:
        return None
    queries = [x.rows_of(k.shape[0]) for k in x.k]
    merged = torch.compile(merge, dynamic=False)

    def run():
        states = []
        for q, k, v in zip(queries, x.k, x.v):
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
            states.append((x.by_row(out), x.by_row(lse[..., : q.shape[2]])))
        return merged(states)

    return Prepared(run)


def flex(x):
    """One mask over all levels behind each other: a key is seen by the rows of its group."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    shape = x.shape
    k = torch.cat([k.transpose(0, 1).reshape(1, shape.heads[1], -1, DIM) for k in x.k], 2)
    v = torch.cat([v.transpose(0, 1).reshape(1, shape.heads[1], -1, DIM) for v in x.v], 2)
    q = x.q.transpose(0, 1)[None].contiguous()
    if shape.kind == "levels":
        first, last = (torch.cat(ends) for ends in zip(*(rows_that_see(shape, *level) for level in shape.levels)))

        def mask(_b, _h, row, key):
            return (row >= first[key]) & (row < last[key])
    else:
        image = torch.full((shape.rows,), -1, device="cuda", dtype=torch.int32)
        for i, (start, end) in enumerate(shape.spans):
            image[start:end] = i
        window = shape.window or shape.rows

        def mask(_b, _h, row, key):
            seen = (key <= row) & (row - key < window)
            return seen | ((image[row] >= 0) & (image[row] == image[key])) if shape.spans else seen

    def plan():
        return create_block_mask(mask, None, None, shape.rows, k.shape[2], device="cuda", _compile=True)

    block_mask, attend = plan(), torch.compile(flex_attention, dynamic=False)
    run = lambda: attend(q, k, v, block_mask=block_mask, enable_gqa=True)  # noqa: E731
    return Prepared(run, plan, output=lambda out: out[0].transpose(0, 1))


def rows_that_see(shape, groups, tokens):
    """First and end of the rows that see each key of a level."""
    group = torch.arange(groups, device="cuda", dtype=torch.int32).repeat_interleave(tokens)
    rows = shape.rows // groups
    return group * rows, (group + 1) * rows


def kv_append(x):
    """Norm, rotation and storage, compiled into what kernels the compiler makes of it."""
    (heads, kv), rows = x.shape.heads, x.shape.rows
    pages = torch.zeros(2, -(-rows // PAGE_SIZE), kv, PAGE_SIZE, DIM, device="cuda", dtype=torch.bfloat16)
    place = torch.arange(rows, device="cuda")
    inv_freq = 1e4 ** (-torch.arange(0, DIM, 2, device="cuda") / DIM)

    def append(packed, pages, positions):
        q, k, v = packed.view(rows, -1, DIM).split([heads, kv, kv], 1)
        angle = (positions[:, None] * inv_freq)[:, None]
        cos, sin = angle.cos(), angle.sin()

        def turned(t):
            t = t.float()
            a, b = (t * torch.rsqrt(t.square().mean(-1, keepdim=True) + 1e-6)).chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(torch.bfloat16)

        pages[0, place // PAGE_SIZE, :, place % PAGE_SIZE] = turned(k)
        pages[1, place // PAGE_SIZE, :, place % PAGE_SIZE] = v
        return turned(q)

    compiled = torch.compile(append, dynamic=False)
    return Prepared(lambda: compiled(x.packed, pages, place))


def sampling(x):
    """Temperature 0.8 and top-p 0.95 by sorting."""

    def draw(logits):
        probs, token = torch.softmax(logits.float() / 0.8, -1).sort(-1, descending=True)
        probs = torch.where(probs.cumsum(-1) - probs < 0.95, probs, 0)
        noise = torch.empty_like(probs).exponential_()
        return token.gather(-1, (probs / noise).argmax(-1, keepdim=True))

    compiled = torch.compile(draw, dynamic=False)
    return Prepared(lambda: compiled(x.logits), output=lambda _: None)  # draws differ by their noise


WAYS = [
    ("torch_sdpa_flash", ("prefill", "levels"), sdpa("FLASH_ATTENTION")),
    ("torch_sdpa_cudnn", ("prefill", "levels"), sdpa("CUDNN_ATTENTION")),
    ("torch_sdpa_flash_levels", ("levels",), sdpa_levels),
    ("torch_compile", ("kv_append",), kv_append),
    ("torch_compile", ("sampling",), sampling),
    ("torch_flex", ("prefill", "images", "levels"), flex),
]
