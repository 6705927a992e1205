"""Perigee measured beside its alternatives; `python -m benchmarks.run_all` runs everything."""
