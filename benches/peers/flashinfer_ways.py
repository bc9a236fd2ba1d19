"""FlashInfer's ways, over pages of 64 tokens. Kernels are compiled on first use unless they were carried along.

Pages of a shared level are shared by the page tables of all rows that see it; what differs is whether a kernel knows.
"""

from shapes import DIM, PAGE_SIZE
from torch_ways import Prepared

try:
    import flashinfer
    import torch
except ImportError:  # `--dry-run` needs the names alone
    flashinfer = None

WORKSPACE_BYTES = 512 << 20
_workspaces = {}


def workspace(name="first"):
    if name not in _workspaces:
        _workspaces[name] = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    return _workspaces[name]


def i32(values):
    return torch.tensor(values, dtype=torch.int32)


class Pages:
    """A pool `[pages, 2, kv heads, 64, dim]` of all levels, and which pages hold which group."""

    def __init__(self, x):
        shape = x.shape
        counts = [-(-tokens // PAGE_SIZE) for _, tokens in shape.levels]
        self.tables, first = [], 0
        for (groups, _), count in zip(shape.levels, counts):
            self.tables.append(torch.arange(first, first + groups * count, dtype=torch.int32).view(groups, count))
            first += groups * count
        self.pool = torch.zeros(first, 2, shape.heads[1], PAGE_SIZE, DIM, dtype=torch.bfloat16, device="cuda")
        for table, (groups, tokens), k, v in zip(self.tables, shape.levels, x.k, x.v):
            pages = self.pool[table.min() : table.max() + 1].view(groups, -1, 2, shape.heads[1], PAGE_SIZE, DIM)
            for side, kv in enumerate((k, v)):
                padded = torch.nn.functional.pad(kv, (0, 0, 0, pages.shape[1] * PAGE_SIZE - tokens))
                pages[:, :, side] = padded.view(groups, shape.heads[1], -1, PAGE_SIZE, DIM).transpose(1, 2)
        self.lengths = [tokens for _, tokens in shape.levels]
        if any(tokens % PAGE_SIZE for tokens in self.lengths[:-1]):
            raise ValueError("only the last level may end inside a page")

    def of_rows(self, rows):
        """(indptr, indices, last page, length) of what each row sees, levels behind each other."""
        table = torch.cat([t.repeat_interleave(rows // t.shape[0], 0) for t in self.tables], 1)
        indptr = torch.arange(rows + 1, dtype=torch.int32) * table.shape[1]
        return indptr, table.flatten(), i32([last_page(self.lengths[-1])] * rows), sum(self.lengths)

    def of_level(self, level):
        """(indptr, indices, last page) of each group of a level."""
        table = self.tables[level]
        groups, count = table.shape
        indptr = torch.arange(groups + 1, dtype=torch.int32) * count
        return indptr, table.flatten(), i32([last_page(self.lengths[level])] * groups)


def last_page(tokens):
    return (tokens - 1) % PAGE_SIZE + 1


def on_device(*tensors):
    return [t.to("cuda") for t in tensors]


def decode(tensor_cores):
    def prepare(x):
        pages, (heads, kv) = Pages(x), x.shape.heads
        indptr, indices, last, _ = pages.of_rows(x.shape.rows)
        indices = indices.to("cuda")
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace(), "HND", use_tensor_cores=tensor_cores)

        def plan():
            wrapper.plan(
                indptr, indices, last, heads, kv, DIM, PAGE_SIZE,
                q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
            )

        plan()
        return Prepared(lambda: wrapper.run(x.q, pages.pool), plan)

    return prepare


def xqa(x):
    pages = Pages(x)
    _, indices, _, length = pages.of_rows(x.shape.rows)
    tables = indices.view(x.shape.rows, -1).to("cuda")
    lengths = torch.full((x.shape.rows,), length, dtype=torch.int32, device="cuda")
    k, v = pages.pool[:, 0].contiguous(), pages.pool[:, 1].contiguous()

    def run():
        return flashinfer.decode.trtllm_batch_decode_with_kv_cache(
            x.q, (k, v), workspace("xqa"), tables, lengths, length, bmm1_scale=DIM**-0.5, backend="xqa"
        )

    return Prepared(run)


def batch_attention(x):
    pages, (heads, kv) = Pages(x), x.shape.heads
    rows = x.shape.rows
    if x.shape.kind == "prefill":
        (indptr, indices, _), length, q_indptr = pages.of_level(0), rows, i32([0, rows])
    else:
        indptr, indices, _, length = pages.of_rows(rows)
        q_indptr = torch.arange(rows + 1, dtype=torch.int32)
    lengths = torch.full((len(q_indptr) - 1,), length, dtype=torch.int32)
    args = on_device(q_indptr, indptr, indices, lengths)
    wrapper = flashinfer.BatchAttention("HND")
    causal = x.shape.kind == "prefill"

    def plan():
        wrapper.plan(*args, heads, kv, DIM, DIM, PAGE_SIZE, causal=causal)

    plan()
    return Prepared(lambda: wrapper.run(x.q, pages.pool)[0], plan)


def prefill(backend):
    def prepare(x):
        k, v = (t[0][0].transpose(0, 1).contiguous() for t in (x.k, x.v))
        run = lambda: flashinfer.single_prefill_with_kv_cache(x.q, k, v, causal=True, backend=backend)  # noqa: E731
        return Prepared(run)

    return prepare


def ranges(x):
    shape, pages = x.shape, Pages(x)
    spans = torch.full((shape.rows, 2), -1, dtype=torch.int32)
    for start, end in shape.spans:
        spans[start:end] = i32([start, end - 1])
    spans = spans.to("cuda")
    args = on_device(i32([0, shape.rows]), *pages.of_level(0))
    wrapper = flashinfer.BatchPrefillWithCausalBidirectionalRangesWrapper(workspace(), "HND")

    def plan():
        wrapper.plan(*args, *shape.heads, DIM, PAGE_SIZE)

    plan()
    # A window of n is n keys here, and n keys before the row there.
    window = shape.window - 1 if shape.window else -1
    run = lambda: wrapper.run(x.q, pages.pool, bidirectional_ranges=spans, causal_window_left=window)  # noqa: E731
    return Prepared(run, plan)


def query_indptr(x, level):
    groups = x.shape.levels[level][0]
    return torch.arange(groups + 1, dtype=torch.int32) * (x.shape.rows // groups)


def cascade(x):
    if len(x.k) == 1:
        return None
    pages, levels = Pages(x), range(len(x.k))
    tables = [on_device(*pages.of_level(level)) for level in levels]
    q_indptr = on_device(*(query_indptr(x, level) for level in levels))
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(x.k), workspace(), "HND")

    def plan():
        wrapper.plan(
            q_indptr, *(list(column) for column in zip(*tables)), *x.shape.heads, DIM, PAGE_SIZE,
            q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
        )

    plan()
    return Prepared(lambda: wrapper.run(x.q, pages.pool), plan)


def levels_by_hand(x):
    """One prefill kernel per level, which packs the heads of a group and splits keys, and states merged in pairs."""
    if len(x.k) == 1:
        return None
    pages, wrappers = Pages(x), []
    for level in range(len(x.k)):
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace(f"level {level}"), "HND", backend="fa2")
        wrappers.append((wrapper, on_device(query_indptr(x, level), *pages.of_level(level))))

    def plan():
        for wrapper, args in wrappers:
            wrapper.plan(
                *args, *x.shape.heads, DIM, PAGE_SIZE, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16
            )

    def run():
        out, lse = wrappers[0][0].run(x.q, pages.pool, return_lse=True)
        for wrapper, _ in wrappers[1:]:
            flashinfer.merge_state_in_place(out, lse, *wrapper.run(x.q, pages.pool, return_lse=True))
        return out

    plan()
    return Prepared(run, plan)


def kv_append(x):
    """Two norms, a rotation in place and a store: four kernels."""
    (heads, kv), rows = x.shape.heads, x.shape.rows
    q, k, v = x.packed.view(rows, -1, DIM).split([heads, kv, kv], 1)
    ones = torch.ones(DIM, device="cuda", dtype=torch.bfloat16)
    q_out, k_out = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k))
    count = -(-rows // PAGE_SIZE)
    pool = torch.zeros(count, 2, kv, PAGE_SIZE, DIM, device="cuda", dtype=torch.bfloat16)
    batch, place = torch.zeros(rows, dtype=torch.int32), torch.arange(rows, dtype=torch.int32)
    batch, place, indices, indptr, last = on_device(
        batch, place, torch.arange(count, dtype=torch.int32), i32([0, count]), i32([last_page(rows)])
    )

    def run():
        flashinfer.rmsnorm(q, ones, 1e-6, out=q_out)
        flashinfer.rmsnorm(k, ones, 1e-6, out=k_out)
        flashinfer.apply_rope_pos_ids_inplace(q_out, k_out, place)
        flashinfer.append_paged_kv_cache(k_out, v, batch, place, pool, indices, indptr, last, kv_layout="HND")
        return q_out

    return Prepared(run)


def sampling(x):
    def run():
        probs = flashinfer.sampling.softmax(x.logits.float(), temperature=0.8)
        return flashinfer.sampling.top_p_sampling_from_probs(probs, 0.95)

    return Prepared(run, output=lambda _: None)  # draws differ by their noise


WAYS = [
    ("flashinfer_decode", ("levels",), decode(False)),
    ("flashinfer_decode_tensor_cores", ("levels",), decode(True)),
    ("flashinfer_xqa", ("levels",), xqa),
    ("flashinfer_cascade", ("levels",), cascade),
    ("flashinfer_levels_by_hand", ("levels",), levels_by_hand),
    ("flashinfer_prefill_fa2", ("prefill",), prefill("fa2")),
    ("flashinfer_ranges", ("images",), ranges),
    ("flashinfer", ("kv_append",), kv_append),
    ("flashinfer", ("sampling",), sampling),
    ("flashinfer_batch_attention", ("prefill", "levels"), batch_attention),
    ("flashinfer_prefill_fa3", ("prefill",), prefill("fa3")),
]
