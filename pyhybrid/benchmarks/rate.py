"""Rate: bits a weight in the bytes of a compressed file, and the loss that they cost, of whole training runs.

Runs are kept as those of the section optimizer are. Bits are counted from the file that was written: codes,
probabilities, scales and directory of the ternary matrices; of `whole` rows the whole file by all parameters.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pyhybrid.benchmarks.optimizer_sides import Hybrid
from pyhybrid.benchmarks.registry import Goal, Options, Row
from pyhybrid.benchmarks.runs import validation_loss

__all__ = ["CHOICES", "Coded", "CodedAsTrained", "CodedLoss", "CodedLossAsTrained", "Plain", "rows"]

#: What else may be smaller in a file: `pyhybrid.requantize`'s arguments by name.
CHOICES: dict[str, dict[str, Any]] = {
    "embedding-8": {},
    "half-gains": {"half_gains": True},
    "embedding-4": {"half_gains": True, "embedding_bits": 4},
    "embedding-1.58": {"half_gains": True, "embedding_bits": 1.58},
}
_RAMP = "ours.training.ramp_start=0.3 ours.training.ramp_end=0.7"
_HERE = "pyhybrid.benchmarks.rate"
Figure = Literal["bits", "whole"]


def _layer_bits(info: Any) -> float:
    """Bits of the codes of the layers' matrices where they are not ternary."""
    matrices = [tensor for tensor in info.tensors if tensor.name.startswith("blk.") and tensor.shape[0] > 1]
    bits = sum(tensor.coding.bits * tensor.parameters for tensor in matrices)
    return float(bits / sum(tensor.parameters for tensor in matrices))


class Coded(Hybrid):
    """Bits of the compressed file of a run.

    Args:
        figure: 'bits': a ternary weight, all that it needs counted; 'whole': the file by all parameters.
        choice: of CHOICES.
        run: see TrainingRun.
    """

    def __init__(self, *, figure: Figure = "bits", choice: str = "embedding-8", **run: Any) -> None:
        super().__init__(**run)
        self.figure, self.choice = figure, choice

    def kept(self, seed: int) -> dict[str, Any] | None:
        """Only with its files' figures."""
        found = super().kept(seed)
        files = {} if found is None else found.get("files", {})
        return found if files.get(self.choice, {}).get("bits") else None

    def behind(self, model: Any, dataset: Any) -> dict[str, Any]:
        """Writes each choice's file; bits, bytes and loss."""
        from pyhybrid.language_model import LanguageModel
        from pyhybrid.model_file import compress, inspect, requantize

        t, found = self.config.training, {}
        with TemporaryDirectory() as folder:
            trained, path = Path(folder) / "trained.hyb", Path(folder) / "choice.hyb"
            model.save(trained)
            for choice, changes in CHOICES.items():
                requantize(trained, path, **changes)
                loss = validation_loss(LanguageModel.load(path), dataset, t.batch_size, t.context)
                compress(path, path)
                info = inspect(path)
                found[choice] = {
                    "bits": info.ternary_bits_per_weight_counted or _layer_bits(info),
                    "whole": 8 * info.file_bytes / info.parameters,
                    "loss": loss,
                }
        return {"files": found}

    def run(self, round_number: int) -> float:
        """Bits."""
        return float(self.record(round_number)["files"][self.choice][self.figure])


class Plain(Coded):
    """The same of the run without our own changes."""

    def overrides(self) -> list[str]:
        return self.changes_of(None)


class CodedLoss(Coded):
    """Validation loss of the file."""

    def run(self, round_number: int) -> float:
        return float(self.record(round_number)["files"][self.choice]["loss"])


class CodedAsTrained(Coded):
    """The same without another choice."""

    def __init__(self, *, choice: str, **run: Any) -> None:
        del choice
        super().__init__(**run)


class CodedLossAsTrained(CodedAsTrained, CodedLoss):
    """Its loss."""


def _row(name: str, options: Options, *, seeds: int, **fields: Any) -> Row:
    sizes = {"preset": "small", "steps": 600, "text": "file", "changes": ""} | fields.pop("sizes", {})
    if options.data is None and sizes["text"] == "file":
        sizes["text"] = "documentation"
    return Row(
        name=f"rate/{name}",
        section="rate",
        better="lower",
        sizes=sizes,
        hidden={
            "data": None if options.data is None else str(options.data),
            "runs": None if options.runs is None else str(options.runs),
        },
        threads=max(options.threads),
        agreement={"first_batch": 0.0},
        rounds=seeds,
        note="One round a seed.",
        **fields,
    )


