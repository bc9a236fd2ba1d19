#!/usr/bin/env python3
"""Joins our rows and the peers' into one table of ratios.

    python3 benches/peers/table.py RECORD.json
    python3 benches/peers/table.py OURS.jsonl PEERS.jsonl

A record is what scripts/hardware writes; the two files are the outputs of `cargo bench --bench hardware` and of run.py.
They must come from one machine and one run. Warm times; the best peer is the fastest that agrees with the others. A row of
ours that has a way (`rounded_weights`) stands beside the one that has none, before the same peers, which round weights too.
"""

import json
import sys


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.startswith("{")]


def load(paths):
    if len(paths) == 1:
        with open(paths[0], encoding="utf-8") as file:
            record = json.load(file)
        return record.get("cuda", []), record.get("peers", [])
    return rows(paths[0]), rows(paths[1])


def counts(peer):
    return "warm_us" in peer and "WRONG" not in peer.get("note", "")


def line(ours, peers):
    """Shape, our time and rates, the best peer, the ratio, what planning costs, and the other peers."""
    us = ours["warm_us"]
    name = " ".join(filter(None, (ours["shape"], ours.get("way"))))
    cells = [name, f"{us:.1f}", f"{ours['bytes'] / us / 1e6:.2f}", f"{ours['flops'] / us / 1e6:.0f}"]
    ranked = sorted((p for p in peers if counts(p)), key=lambda p: p["warm_us"])
    if not ranked:
        return cells + ["", "", "", f"{ours.get('plan_us', 0):.0f}", ""]
    best = ranked[0]
    others = ", ".join(f"{p['peer']} {p['warm_us'] / us:.2f}" for p in ranked[1:])
    plans = f"{ours.get('plan_us', 0):.0f} / {best.get('plan_us', 0):.0f}"
    return cells + [best["peer"], f"{best['warm_us']:.1f}", f"{best['warm_us'] / us:.2f}", plans, others]


def table(ours, peers):
    """The table in Markdown, and a line for every peer whose numbers do not agree."""
    head = ["shape", "colatent, µs", "TB/s", "TFLOP/s", "best peer", "µs", "peer / colatent", "plan, µs", "others / colatent"]
    lines = [head, ["---"] * len(head)]
    for row in ours:
        if "warm_us" in row:
            lines.append(line(row, [p for p in peers if p.get("shape") == row["shape"]]))
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    wrong = [f"{p['peer']} on {p['shape']}" for p in peers if "WRONG" in p.get("note", "")]
    return "\n".join(text + (["", "Disagree and do not count: " + ", ".join(wrong)] if wrong else []))


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    print(table(*load(sys.argv[1:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
