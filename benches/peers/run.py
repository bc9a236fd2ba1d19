#!/usr/bin/env python3
"""Other libraries on the named shapes of benches/hardware, one JSON row each on stdout, in the form of ours.

    python3 benches/peers/run.py [--dry-run] [--only TEXT] [--peer TEXT] [--scale N] [--seconds S]

Needs PyTorch with CUDA; FlashInfer where it can be imported. `warm_us` and `cold_us` as in benches/hardware/main.rs;
`plan_us` is the host's part. The ways to one shape must agree: `max_difference` is from the first that ran, whose numbers
are `yardstick`. `--dry-run` prints the shapes and who would run them, and needs neither. After `--seconds` no further way
is started. table.py puts these rows beside ours.
"""

import argparse
import json
import sys
import time

import flashinfer_ways
import torch_ways
from shapes import shapes

# What compiles for long, per shape or once, comes last: it is what the time limit leaves out.
LATE = ("torch_flex", "flashinfer_batch_attention", "flashinfer_prefill_fa3")
AGREE = 3e-2  # outputs are averages of numbers below 1, kept in bf16: a few of its ulps


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print the shapes, run nothing")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--peer", default="", help="ways whose name contains this")
    parser.add_argument("--scale", type=int, default=1, help="divide every length")
    parser.add_argument("--seconds", type=float, default=220, help="start no way after this long")
    return parser.parse_args()


def row(**fields):
    print(json.dumps(fields), flush=True)


def first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def measure(clock, x, shape, prepare, yardstick):
    """The row of a way, or None where it has nothing to say, and the yardstick of the shape."""
    prepared = prepare(x)
    if prepared is None:
        return None, yardstick
    got = prepared.output(prepared.run())
    fields = {}
    if got is not None and yardstick is None:
        yardstick, fields["yardstick"] = got.float(), True
    elif got is not None:
        fields["max_difference"] = (got.float() - yardstick).abs().max().item()
    warm_us, captured = clock.warm_us(prepared.run)
    notes = [prepared.note] + ([] if captured else ["without a graph"])
    if not fields.get("max_difference", 0.0) < AGREE:
        notes.append("WRONG")
    fields |= {"plan_us": clock.plan_us(prepared.plan) if prepared.plan else 0.0, "warm_us": warm_us}
    fields |= {"cold_us": clock.cold_us(prepared.run), "bytes": shape.bytes, "flops": shape.flops}
    return fields | {"note": ", ".join(filter(None, notes))}, yardstick


def main():
    wanted = options()
    ways = torch_ways.WAYS + (flashinfer_ways.WAYS if wanted.dry_run or flashinfer_ways.flashinfer else [])
    ways = sorted((way for way in ways if wanted.peer in way[0]), key=lambda way: way[0] in LATE)
    chosen = [shape for shape in shapes(wanted.scale) if wanted.only in shape.name]
    if wanted.dry_run:
        for shape in chosen:
            fields = {"shape": shape.name, "heads": shape.heads, "rows": shape.rows, "levels": shape.levels}
            fields |= {"bytes": shape.bytes, "flops": shape.flops}
            row(**fields, peers=[name for name, kinds, _ in ways if shape.kind in kinds])
        return 0
    torch = torch_ways.torch
    if torch is None or not torch.cuda.is_available():
        print("SKIPPED: PyTorch with CUDA is not here", file=sys.stderr)
        return 0
    from clock import Clock

    versions = {"torch": torch.__version__, "flashinfer": getattr(flashinfer_ways.flashinfer, "__version__", None)}
    row(row="device", device=torch.cuda.get_device_name(), scale=wanted.scale, **versions)
    clock, start = Clock(), time.monotonic()
    yardsticks = {}
    for name, kinds, prepare in ways:
        for shape in (shape for shape in chosen if shape.kind in kinds):
            if time.monotonic() - start > wanted.seconds:
                row(peer=name, shape=shape.name, error="no time left")
                continue
            try:
                x = torch_ways.Inputs(shape)
                yardstick = yardsticks.get(shape.name)
                fields, yardsticks[shape.name] = measure(clock, x, shape, prepare, yardstick)
                if fields:
                    row(peer=name, shape=shape.name, **fields)
            except Exception as error:  # a library that lacks a shape must not end the others
                row(peer=name, shape=shape.name, error=first_line(error))
            x = None
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
