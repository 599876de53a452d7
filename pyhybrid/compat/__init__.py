"""The class names of the design documents, as thin facades over the package's own functions.

Place in the data flow: on top of everything else; nothing in the package imports from here. The names are
also those of `pyhybrid` itself: ``from pyhybrid import Quantizer158Bit``.

    quantization.py   Quantizer158Bit, AdaptiveQuantizer, and functions from 1 to 8 bits
    clustering.py     KMeansClustering, ParameterClustering, DataClustering
    auxiliary.py      AuxiliaryNN, TrainingState, AdaptiveOptimizer
    constrained.py    ConstrainedOptimizationStep, AdaptiveConstrainedOptimizer
    training.py       TrainingConfig, TrainingMetrics
    trainer.py        HybridLLMTrainer, on array_run.py for rows of features
    backends.py       GPUQuantizer, CPPQuantizer, CQuantizer and their kin
    benchmarks.py     PerformanceBenchmark, BenchmarkResult

Where the documents give a thing two names, both work; two different values for one thing are an error.
"""
