"""The gallery's drawn scenes as tasks for lanes that take images; graded like every other task."""

from core.images.gallery import GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.quality.tasks.task import Grader, TaskItem

SCENES = "scenes"
"""The set's name."""


def scene_count() -> int:
    return sum(len(image.questions) for image in gallery() if image.kind is GalleryKind.SCENE)


def scenes(image_store: ImageStore) -> tuple[TaskItem, ...]:
    """A task for each question about a drawn scene; the scenes are put into the image store."""
    return tuple(
        TaskItem(
            id=f"{image.name}-{number}",
            prompt=asked.question,
            grader=Grader.CONTAINS,
            answers=asked.answers,
            language="en",
            topic="scenes",
            max_tokens=32,
            image=stored,
        )
        for image in gallery()
        if image.kind is GalleryKind.SCENE
        for stored in (image_store.put(sanitise(image.path.read_bytes(), name=image.path.name)),)
        for number, asked in enumerate(image.questions, start=1)
    )
