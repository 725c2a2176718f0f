"""Long runs: a soak of mixed traffic with random faults, and cycles of connecting, echoing and closing.

    python -m tests.soak --minutes 60                 mixed traffic, every message counted on both sides
    python -m tests.soak.cycles --cycles 1000000      nothing grows with the number of connections there have been

Both are tests too, of seconds (test_soak.py, test_cycles.py). What long runs have found is in docs/faults.md.

They lie here and not under benchmarks/, because their answer is yes or no, not a figure: each ends with an exit code.
"""
