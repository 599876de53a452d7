"""Ten tests of the installed package, as the design documents list them; a few seconds.

    pyhybrid selftest
    python -m pyhybrid.selftest
    python -c "from pyhybrid.selftest import *; unittest.main()"

Each measures what it is about: a test that could not fail would say nothing. Place in the data flow: for the
user, after an installation; `pyhybrid doctor` checks the C library's arithmetic instead.
"""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import pyhybrid
from pyhybrid._buffers import Array

__all__ = [
    "AuxiliaryNNTest",
    "ClusteringTest",
    "ComparisonTest",
    "QuantizationTest",
    "TrainingTest",
    "main",
    "run",
    "unittest",
]

_SEED = 7


def _blobs(n: int, features: int, clusters: int) -> tuple[Array, Array]:
    """Points around centres that are far apart, and the centre of each."""
    random = np.random.default_rng(_SEED)
    labels = np.arange(n) % clusters
    centres = 10.0 * random.standard_normal((clusters, features))
    return (centres[labels] + random.standard_normal((n, features))).astype(np.float32), labels


def _regression(n: int = 600, features: int = 32) -> tuple[Array, Array]:
    """A linear target with noise."""
    random = np.random.default_rng(_SEED)
    x = random.standard_normal((n, features))
    return x, x @ random.standard_normal(features) + 0.1 * random.standard_normal(n)


def _trained(x: Array, y: Array, **fields: Any) -> pyhybrid.HybridLLMTrainer:
    config = pyhybrid.TrainingConfig(**{"max_steps": 300, "data_clusters": 4, **fields})
    trainer = pyhybrid.HybridLLMTrainer(config, verbose=False)
    trainer.train(x, y)
    return trainer


def _error(trainer: pyhybrid.HybridLLMTrainer, x: Array, y: Array) -> float:
    assert isinstance(trainer.network, pyhybrid.TernaryMLP)
    return float(np.mean((trainer.network.predict(x)[:, 0] - y) ** 2))


class QuantizationTest(unittest.TestCase):
    """Levels, bytes, gradients."""

    def test_quantization_levels(self) -> None:
        """The documents' five levels, ties to even, and three where asked; same values as plain NumPy."""
        values = np.random.default_rng(_SEED).normal(size=10_001)
        five = pyhybrid.Quantizer158Bit().quantize(values)
        np.testing.assert_array_equal(five, np.rint(2 * np.clip(values, -1, 1)) / 2)
        self.assertEqual(set(np.unique(five)), {-1.0, -0.5, 0.0, 0.5, 1.0})
        three = pyhybrid.Quantizer158Bit(levels=3).quantize(values)
        self.assertEqual(set(np.unique(three)), {-1.0, 0.0, 1.0})

    def test_size_reduction(self) -> None:
        """A written file's bits a ternary weight, and the documents' arithmetic beside it."""
        before, after = pyhybrid.estimate_model_size_reduction(32, 7_000_000_000)
        self.assertAlmostEqual(before / after, 32 / 1.58, places=6)
        model = pyhybrid.LanguageModel(pyhybrid.PRESETS["tiny"].model, seed=_SEED)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.hyb"
            model.save(path)
            info, size = pyhybrid.inspect(path), path.stat().st_size
        self.assertEqual(info.file_bytes, size)
        assert info.ternary_bits_per_weight is not None
        self.assertLessEqual(info.ternary_bits_per_weight, 1.61)
        self.assertLess(size, 4 * info.parameters / 10)

    def test_gradient_quantization(self) -> None:
        """Messages with error feedback sum up to the gradient; one message alone does not."""
        random = np.random.default_rng(_SEED)
        steady = random.normal(size=(16, 64)).astype(np.float32)
        compressor = pyhybrid.GradientCompressor("row")
        sent = [compressor.round_trip("g", steady + 0.0).copy() for _ in range(50)]

        def cosine(a: Array, b: Array) -> float:
            return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))

        self.assertGreater(cosine(np.sum(sent, axis=0), 50 * steady), 0.999)
        self.assertLess(cosine(sent[0], steady), 0.95)


class ClusteringTest(unittest.TestCase):
    """K-means and what is made of it."""

    def test_kmeans_convergence(self) -> None:
        """Clear clusters are found within the iterations, and no point is nearer to another centroid."""
        points, labels = _blobs(600, 5, 4)
        fit = pyhybrid.KMeansClustering(4, random_state=_SEED).fit(points)
        assert fit.centroids is not None and fit.labels is not None and fit.n_iter is not None
        self.assertTrue(fit.converged)
        self.assertLess(fit.n_iter, 100)
        distances = ((points[:, None] - fit.centroids) ** 2).sum(axis=2)
        np.testing.assert_array_equal(fit.labels, distances.argmin(axis=1))
        for cluster in range(4):
            self.assertEqual(len(set(fit.labels[labels == cluster])), 1)

    def test_data_clustering(self) -> None:
        """Every point is in one cluster; balanced groups are of one size."""
        points, _ = _blobs(402, 5, 3)
        clustering = pyhybrid.DataClustering(3, random_state=_SEED)
        found, infos = clustering.cluster_embeddings(points)
        self.assertEqual(sum(info.size for info in infos), len(points))
        self.assertEqual(len(found), len(points))
        groups = clustering.get_balanced_clusters()
        self.assertEqual([len(group) for group in groups], [134, 134, 134])
        self.assertEqual(len(np.unique(np.concatenate(groups))), len(points))


