"""What a process group can be told: ``Options``."""

from __future__ import annotations

import dataclasses

import collectives.options
from collectives.codec import Codec
from collectives.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class Options(collectives.options.Options):
    """Options of a process group, for ``pg_options=``; all ranks give the same ``codec``.

    Those of ``collectives.Options`` besides, of which ``timeout`` and ``recovery`` have no meaning
    here: how long a call may take is c10d's ``timeout``, and there is no coordinator to wait for.

    Attributes:
        codec: how sums and averages of floats travel: a name (``"mxint8"``) or a
            ``collectives.Codec``; None: as they are. Quantized sums differ from exact ones, by as
            much as docs/codecs.md says. Error feedback is not for process groups.
    """

    codec: str | Codec | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune:
            raise InvalidArgument(
                "Options.tune is not for process groups, whose plans follow from who is in them;"
                " leave it out"
            )
        if self.codec is not None and Codec.of(self.codec).error_feedback:
            raise InvalidArgument(
                "a codec with error_feedback=True needs an array of what was lost, which c10d has"
                " no place for; use the codec without it, or Group.all_reduce(residual=...)"
            )

    @classmethod
    def of(cls, given: object) -> Options:
        """What ``pg_options`` was: None is the defaults.

        Raises:
            InvalidArgument: it is something else.
        """
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        if isinstance(given, collectives.options.Options):
            fields = dataclasses.fields(collectives.options.Options)
            return cls(**{field.name: getattr(given, field.name) for field in fields})
        raise InvalidArgument(
            f"pg_options is a {type(given).__name__}; the collectives backend takes"
            " collectives.torch.Options"
        )

    @property
    def of_engine(self) -> collectives.options.Options:
        """Those by which an engine is made; groups with the same ones can share it."""
        fields = dataclasses.fields(collectives.options.Options)
        return collectives.options.Options(
            **{field.name: getattr(self, field.name) for field in fields}
        )
