"""Training runs as sides of a benchmark: done once, found again by what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pyhybrid.benchmarks.optimizer_sides import AdamW, Hybrid, HybridDefaults, HybridFixed, Muon
from pyhybrid.benchmarks.promise_table import PROMISES
from pyhybrid.benchmarks.promises import render_promises
from pyhybrid.benchmarks.registry import SECTIONS, Options, UnavailableError, rows
from pyhybrid.benchmarks.runs import RunFolder, kept_rows, text_paths
from pyhybrid.config import PRESETS

SHORT = {"preset": "tiny", "steps": 2, "text": "documentation"}
SMALL = (
    "model.dim=16 model.n_layers=1 model.n_heads=2 model.n_kv_heads=2 model.ffn_dim=16 training.batch_size=1"
)


@pytest.mark.parametrize("side", [Hybrid, HybridFixed, AdamW, Muon])
def test_a_run_is_done_once(side: type[Hybrid], tmp_path: Path) -> None:
    """The second time its figure comes from the record, whatever that says."""
    made = side(**SHORT, changes=SMALL, runs=str(tmp_path))
    first = made.run(3)
    (path,) = tmp_path.glob("*.json")
    assert 3 < first < 7
    path.write_text(path.read_text().replace(repr(first), "1.5"))
    path.rename(tmp_path / "renamed.json")
    assert made.run(3) == 1.5
    assert made.run(4) not in (first, 1.5)


@pytest.mark.parametrize(
    ("change", "traced"),
    [
        ("training.parameter_clusters=2", "cluster_cohesion"),
        ("training.gradient_compression=five_level", "gradient_cosine"),
    ],
)
def test_what_stands_before_the_optimiser_is_part_of_a_run(change: str, traced: str, tmp_path: Path) -> None:
    """Clusters and compression change its loss, and their figures are kept."""
    plain = Hybrid(**SHORT, changes=SMALL)
    changed = Hybrid(**SHORT, changes=f"{SMALL} {change}", runs=str(tmp_path))
    assert changed.run(0) != plain.run(0)
    (path,) = tmp_path.glob("*.json")
    assert all(0 < value < 1 for value in json.loads(path.read_text())["trace"][traced])


def test_changes_are_of_all_sides_or_of_one() -> None:
    """Those with a prefix are of our side, or of the peers."""
    changes = "model.dim=32 ours.training.momentum=0.5 peer.training.beta1=0.7 peer.training.steps=2000"
    ours, default, peer = (side(**SHORT, changes=changes).config for side in (Hybrid, HybridDefaults, AdamW))
    assert [c.model.dim for c in (ours, default, peer)] == [32] * 3
    assert (ours.training.momentum, default.training.momentum) == (0.5, 0.8)
    assert (ours.training.beta1, peer.training.beta1) == (0.8, 0.7)
    assert (ours.training.steps, peer.training.steps) == (2, 2000)


def test_a_record_is_found_by_what_it_says(tmp_path: Path) -> None:
    """Not by fields without an effect; fields that are missing in it have their defaults."""
    folder, config = RunFolder(tmp_path), PRESETS["tiny"].config
    folder.keep("pyhybrid", 0, "abc", config, {"validation_loss": 2.0})
    same = replace(config, training=replace(config.training, threads=2, log_interval=7, learning_rate=0.07))
    assert folder.find("pyhybrid", 0, "abc", same) is not None
    assert folder.find("pyhybrid", 1, "abc", config) is None
    assert folder.find("Muon + AdamW", 0, "abc", config) is None
    other = replace(config, training=replace(config.training, momentum=0.9))
    assert folder.find("pyhybrid", 0, "abc", other) is None
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    del record["config"]["training"]["hypergradient_weight"]
    path.unlink()
    path = tmp_path / "older.json"
    path.write_text(json.dumps(record))
    assert folder.find("pyhybrid", 0, "abc", config) is not None
    broken = tmp_path / "broken.json"
    broken.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=broken.name):
        folder.find("pyhybrid", 0, "abc", config)


def test_adamw_does_not_depend_on_the_trust_region(tmp_path: Path) -> None:
    """Its records stay good when a default of the hybrid optimiser changes."""
    config = PRESETS["tiny"].config
    folder, adamw = RunFolder(tmp_path), replace(config.training, optimizer="adamw")
    folder.keep("pyhybrid", 0, "abc", replace(config, training=adamw), {})
    changed = replace(config, training=replace(adamw, momentum=0.9, trust_radius=0.1))
    assert folder.find("pyhybrid", 0, "abc", changed) is not None


def test_a_file_must_be_given() -> None:
    """The text 'file' needs a path."""
    with pytest.raises(UnavailableError, match="--data"):
        text_paths("file", None)
    assert text_paths("file", "x.txt") == "x.txt"
    assert len(text_paths("library", None)) > 1


def test_rows_shrink_to_the_runs_that_are_kept(tmp_path: Path) -> None:
    """A row has the seeds that all of its sides were run with; without all of them it claims nothing."""
    row = next(iter(rows("optimizer", Options(runs=tmp_path))))
    small = replace(row, sizes={**row.sizes, **SHORT, "changes": SMALL}, rounds=2, peers={"P": row.ours})
    assert small.goal is not None
    assert kept_rows([small]) == []
    Hybrid(**SHORT, changes=SMALL, runs=str(tmp_path)).run(0)
    (shorter,) = kept_rows([small])
    assert (shorter.rounds, shorter.goal) == (1, None)
    assert "1 of 2 seeds" in shorter.note
    Hybrid(**SHORT, changes=SMALL, runs=str(tmp_path)).run(1)
    assert kept_rows([small]) == [small]


def test_promises_are_judged_by_the_rows_that_measure_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure and verdict follow from results; without them nothing is said but what is arithmetic."""
    monkeypatch.setattr("pyhybrid.cuda.unavailable", lambda: None)  # the GPU's rows as well
    empty = render_promises(PROMISES, {})[2:]
    assert all(("not measured yet" in line) == bool(p.rows) for line, p in zip(empty, PROMISES, strict=True))
    names = {name for promise in PROMISES for name in promise.rows}
    options = Options(data=Path("x.txt"))
    assert names <= {row.name for section in SECTIONS for row in rows(section, options)}
    good = {"median": 0.005, "samples": [1.0, 1.01]}
    peer = {**good, "samples": [1.5, 1.4], "gain": 0.1, "difference": 0.01, "ratio": 10.0}
    peers = dict.fromkeys(
        (
            *("AdamW, tuned", "default rate", "no feedback", "fp32 weights", "any coder", "PyTorch eager"),
            *("16 hidden units", "uniform", "keep", "NumPy", "C"),
        ),
        peer,
    )
    results = {
        "x": {"command": "c", "rows": [{"name": n, "note": "", "ours": good, "peers": peers} for n in names]}
    }

    def lines(number: str) -> list[str]:
        table = render_promises(PROMISES, results)[2:]
        assert not any("not measured yet" in line for line in table)
        return [line for line, p in zip(table, PROMISES, strict=True) if p.number == number]

    assert all("+0.100 nats, 2 seed(s) | true | `c`" in line for line in lines("N13"))
    assert "30.7% lower | true" in lines("N14")[0]
    assert "true | `c`" in lines("N9")[0]
    peer["gain"], good["median"] = -0.1, 0.5
    assert all("**no**" in line for line in (*lines("N13"), *lines("N9")))