def _pair(
    name: str, changes: str, options: Options, *, seeds: int, steps: int, loss: Goal | None, bits: Goal | None
) -> list[Row]:
    """Loss beside plain ternary weights, and bits."""
    sizes = {"steps": steps, "changes": changes}
    plain = {"plain ternary": f"{_HERE}:Plain"}
    return [
        _row(
            f"loss/{steps}/{name}",
            options,
            seeds=seeds,
            sizes=sizes,
            unit="nats/byte",
            ours="pyhybrid.benchmarks.optimizer_sides:Hybrid",
            peers={"plain ternary": "pyhybrid.benchmarks.optimizer_sides:HybridDefaults"},
            goal=loss,
        ),
        _row(
            f"bits/{steps}/{name}",
            options,
            seeds=seeds,
            sizes=sizes,
            unit="bits/weight",
            ours=f"{_HERE}:Coded",
            peers=plain,
            goal=bits,
        ),
    ]


def _target(bits: float) -> str:
    return f"ours.training.bits_target={bits:g}"


def _goals(name: str, steps: int, bits: float, loss: float) -> dict[str, Goal]:
    where = f"{name}, {steps} steps"
    return {
        "loss": Goal(
            text=f"{where}: the loss is at most {loss:g} nats above plain ternary weights'.",
            kind="gain",
            limit=-loss,
            peer="plain ternary",
        ),
        "bits": Goal(
            text=f"{where}: at most {bits:g} bits a ternary weight, everything counted.",
            kind="value",
            limit=bits,
        ),
    }


def rows(options: Options) -> list[Row]:
    """The two targets and three of four; the curve; what else may be smaller; the preset `base`."""
    found = []
    for steps in (600, 2000):
        for bits, most, loss in ((1.53, 1.55, 0.005), (1.40, 1.42, 0.02)):
            name = f"{bits:.2f}"
            found += _pair(
                name,
                f"{_target(bits)} {_RAMP}",
                options,
                seeds=3,
                steps=steps,
                **_goals(name, steps, most, loss),
            )
        fours = f"ours.model.threshold=three_of_four {_RAMP}"
        goals = {"loss": None, "bits": _goals("three of four", steps, 1.27, 0)["bits"]}
        found += _pair("three-of-four", fours, options, seeds=3, steps=steps, **goals)
    found.append(_at_equal_time(options))
    none: dict[str, None] = {"loss": None, "bits": None}
    curve = {f"{bits:.2f}": f"{_target(bits)} {_RAMP}" for bits in (1.15, 1.3, 1.45, 1.58)}
    curve |= {f"no-ramp-{bits:.2f}": _target(bits) for bits in (1.15, 1.3, 1.4, 1.53)}
    curve |= {f"uniform-{bits}": f"ours.model.bits={bits}" for bits in (1, 2)}
    for name, changes in curve.items():
        found += _pair(name, changes, options, seeds=1, steps=600, **none)
    for choice in list(CHOICES)[1:]:
        for figure, unit, side in (("bits", "nats/byte", "Loss"), ("whole", "bits/parameter", "")):
            sizes = {"changes": f"{_target(1.53)} {_RAMP}", "choice": choice, "figure": figure}
            found.append(
                _row(
                    f"choice/{side.lower() or figure}/{choice}",
                    options,
                    seeds=3,
                    sizes=sizes,
                    unit=unit,
                    ours=f"{_HERE}:Coded{side}",
                    peers={"8-bit embedding": f"{_HERE}:Coded{side}AsTrained"},
                )
            )
    return found + _of_base(options)


def _at_equal_time(options: Options) -> Row:
    """1.53 bits in 600 steps, 70 % of which take 1.6 times as long, beside plain weights in 850."""
    return _row(
        "equal-time/1.53",
        options,
        seeds=3,
        sizes={"changes": f"{_target(1.53)} {_RAMP} peer.training.steps=850"},
        unit="nats/byte",
        ours="pyhybrid.benchmarks.optimizer_sides:Hybrid",
        peers={"plain ternary, 850 steps": "pyhybrid.benchmarks.optimizer_sides:Peer"},
    )


def _of_base(options: Options) -> list[Row]:
    changes = f"training.batch_size=4 {_target(1.40)} {_RAMP}"
    sizes: dict[str, Any] = {"preset": "base", "steps": 300, "text": "library", "changes": changes}
    return [
        _row(
            "base/whole",
            options,
            seeds=1,
            sizes=sizes | {"figure": "whole"},
            unit="bits/parameter",
            ours=f"{_HERE}:Coded",
            peers={},
            goal=Goal(
                text="`base` at 1.4 bits: the whole file has at most 1.6 bits a parameter (20 times less).",
                kind="value",
                limit=1.6,
            ),
        ),
        _row(
            "base/loss",
            options,
            seeds=1,
            sizes=sizes,
            unit="nats/byte",
            ours="pyhybrid.benchmarks.optimizer_sides:Hybrid",
            peers={"plain ternary": "pyhybrid.benchmarks.optimizer_sides:HybridDefaults"},
        ),
    ]
