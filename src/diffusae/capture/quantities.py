"""What is recorded of a block."""

from typing import Literal

Quantity = Literal["update", "output"]
"""Of a block: output minus input, or its output."""
