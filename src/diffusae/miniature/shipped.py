"""Where the package carries the trained miniature; known without torch."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "weights"
