"""The choices that an autoencoder's settings name; known without torch."""

from typing import Literal

InputScaling = Literal["none", "mean_norm", "standardise"]
InitialBias = Literal["geometric_median", "mean", "zero"]
DecoderNorm = Literal["unit", "free"]
