"""The class names of the design documents, as thin facades over the package's own functions.

Place in the data flow: on top of everything else; nothing in the package imports from here.

    backends.py     GPUQuantizer, CPPQuantizer, CQuantizer and their kin
    benchmarks.py   PerformanceBenchmark, BenchmarkResult
"""