class AuxiliaryNNTest(unittest.TestCase):
    """The network that sets rate and radius."""

    def test_lr_prediction(self) -> None:
        """Answers stay in their ranges for any state, NaN included."""
        network = pyhybrid.AuxiliaryNN(seed=_SEED)
        for values in (
            (2.0, 1.0, 0.5, 1.0, 0.1, 10),
            (1e30, 1e30, 9.0, 1e9, 1e30, 10**9),
            (np.nan,) * 5 + (1,),
        ):
            state = pyhybrid.TrainingState(*values)
            self.assertTrue(0.1 <= network.predict_learning_rate(state) <= 10.0)
            self.assertTrue(0.001 <= network.predict_trust_region(state) <= 1.0)

    def test_optimizer_feedback(self) -> None:
        """A rate that is ten times too low is brought back: the run ends close to one at the right rate."""
        x, y = _regression()
        usual = _error(_trained(x, y), x, y)
        guided = _error(_trained(x, y, learning_rate=0.0001), x, y)
        alone = _error(_trained(x, y, learning_rate=0.0001, use_auxiliary_nn=False), x, y)
        self.assertLess(guided, 0.5 * alone)
        self.assertLess(guided, 0.05 * float(np.mean(y**2)))
        self.assertLess(usual, 0.05 * float(np.mean(y**2)))


class TrainingTest(unittest.TestCase):
    """Whole runs."""

    def test_basic_training(self) -> None:
        """A quantised network leaves predict-zero far behind; every step's metrics are there; a checkpoint
        goes on where it was."""
        x, y = _regression()
        trainer = _trained(x, y)
        self.assertLess(_error(trainer, x, y), 0.05 * float(np.mean(y**2)))
        summary = trainer.get_training_summary()
        self.assertEqual(summary["total_steps"], 300)
        self.assertEqual(len(summary["metrics_history"]["loss"]), 300)
        self.assertLess(summary["final_loss"], summary["initial_loss"])
        with tempfile.TemporaryDirectory() as folder:
            path = trainer.save_checkpoint(Path(folder) / "checkpoint")
            other = pyhybrid.HybridLLMTrainer(trainer.config, verbose=False)
            other.load_checkpoint(path)
        for each in (trainer, other):
            each.train_step(x[:32], y[:32])
        np.testing.assert_array_equal(trainer.parameters, other.parameters)

    def test_quantization_impact(self) -> None:
        """Ternary weights end within 5 % of the target's variance of fp32 weights, and are ternary."""
        x, y = _regression()
        ternary, full = _trained(x, y), _trained(x, y, use_quantization=False)
        assert ternary.network is not None and full.network is not None
        formats = {p.format for p in ternary.network.parameters().values()}
        self.assertIn("ternary", formats)
        self.assertNotIn("ternary", {p.format for p in full.network.parameters().values()})
        gap = _error(ternary, x, y) - _error(full, x, y)
        self.assertLess(gap, 0.05 * float(np.mean(y**2)))


class ComparisonTest(unittest.TestCase):
    """Backends and convergence."""

    def test_clustering_impact(self) -> None:
        """Every backend that is there gives the same bits; more clusters never leave more inertia; training
        converges with clusters and without."""
        values = np.random.default_rng(_SEED).normal(size=20_000).astype(np.float32)
        dispatcher = pyhybrid.create_auto_dispatcher()
        results = [dispatcher.quantize(values, backend=name) for name in ("numpy", "c", "simd")]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
        self.assertEqual(dispatcher.get_metrics()["total_operations"], 3)
        points, _ = _blobs(300, 4, 4)
        inertia = [
            pyhybrid.KMeans(k, n_init=5, random_state=_SEED).fit(points).inertia_ for k in (1, 2, 4, 8)
        ]
        self.assertEqual(inertia, sorted(inertia, reverse=True))
        x, y = _regression()
        for clustered in (True, False):
            error = _error(_trained(x, y, use_clustering=clustered), x, y)
            self.assertLess(error, 0.05 * float(np.mean(y**2)))


_CASES = (QuantizationTest, ClusteringTest, AuxiliaryNNTest, TrainingTest, ComparisonTest)


def run(stream: TextIO | None = None) -> tuple[int, int]:
    """Runs the tests.

    Args:
        stream: for the report of each; None: standard error.

    Returns:
        How many passed, of how many.
    """
    loader = unittest.defaultTestLoader
    suite = unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in _CASES)
    result = unittest.TextTestRunner(stream=sys.stderr if stream is None else stream, verbosity=2).run(suite)
    failed = {test.id() for test, _ in (*result.failures, *result.errors, *result.skipped)}
    return result.testsRun - len(failed), result.testsRun


def main() -> int:
    """Runs the tests and prints how many passed; 0 if all did."""
    passed, total = run()
    print(f"{passed}/{total} {'PASSED' if passed == total else 'passed'}", flush=True)
    return 0 if passed == total else 1


if __name__ == "__main__":
    sys.exit(main())
