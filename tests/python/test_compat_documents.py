"""The design documents' Python blocks run as they stand, with their imports turned to pyhybrid."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyhybrid

DATA = Path(__file__).parent.parent / "data" / "documents.json"
BLOCKS = json.loads(DATA.read_text(encoding="utf-8"))["blocks"]
#: Modules of the documents; all of their names are pyhybrid's.
MODULES = ("benchmarks", "hybrid_dispatcher", "quantization", "training_system")
#: Names of the documents that a block may wait for.
AWAITED = (
    "BackendConfig",
    "HybridDispatcher",
    "HybridLLMTrainer",
    "PerformanceBenchmark",
    "create_auto_dispatcher",
)


def prelude() -> dict[str, Any]:
    """What the blocks take as given: the user's own data, and the package's names without an import."""
    rng = np.random.default_rng(0)
    training_data, training_targets = rng.standard_normal((64, 16)), rng.standard_normal((64, 16))
    return {name: getattr(pyhybrid, name) for name in pyhybrid.__all__} | {
        "load_dataset": lambda: (training_data, training_targets),
        "training_data": training_data,
        "your_data": training_data,
        "data": training_data,
        "weights": rng.standard_normal(1000),
    }


def fixed(code: str) -> str:
    """The code with its imports turned to pyhybrid."""
    return re.sub(rf"^from (?:{'|'.join(MODULES)}) import", "from pyhybrid import", code, flags=re.MULTILINE)


def used_names(code: str) -> set[str]:
    """Names that a block imports or reads."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def test_documents_have_all_their_blocks() -> None:
    """One block of document 000, ten of 001, four of 002; every import from their modules is turned."""
    assert [block["document"] for block in BLOCKS] == ["000"] + ["001"] * 10 + ["002"] * 4
    modules = {
        node.module
        for block in BLOCKS
        for node in ast.walk(ast.parse(fixed(block["code"])))
        if isinstance(node, ast.ImportFrom)
    }
    assert modules == {"pyhybrid"}


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block,
            id=f"{block['document']}: {block['heading']}",
            marks=pytest.mark.slow if "run_all_benchmarks" in block["code"] else (),
        )
        for block in BLOCKS
    ],
)
def test_documents_block_runs(block: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block runs; while a name of a later part is absent, it is skipped, and only while it is."""
    names = used_names(block["code"])
    absent = sorted(name for name in names & set(AWAITED) if name not in pyhybrid.__all__)
    if absent:
        for name in absent:
            with pytest.raises(AttributeError):
                getattr(pyhybrid, name)
        pytest.skip(f"pyhybrid has no {', '.join(absent)} yet")
    monkeypatch.chdir(tmp_path)
    exec(compile(fixed(block["code"]), block["heading"], "exec"), prelude())
