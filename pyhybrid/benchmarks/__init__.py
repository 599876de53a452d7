"""Measurements of this library beside peers in the same run; one registry of rows.

Place in the data flow: `pyhybrid bench` (cli.py) takes rows from registry.py, measure.py runs each side in a
process of its own, and report.py turns results into BENCHMARKS.md. training, generation, matmul, quality and
size define the rows.
"""
