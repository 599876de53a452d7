"""The registry of benchmark rows: what is measured, against which peer, and what is claimed about it.

Place in the data flow: the modules named in SECTIONS each give their rows;
cli.py and the tests choose among them; measure.py runs them. A side (ours or a peer) is named by the path of
a class, "module:name", so that it can be made in a process of its own: see `Side`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

__all__ = ["SECTIONS", "Goal", "Limit", "Options", "Row", "Side", "UnavailableError", "rows"]

#: Sections in the order of the report; each is a module of this package with a function `rows(options)`.
SECTIONS: dict[str, str] = {
    "quantize": "quantize",
    "fidelity": "fidelity",
    "pack": "pack",
    "codec": "codec",
    "matmul": "matmul",
    "gemm": "gemm",
    "kernels": "kernels",
    "compress": "compress",
    "kmeans": "kmeans",
    "documents": "documents",
    "gpu": "gpu",
    "train": "training",
    "generate": "generation",
    "scaling": "scaling",
    "quality": "quality",
    "twin": "twin",
    "mlp": "mlp",
    "optimizer": "optimizer",
    "update": "update",
    "rate": "rate",
    "size": "size",
    "start": "start",
}

Answer = Mapping[str, NDArray[Any]]


class UnavailableError(RuntimeError):
    """Raised by a side that cannot run here; its message is shown as the reason why the peer is skipped."""


class Side(Protocol):
    """One side of a comparison; made with the row's sizes as keyword arguments, in a process of its own.

    A module that is missing (ModuleNotFoundError) or `UnavailableError` skips a peer visibly. A side whose
    row has a `Limit` without `per_unit` also has a method `amount(kind) -> float`: see there.
    """

    def answer(self) -> Answer:
        """What it computes, as arrays: compared between the sides before anything is timed."""
        ...

    def run(self, round_number: int, /) -> float:
        """Measures once.

        Args:
            round_number: 0, 1, ...; the same for both sides of a pair.

        Returns:
            The figure, in the row's unit.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit of the machine that a row's figure is held against; measured beside the row's rounds.

    Args:
        kind: 'read' or 'copy' (bytes a second), 'fma' (fp32 operations a second) or 'int8' (operations a
            second of int8 products).
        per_unit: bytes or operations that one unit of the row's figure stands for; None: ask our side,
            `amount(kind)`.
        working_set: bytes that 'read' and 'copy' go over, source and target together.
    """

    kind: Literal["read", "copy", "fma", "int8"]
    per_unit: float | None = None
    working_set: int = 0


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A claim that a row must bear out.

    Args:
        text: the claim, one sentence.
        kind: 'ratio' (median of ours / peer, or its inverse where lower is better, at least the limit),
            'difference' (mean of ours - peer at most the limit in magnitude), 'gain' (mean of ours - peer,
            or its inverse where lower is better, at least the limit), 'worst' (the largest ours / peer of a
            round, or its inverse where higher is better, at most the limit), 'value' (median of ours at most
            the limit), or 'share' (of the machine's limit, at least the limit).
        limit: see kind.
        peer: the peer's name; None for 'value' and 'share'.
    """

    text: str
    kind: Literal["ratio", "difference", "gain", "worst", "value", "share"]
    limit: float
    peer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a benchmark table.

    Args:
        name: unique; section/what/sizes.
        section: key of SECTIONS.
        unit: of the figures.
        better: whether 'higher' or 'lower' figures are better.
        ours: "module:class" of our Side.
        peers: name to "module:class" of each peer's Side.
        sizes: keyword arguments of every side; what the table prints.
        hidden: further keyword arguments, such as paths, which are not printed.
        threads: threads that each side may use.
        rounds: measurements of each side.
        agreement: name of an answer's array to the largest relative difference (Euclidean norm of the
            difference by the norm of the peer's) that is accepted; 0: equal.
        peer_agreement: by peer, bounds in place of those of `agreement`, for peers that round more; None for
            what the peer does not compute.
        peer_environment: by peer, environment variables of its process.
        limits: limits of the machine that bound the figure (better must be 'higher'); the share is that of
            the closest.
        limits_add: what the limits bound is done one after the other: the share is the sum.
        goal: claim, if any.
        goals: further claims.
        note: what a reader must know to read the figures.
    """

    name: str
    section: str
    unit: str
    better: Literal["higher", "lower"]
    ours: str
    peers: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    hidden: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    rounds: int = 5
    agreement: Mapping[str, float] = field(default_factory=dict)
    peer_agreement: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    peer_environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    limits_add: bool = False
    goal: Goal | None = None
    goals: tuple[Goal, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user of `pyhybrid bench` chose.

    Args:
        peers: run the peers too.
        presets: of the model rows.
        threads: numbers of threads for rows that are measured at several.
        rounds: measurements a side; None: the row's own number.
        steps: optimiser steps of a quality run.
        seeds: quality runs, seeds 0 to seeds - 1.
        data: text of the quality and optimizer runs; None: the embedded documentation text.
        runs: folder that keeps each run of the section optimizer, so that none is done twice; None: none.
        kernel_threads: numbers of threads for the rows of single operations.
        quick: fewer rows of single operations, and shorter rounds.
        isa: highest tier of our sides, as HYB_ISA says it; None: as the environment has it.
    """

    peers: bool = False
    presets: tuple[str, ...] = ("small", "base")
    threads: tuple[int, ...] = (1, 2)
    rounds: int | None = None
    steps: int = 600
    seeds: int = 3
    data: Path | None = None
    runs: Path | None = None
    kernel_threads: tuple[int, ...] = (1,)
    quick: bool = False
    isa: str | None = None


def rows(section: str, options: Options) -> list[Row]:
    """Returns the rows of a section, or of all.

    Args:
        section: key of SECTIONS, or 'all'.
        options: what the user chose.

    Raises:
        KeyError: no such section.
    """
    names = list(SECTIONS) if section == "all" else [section]
    found: list[Row] = []
    for name in names:
        module = importlib.import_module(f"pyhybrid.benchmarks.{SECTIONS[name]}")
        found.extend(module.rows(options))
    return found
