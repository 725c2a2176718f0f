"""A wire in user space: it carries packets between two descriptors, and is as bad a wire as it is told to be.

What `tc netem` does where a kernel has it. The descriptors are those of TUN devices (network.py), so what comes and
goes is whole IP packets, and it is the kernel's TCP on both sides that has to make a stream of what is left of them:

    lost        a packet is dropped
    doubled     it arrives twice, each time with a delay of its own
    delayed     each draws its delay by itself, so later packets overtake earlier ones
    slow        packets of one direction stand in a queue, as at a modem; where the queue is full, a packet is dropped

Chance comes from a seed, one generator a direction: the n-th packet of a direction always has the same luck. Which
packet is the n-th is up to TCP and its timers, so a seed repeats the weather and not the run.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import random
import selectors
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import raw

__all__ = ["FAIR", "SILENT", "Relay", "Weather"]

#: Bytes of a packet, at most: the devices' MTU is 1500.
_PACKET = 2048


@dataclass(frozen=True)
class Weather:
    """What happens to packets.

    Attributes:
        lost, doubled: shares of them, from 0 to 1.
        delay: seconds, from and to.
        rate: bytes per second in each direction. queue: seconds that a packet may have to wait for that.
    """

    lost: float = 0.0
    doubled: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)
    rate: float = math.inf
    queue: float = math.inf


FAIR = Weather()

#: Nothing comes through, and nobody is told.
SILENT = Weather(lost=1.0)


class Relay:
    """Carries packets in a thread, between `ends`, two descriptors.

    Attributes:
        weather: what happens to packets from now on.
        counts: "packets" that came, and those "lost", "doubled" and "overtaken" by one that came after them.
    """

    def __init__(self, ends: tuple[int, int], seed: int) -> None:
        self.weather = FAIR
        self.counts = {"packets": 0, "lost": 0, "doubled": 0, "overtaken": 0}
        self._other = {ends[0]: ends[1], ends[1]: ends[0]}
        self._luck = {end: random.Random(f"{seed}.{number}") for number, end in enumerate(ends)}
        self._sent = Counter(ends)  # by the end that they came from
        self._latest = dict.fromkeys(ends, 0)
        self._free = dict.fromkeys(ends, 0.0)  # when the last packet of the queue will have passed
        self._due: list[
            tuple[float, int, int, bytes]
        ] = []  # a heap: when, where from, as what number, the packet
        self._turns: list[tuple[int, Weather]] = []

    def turn(self, packets: int, weather: Weather) -> None:
        """Other weather after so many packets more: exactly there, however fast they come."""
        self._turns.append((self.counts["packets"] + packets, weather))

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        stop, stopping = os.pipe()
        try:
            with raw.thread(lambda: self._work(stop)):
                try:
                    yield self
                finally:
                    os.write(stopping, b".")
        finally:
            os.close(stop)
            os.close(stopping)

    def _work(self, stop: int) -> None:
        with selectors.DefaultSelector() as selector:
            for readable in (stop, *self._other):
                selector.register(readable, selectors.EVENT_READ)
            while True:
                timeout = max(self._due[0][0] - time.monotonic(), 0) if self._due else None
                ready = [key.fd for key, _ in selector.select(timeout)]
                if stop in ready:
                    return
                for end in ready:
                    self._take(end, os.read(end, _PACKET))
                self._deliver()

    def _take(self, end: int, packet: bytes) -> None:
        """A packet has come, and its fate is drawn."""
        if packet[0] >> 4 != 4:
            return  # IPv6 looks for routers by itself
        if self._turns and self.counts["packets"] >= self._turns[0][0]:
            self.weather = self._turns.pop(0)[1]
        weather, luck = self.weather, self._luck[end]
        self.counts["packets"] += 1
        self._sent[end] += 1
        is_lost, is_doubled = luck.random() < weather.lost, luck.random() < weather.doubled
        now = time.monotonic()
        passed = max(self._free[end], now) + len(packet) / weather.rate
        if is_lost or passed - now > weather.queue:
            self.counts["lost"] += 1
            return
        self._free[end] = passed
        self.counts["doubled"] += is_doubled
        for _ in range(1 + is_doubled):
            when = passed + luck.uniform(*weather.delay)
            heapq.heappush(self._due, (when, end, self._sent[end], packet))

    def _deliver(self) -> None:
        """Those whose time has come."""
        while self._due and self._due[0][0] <= time.monotonic():
            _, end, number, packet = heapq.heappop(self._due)
            self.counts["overtaken"] += number < self._latest[end]
            self._latest[end] = max(number, self._latest[end])
            os.write(self._other[end], packet)
