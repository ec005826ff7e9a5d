"""How fast a study is made: rates as given, measured or assumed, and the times that follow."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from diffusae.planning.estimate import RAW_PIXEL, StreamEstimate, StudyEstimate
from diffusae.sae.settings import TrainerSettings
from diffusae.settings import Settings, Within
from diffusae.study.study import Study
from diffusae.training.shares import equal_shares

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlanSettings(Settings, part="plan"):
    """Rates of this machine or another (`conf/plan.yaml`)."""

    probe: bool
    """Whether rates that are not given are measured."""
    claims: bool
    """Whether the pictures of the study's claims are counted too."""
    seconds_per_picture: Annotated[float, Within(1e-9, 10**9)] | None
    """Of a generation with all its steps; None: not given."""
    vectors_per_second: Annotated[float, Within(1e-9, 10**15)] | None
    """Of the training of one autoencoder; None: not given."""
    encoded_per_second: Annotated[float, Within(1e-9, 10**15)] | None
    """Vectors that one autoencoder encodes; None: not given."""
    png_bytes_per_pixel: Annotated[float, Within(0, RAW_PIXEL)] | None
    """Of a picture; None: not given."""
    processes: Annotated[int, Within(1, 10**6)] | None
    """That share the work; None: those of `trainer`."""
    gpu_gb: Annotated[float, Within(0.1, 10**5)] | None
    """Memory of a card, in units of 1e9 bytes; None: no choice is looked for."""
    price_per_hour: Annotated[float, Within(0, 10**9)] | None
    """Of what one process has: a GPU and its share of the machine; None: not given."""
    price_per_tb_month: Annotated[float, Within(0, 10**9)] | None
    """Of a terabyte of disk for a month; None: not given."""


def processes_of(study: Study) -> int:
    """How many processes share the work."""
    return PlanSettings.of(study.cfg).processes or TrainerSettings.of(study.cfg).processes


@dataclass(frozen=True)
class Rates:
    """None or absent where nobody gave or measured them.

    Attributes:
        vectors_per_second: d_in -> vectors that one SAE trains on.
        encoded_per_second: d_in -> vectors that one SAE encodes. Where it is absent, encoding is
            assumed no faster than training, of which it is a part.
        png_bytes_per_pixel: of a PNG file.
    """

    seconds_per_picture: float | None
    vectors_per_second: dict[int, float]
    encoded_per_second: dict[int, float] = field(default_factory=dict)
    png_bytes_per_pixel: float | None = None

    def generation(self, pictures: int) -> float | None:
        """Seconds that so many pictures take."""
        seconds = self.seconds_per_picture
        return None if seconds is None else seconds * pictures

    def training(self, study: StudyEstimate, stream: StreamEstimate) -> float | None:
        """Seconds that one SAE takes."""
        rate = self.vectors_per_second.get(stream.stream.d_in)
        return None if rate is None else study.vectors_seen(stream) / rate

    def training_of_all(self, study: StudyEstimate, processes: int = 1) -> float | None:
        """Seconds that all SAEs take, one after the other; by several processes, those of the one
        with the most work. A stream with its SAEs belongs to one process, as in `train_online`.
        """
        work = dict[str, float]()
        for stream in study.trained:
            if (seconds := self.training(study, stream)) is None:
                return None
            work[stream.stream.folder] = seconds * study.saes_a_cell * stream.seeds
        return max(sum(work[name] for name in share) for share in equal_shares(work, processes))

    def encoding(self, study: StudyEstimate, stream: StreamEstimate) -> float | None:
        """Seconds that the SAEs of a stream's cell take to encode the dictionary, tune and test
        pictures once.
        """
        d_in = stream.stream.d_in
        rate = self.encoded_per_second.get(d_in) or self.vectors_per_second.get(d_in)
        if rate is None:
            return None
        return study.saes_a_cell * stream.seeds * stream.vectors_to_encode / rate

    def encoding_of_all(self, study: StudyEstimate) -> float | None:
        """The same for all streams."""
        seconds = [self.encoding(study, stream) for stream in study.trained]
        known = [number for number in seconds if number is not None]
        return sum(known) if len(known) == len(seconds) else None

    def all_of(self, study: StudyEstimate, processes: int) -> float | None:
        """Seconds of generation, encoding and training by so many processes. Pictures are divided
        evenly, and exchanges between processes take no time.
        """
        making, encoding = self.generation(study.made), self.encoding_of_all(study)
        training = self.training_of_all(study, processes)
        if making is None or encoding is None or training is None:
            return None
        return (making + encoding) / processes + training


def measured_rates(study: Study, counted: StudyEstimate) -> Rates:
    """Rates as given, and the others measured where that needs no download."""
    settings = PlanSettings.of(study.cfg)
    seconds, png = settings.seconds_per_picture, settings.png_bytes_per_pixel
    if settings.probe and seconds is None:
        seconds, measured = _measured_picture(study)
        png = measured if png is None else png
    widths = sorted({stream.stream.d_in for stream in counted.trained})
    trained, encoded = (
        {} if rate is None else dict.fromkeys(widths, float(rate))
        for rate in (settings.vectors_per_second, settings.encoded_per_second)
    )
    if settings.probe and settings.vectors_per_second is None:
        from diffusae.planning import timing

        log.info("measuring training steps")
        trained = {d_in: timing.vectors_per_second(study, d_in) for d_in in widths}
        least = {d_in: min(one.stream.positions for one in counted.trained
                           if one.stream.d_in == d_in) for d_in in widths}  # fmt: skip
        encoded = encoded or {
            d_in: timing.encoded_per_second(study, d_in, positions)
            for d_in, positions in least.items()
        }
    return Rates(seconds, trained, encoded, png)


def _measured_picture(study: Study) -> tuple[float | None, float | None]:
    """Seconds of a picture, and bytes of PNG a pixel, where the model is at hand."""
    source = Path(study.cfg.model.source).expanduser()
    if study.kind != "generation":
        log.info(
            "a picture or prompt is measured for collection=generation only; give"
            " plan.seconds_per_picture"
        )
    elif source.is_dir():
        from diffusae.planning import timing

        log.info("measuring a picture")
        return timing.picture(study)
    else:
        log.warning(
            "model.source=%s is no local folder, and nothing is downloaded to measure it; give "
            "plan.seconds_per_picture for an estimate of time",
            source,
        )
    return None, None
