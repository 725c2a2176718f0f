"""The ruler: side-by-side measurements. `python -m benchmarks --help`; how and why: README.md here."""
