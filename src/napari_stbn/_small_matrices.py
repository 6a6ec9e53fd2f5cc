"""Algebra of small matrices whose entries are images: elementwise, a few kernels for a whole clip.

A matrix is the list of the rows of its lower triangle; a vector is a list of images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["half_form", "solve"]


def _cholesky(matrix: list[list[Tensor]]) -> list[list[Tensor]]:
    """Cholesky factor."""
    lower: list[list[Tensor]] = []
    for i, row in enumerate(matrix):
        out: list[Tensor] = []
        for j in range(i):
            rest = row[j] - sum((out[k] * lower[j][k] for k in range(j)), start=torch.zeros(()))
            out.append(rest / lower[j][j])
        out.append(
            (row[i] - sum((e.square() for e in out), start=torch.zeros(()))).clamp(min=1e-6).sqrt()
        )
        lower.append(out)
    return lower


def _forward_substitute(lower: list[list[Tensor]], right: Sequence[Tensor | float]) -> list[Tensor]:
    """Solve L x = right for images."""
    solution: list[Tensor] = []
    for i, row in enumerate(lower):
        known = sum((row[k] * solution[k] for k in range(i)), start=torch.zeros(()))
        solution.append((right[i] - known) / row[i])
    return solution


def half_form(matrix: list[list[Tensor]], residual: list[Tensor]) -> Tensor:
    """``(r^T M^-1 r + log det M) / 2`` of every pixel."""
    if len(matrix) == 1:
        m = matrix[0][0]
        return 0.5 * (residual[0].square() / m + m.log())
    lower = _cholesky(matrix)
    whitened = _forward_substitute(lower, residual)
    quadratic = sum((x.square() for x in whitened), start=torch.zeros(()))
    return 0.5 * quadratic + sum(
        (lower[i][i].log() for i in range(len(lower))), start=torch.zeros(())
    )


def solve(matrix: list[list[Tensor]], right: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """``M^-1 right`` and the diagonal of ``M^-1``, as images."""
    if len(matrix) == 1:
        m = matrix[0][0]
        return [right[0] / m], [1 / m]
    c = len(matrix)
    lower = _cholesky(matrix)
    # Columns of L^-1; M^-1 = L^-T L^-1.
    columns = [_forward_substitute(lower, [float(i == j) for i in range(c)]) for j in range(c)]
    whitened = _forward_substitute(lower, right)
    zero = torch.zeros(())
    solved = [sum((columns[i][k] * whitened[k] for k in range(i, c)), start=zero) for i in range(c)]
    diagonal = [sum((columns[i][k].square() for k in range(i, c)), start=zero) for i in range(c)]
    return solved, diagonal
