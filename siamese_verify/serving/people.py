"""What the server needs of a gallery of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siamese_verify.faces import Quality
    from siamese_verify.gallery import Enrollment, Identification, Person
    from siamese_verify.verification import DetectedFace


class People(Protocol):
    """Enrolled people; `siamese_verify.gallery.Gallery` is one. It may be used from several threads."""

    def enroll_embeddings(
        self,
        name: str,
        embeddings: NDArray[np.float32],
        qualities: Sequence[Quality | None] | None = None,
        *,
        sources: Sequence[str] | None = None,
    ) -> Enrollment:
        """Keep templates of a person; raises InputError."""

    def identify_embedding(
        self,
        embedding: NDArray[np.float32],
        *,
        far: float | None = None,
        scores: bool = False,
        face: DetectedFace | None = None,
        milliseconds: dict[str, float] | None = None,
    ) -> Identification:
        """Say whose embedding it is, if anybody's; raises InputError."""

    def people(self) -> Sequence[Person]:
        """Say who is enrolled."""

    def forget(self, name: str) -> Any:
        """Remove a person; raises InputError for a stranger."""
