"""Time on a CUDA device, as benches/hardware/clock.rs takes it: medians of events."""

import statistics
import time

import torch

RUNS_PER_GRAPH = 10
LONG_US = 2000.0
FLUSH_BYTES = 256 << 20  # overwrites the level-2 cache of any GPU of today


class Clock:
    def __init__(self):
        self.flush = [torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2)]

    @staticmethod
    def median_us(n, before, run):
        times = []
        for _ in range(n + 1):
            before()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3)
        return statistics.median(times[1:])  # the first one warms up

    def warm_us(self, run):
        """A run of a captured graph, whose data may lie in the level-2 cache, and whether capture was possible.

        A run of milliseconds is timed as it is: its launch does not count.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        alone = self.median_us(3, lambda: None, run)
        if alone > LONG_US:
            return self.median_us(7, lambda: None, run), True
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(RUNS_PER_GRAPH):
                    run()
            return self.median_us(20, lambda: None, graph.replay) / RUNS_PER_GRAPH, True
        except RuntimeError:
            torch.cuda.synchronize()
            return self.median_us(20, lambda: None, run), False

    def cold_us(self, run):
        """A run after the level-2 cache was overwritten."""
        return self.median_us(10, lambda: self.flush[0].copy_(self.flush[1]), run)

    @staticmethod
    def plan_us(plan):
        """The host's time for a plan, the device idle before and after."""
        times = []
        for _ in range(5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            plan()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e6)
        return statistics.median(times)
