"""Train 1.58-bit (ternary) language models on text, store them in one small file, and run them anywhere.

    >>> import pyhybrid
    >>> model = pyhybrid.LanguageModel(pyhybrid.PRESETS["tiny"].model)
    >>> result = pyhybrid.Trainer(model, "book.txt", out="runs/book").train()   # doctest: +SKIP
    >>> pyhybrid.LanguageModel.load("runs/book/model.hyb").generate("Once")     # doctest: +SKIP

Names are loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyhybrid._context import Context as Context
    from pyhybrid._context import default_context as default_context
    from pyhybrid._errors import CancelledError as CancelledError
    from pyhybrid._errors import ChecksumError as ChecksumError
    from pyhybrid._errors import DeviceError as DeviceError
    from pyhybrid._errors import FileFormatError as FileFormatError
    from pyhybrid._errors import FileIOError as FileIOError
    from pyhybrid._errors import HybridError as HybridError
    from pyhybrid._errors import InvalidArgumentError as InvalidArgumentError
    from pyhybrid._errors import NotFiniteError as NotFiniteError
    from pyhybrid._errors import OutOfMemoryError as OutOfMemoryError
    from pyhybrid._errors import StateError as StateError
    from pyhybrid._errors import ThreadError as ThreadError
    from pyhybrid._errors import TruncatedFileError as TruncatedFileError
    from pyhybrid._errors import UnsupportedError as UnsupportedError
    from pyhybrid._errors import VersionError as VersionError
    from pyhybrid.clustering import ClusterStatistics as ClusterStatistics
    from pyhybrid.clustering import KMeans as KMeans
    from pyhybrid.clustering import KSuggestion as KSuggestion
    from pyhybrid.clustering import cluster_statistics as cluster_statistics
    from pyhybrid.clustering import suggest_k as suggest_k
    from pyhybrid.compat.auxiliary import AdaptiveOptimizer as AdaptiveOptimizer
    from pyhybrid.compat.auxiliary import AuxiliaryNN as AuxiliaryNN
    from pyhybrid.compat.auxiliary import TrainingState as TrainingState
    from pyhybrid.compat.backends import HAS_GPU as HAS_GPU
    from pyhybrid.compat.backends import CConstraintOperator as CConstraintOperator
    from pyhybrid.compat.backends import CHybridOptimizer as CHybridOptimizer
    from pyhybrid.compat.backends import CMatrixOps as CMatrixOps
    from pyhybrid.compat.backends import CPPHybridOptimizer as CPPHybridOptimizer
    from pyhybrid.compat.backends import CPPKMeans as CPPKMeans
    from pyhybrid.compat.backends import CPPOptimizationStep as CPPOptimizationStep
    from pyhybrid.compat.backends import CPPQuantizer as CPPQuantizer
    from pyhybrid.compat.backends import CQuantizer as CQuantizer
    from pyhybrid.compat.backends import GPUKMeans as GPUKMeans
    from pyhybrid.compat.backends import GPUMatrixOps as GPUMatrixOps
    from pyhybrid.compat.backends import GPUQuantizer as GPUQuantizer
    from pyhybrid.compat.backends import GPUTrainingBackend as GPUTrainingBackend
    from pyhybrid.compat.benchmarks import BenchmarkResult as BenchmarkResult
    from pyhybrid.compat.benchmarks import PerformanceBenchmark as PerformanceBenchmark
    from pyhybrid.compat.clustering import ClusterInfo as ClusterInfo
    from pyhybrid.compat.clustering import DataClustering as DataClustering
    from pyhybrid.compat.clustering import KMeansClustering as KMeansClustering
    from pyhybrid.compat.clustering import ParameterClustering as ParameterClustering
    from pyhybrid.compat.constrained import AdaptiveConstrainedOptimizer as AdaptiveConstrainedOptimizer
    from pyhybrid.compat.constrained import ConstrainedOptimizationStep as ConstrainedOptimizationStep
    from pyhybrid.compat.constrained import ConstrainedUpdateInfo as ConstrainedUpdateInfo
    from pyhybrid.compat.quantization import AdaptiveQuantizer as AdaptiveQuantizer
    from pyhybrid.compat.quantization import Quantizer158Bit as Quantizer158Bit
    from pyhybrid.compat.quantization import binarize_weights as binarize_weights
    from pyhybrid.compat.quantization import estimate_model_size_reduction as estimate_model_size_reduction
    from pyhybrid.compat.quantization import pack_bits as pack_bits
    from pyhybrid.compat.quantization import pack_q4 as pack_q4
    from pyhybrid.compat.quantization import quantize_per_row as quantize_per_row
    from pyhybrid.compat.quantization import quantize_weights as quantize_weights
    from pyhybrid.compat.quantization import ternary_quantize_weights as ternary_quantize_weights
    from pyhybrid.compat.quantization import unpack_binarized as unpack_binarized
    from pyhybrid.compat.quantization import unpack_q4 as unpack_q4
    from pyhybrid.compat.quantization import unpack_ternary as unpack_ternary
    from pyhybrid.compat.trainer import HybridLLMTrainer as HybridLLMTrainer
    from pyhybrid.compat.training import TrainingConfig as TrainingConfig
    from pyhybrid.compat.training import TrainingMetrics as TrainingMetrics
    from pyhybrid.config import PRESETS as PRESETS
    from pyhybrid.config import ConfigError as ConfigError
    from pyhybrid.config import DataConfig as DataConfig
    from pyhybrid.config import ModelConfig as ModelConfig
    from pyhybrid.config import RunConfig as RunConfig
    from pyhybrid.config import load_config as load_config
    from pyhybrid.data import Dataset as Dataset
    from pyhybrid.data import embedded_text as embedded_text
    from pyhybrid.data import load_dataset as load_dataset
    from pyhybrid.dispatcher import AdaptiveDispatcher as AdaptiveDispatcher
    from pyhybrid.dispatcher import BackendConfig as BackendConfig
    from pyhybrid.dispatcher import BackendMetrics as BackendMetrics
    from pyhybrid.dispatcher import HybridDispatcher as HybridDispatcher
    from pyhybrid.dispatcher import create_auto_dispatcher as create_auto_dispatcher
    from pyhybrid.doctor import diagnose as diagnose
    from pyhybrid.gradient_compression import GradientCompressor as GradientCompressor
    from pyhybrid.gradient_messages import decode_gradient as decode_gradient
    from pyhybrid.gradient_messages import encode_gradient as encode_gradient
    from pyhybrid.language_model import Evaluation as Evaluation
    from pyhybrid.language_model import Generation as Generation
    from pyhybrid.language_model import LanguageModel as LanguageModel
    from pyhybrid.language_model import MemoryEstimate as MemoryEstimate
    from pyhybrid.language_model import Parameter as Parameter
    from pyhybrid.mlp import FitResult as FitResult
    from pyhybrid.mlp import TernaryMLP as TernaryMLP
    from pyhybrid.model_file import FileSizes as FileSizes
    from pyhybrid.model_file import ModelInfo as ModelInfo
    from pyhybrid.model_file import TensorCoding as TensorCoding
    from pyhybrid.model_file import inspect as inspect
    from pyhybrid.model_file import requantize as requantize
    from pyhybrid.parameter_clusters import cluster_rows as cluster_rows
    from pyhybrid.parameter_clusters import cluster_table as cluster_table
    from pyhybrid.parameter_clusters import cluster_values as cluster_values
    from pyhybrid.precision import PrecisionPlan as PrecisionPlan
    from pyhybrid.precision import allocate_precision as allocate_precision
    from pyhybrid.precision import quantization_errors as quantization_errors
    from pyhybrid.quantization import PackedWeights as PackedWeights
    from pyhybrid.quantization import constrain_norm as constrain_norm
    from pyhybrid.quantization import dequantize as dequantize
    from pyhybrid.quantization import entropy_scale as entropy_scale
    from pyhybrid.quantization import gemm as gemm
    from pyhybrid.quantization import matmul as matmul
    from pyhybrid.quantization import pack as pack
    from pyhybrid.quantization import quantize as quantize
    from pyhybrid.quantization import quantize_activations as quantize_activations
    from pyhybrid.quantization import quantize_levels as quantize_levels
    from pyhybrid.quantization import unpack as unpack
    from pyhybrid.samplers import make_sampler as make_sampler
    from pyhybrid.tokenizer import Tokenizer as Tokenizer
    from pyhybrid.trainer import Trainer as Trainer
    from pyhybrid.trainer import TrainingResult as TrainingResult
    from pyhybrid.window_features import WindowFeatures as WindowFeatures

#: The version of the C library that runs.
__version__: str

#: Where each public name is defined.
_HOMES: dict[str, tuple[str, ...]] = {
    "_context": ("Context", "default_context"),
    "_errors": (
        "CancelledError",
        "ChecksumError",
        "DeviceError",
        "FileFormatError",
        "FileIOError",
        "HybridError",
        "InvalidArgumentError",
        "NotFiniteError",
        "OutOfMemoryError",
        "StateError",
        "ThreadError",
        "TruncatedFileError",
        "UnsupportedError",
        "VersionError",
    ),
    "clustering": ("ClusterStatistics", "KMeans", "KSuggestion", "cluster_statistics", "suggest_k"),
    "compat.auxiliary": (
        "AdaptiveOptimizer",
        "AuxiliaryNN",
        "TrainingState",
    ),
    "compat.clustering": (
        "ClusterInfo",
        "DataClustering",
        "KMeansClustering",
        "ParameterClustering",
    ),
    "compat.constrained": (
        "AdaptiveConstrainedOptimizer",
        "ConstrainedOptimizationStep",
        "ConstrainedUpdateInfo",
    ),
    "compat.quantization": (
        "AdaptiveQuantizer",
        "Quantizer158Bit",
        "binarize_weights",
        "estimate_model_size_reduction",
        "pack_bits",
        "pack_q4",
        "quantize_per_row",
        "quantize_weights",
        "ternary_quantize_weights",
        "unpack_binarized",
        "unpack_q4",
        "unpack_ternary",
    ),
    "compat.trainer": ("HybridLLMTrainer",),
    "compat.training": (
        "TrainingConfig",
        "TrainingMetrics",
    ),
    "compat.backends": (
        "HAS_GPU",
        "CConstraintOperator",
        "CHybridOptimizer",
        "CMatrixOps",
        "CPPHybridOptimizer",
        "CPPKMeans",
        "CPPOptimizationStep",
        "CPPQuantizer",
        "CQuantizer",
        "GPUKMeans",
        "GPUMatrixOps",
        "GPUQuantizer",
        "GPUTrainingBackend",
    ),
    "compat.benchmarks": ("BenchmarkResult", "PerformanceBenchmark"),
    "config": (
        "PRESETS",
        "ConfigError",
        "DataConfig",
        "ModelConfig",
        "RunConfig",
        "load_config",
    ),
    "data": ("Dataset", "embedded_text", "load_dataset"),
    "dispatcher": (
        "AdaptiveDispatcher",
        "BackendConfig",
        "BackendMetrics",
        "HybridDispatcher",
        "create_auto_dispatcher",
    ),
    "doctor": ("diagnose",),
    "gradient_compression": ("GradientCompressor",),
    "gradient_messages": ("decode_gradient", "encode_gradient"),
    "language_model": ("Evaluation", "Generation", "LanguageModel", "MemoryEstimate", "Parameter"),
    "mlp": ("FitResult", "TernaryMLP"),
    "model_file": ("FileSizes", "ModelInfo", "TensorCoding", "inspect", "requantize"),
    "parameter_clusters": ("cluster_rows", "cluster_table", "cluster_values"),
    "precision": ("PrecisionPlan", "allocate_precision", "quantization_errors"),
    "quantization": (
        "PackedWeights",
        "constrain_norm",
        "dequantize",
        "entropy_scale",
        "gemm",
        "matmul",
        "pack",
        "quantize",
        "quantize_activations",
        "quantize_levels",
        "unpack",
    ),
    "samplers": ("make_sampler",),
    "tokenizer": ("Tokenizer",),
    "trainer": ("Trainer", "TrainingResult"),
    "window_features": ("WindowFeatures",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from pyhybrid._native import ffi, lib

        return ffi.string(lib.hyb_version_string()).decode()
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'pyhybrid' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pyhybrid.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF, "__version__"])
