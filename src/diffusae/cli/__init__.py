"""The command `diffusae STAGE [overrides]`: every stage is a Hydra application of its own.

Nothing here imports a stage before its configuration is composed and checked: stages take seconds
to import.
"""

from diffusae.cli.command import _explained, main
from diffusae.cli.configs import config_directory
from diffusae.cli.stage_list import FUNCTIONS, STAGES

__all__ = ["FUNCTIONS", "STAGES", "_explained", "config_directory", "main"]
