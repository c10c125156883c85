"""The prompt encoder: points and box corners become tokens, by a Fourier code of their places.

Source: Segment Anything, appendix A, and Tokenize Anything via Prompting, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LABELS = 5
PAD = 4

# The released models were trained with this value.
PI = 3.1415926


class PromptEncoder(nn.Module):
    """Random Fourier features of a place plus a learned vector for what the point says.

    Labels: 0 background, 1 foreground, 2 left-top corner of a box, 3 right-bottom corner, 4 pad.
    """

    coord_matrix: Tensor

    def __init__(self, dim: int, coordinate_scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("coord_matrix", coordinate_scale * torch.randn(2, dim // 2))
        self.point_embed = nn.Embedding(LABELS, dim)

    def forward(self, points: Tensor, labels: Tensor, frame: tuple[int, int]) -> Tensor:
        """Encode points.

        Args:
            points: (x, y) in pixels of the input frame, [M, P, 2]; places outside the frame are
                moved to its border, those of pads are ignored.
            labels: integers from 0 to 4, [M, P].
            frame: height and width of the input frame, in pixels.

        Returns:
            One token for each point, [M, P, C].
        """
        x, y = (points.float() + 0.5).unbind(-1)
        code = self._code((x / frame[1]).clamp(0, 1), (y / frame[0]).clamp(0, 1))
        code = code.masked_fill((labels == PAD)[..., None], 0)
        meaning = self.point_embed(labels)
        return code.to(meaning.dtype) + meaning

    def image_code(self, grid: tuple[int, int]) -> Tensor:
        """The code of the centre of each cell of a grid (height, width), float32 [cells, C]."""
        device = self.coord_matrix.device
        y, x = ((torch.arange(side, device=device) + 0.5) / side for side in grid)
        y, x = torch.meshgrid(y, x, indexing="ij")
        return self._code(x.flatten(), y.flatten())

    def _code(self, x: Tensor, y: Tensor) -> Tensor:
        """Fourier features of places in [0, 1], [...] and [...] to [..., C].

        The sum is written out: a matrix product would lose float32 under autocast or TF32.
        """
        along_x, along_y = self.coord_matrix.float()
        angle = (2 * x - 1)[..., None] * along_x + (2 * y - 1)[..., None] * along_y
        angle = 2 * PI * angle
        return torch.cat((angle.sin(), angle.cos()), -1)
