"""The settings of the steps after scoring. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from stream.core.slate.exposure import Bounds
from stream.settings import Settings


def _unbound() -> Bounds:
    return Bounds.of({})


@dataclass(frozen=True, slots=True)
class Knobs:
    """``size`` places; ``diversity`` in [0, 1], 0 off; ``explore_share`` of places, 0 off; ``rotation``
    factor of a score for each time an item was ignored, 1 off; ``bounds`` of exposure."""

    size: int = 20
    diversity: float = 0.0
    explore_share: float = 0.0
    explore_days: float = 14.0
    rotation: float = 1.0
    rotation_half_life_ms: float = 86_400_000.0
    bounds: Bounds = field(default_factory=_unbound)

    @classmethod
    def of(cls, settings: Settings) -> Knobs:
        """From the settings."""
        return cls(
            settings.list_items,
            settings.diversity,
            settings.explore_share,
            settings.explore_days,
            settings.rotation,
            settings.rotation_half_life_s * 1000,
            Bounds.of({name: (bound.min, bound.max) for name, bound in settings.exposure.items()}),
        )
