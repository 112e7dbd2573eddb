"""What the running rows have drawn so far: a token and its three numbers at each position after the prefix.

Shape suffixes: R rows (slots), S positions.
"""

from __future__ import annotations

import torch

from reasoner.engine.sampling import Drawn

OUTPUT_BYTES = 8 + 3 * 4  # of a position


class Outputs:
    """Per row its tokens with their log-probabilities (sampling and full) and entropies; holds nothing until `reserve`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.release()

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        return self.tokens_RS.nbytes + self.numbers_3RS.nbytes

    def release(self) -> None:
        """Hold nothing."""
        self.tokens_RS = torch.empty(0, 0, dtype=torch.long, device=self.device)
        self.numbers_3RS = torch.empty(3, 0, 0, device=self.device)

    def reserve(self, rows: int, length: int) -> None:
        """Have room for so many rows of so many tokens, no fewer than before; what is there stays."""
        old_rows, old_length = self.tokens_RS.shape
        if (rows, length) == (old_rows, old_length):
            return
        tokens_RS, numbers_3RS = self.tokens_RS, self.numbers_3RS
        self.tokens_RS = tokens_RS.new_zeros(rows, length)
        self.tokens_RS[:old_rows, :old_length] = tokens_RS
        self.numbers_3RS = numbers_3RS.new_zeros(3, rows, length)
        self.numbers_3RS[:, :old_rows, :old_length] = numbers_3RS

    def put(self, row_R: torch.Tensor, at_R: torch.Tensor, drawn: Drawn) -> None:
        """Each row's newest token, which is its `at`-th."""
        self.tokens_RS[row_R, at_R] = drawn.token_B
        self.numbers_3RS[:, row_R, at_R] = torch.stack(drawn[1:])

    def tokens(self, row: int, start: int, end: int) -> list[int]:
        return self.tokens_RS[row, start:end].tolist()

    def numbers(self, row: int, count: int) -> list[list[float]]:
        """Log-probabilities, full ones and entropies of the first tokens."""
        return self.numbers_3RS[:, row, :count].tolist()

    def move(self, source: int, target: int, count: int) -> None:
        self.tokens_RS[target, :count] = self.tokens_RS[source, :count]
        self.numbers_3RS[:, target, :count] = self.numbers_3RS[:, source, :count]
