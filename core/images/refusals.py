"""Reasons why an image is not taken, before the words for a person are complete."""

from core.i18n import N_, Message, Text


class Refused(Exception):
    """Internal to this folder; `sanitise` turns it into an InputError that names the image.

    `problem` names the image as `{image}`; `values` are its other values.
    """

    def __init__(self, code: str, problem: Message, hint: Message, **values: object) -> None:
        super().__init__(code, problem, hint)
        self.code = code
        self.hint = hint
        self._problem = problem
        self._values = values

    def problem(self, image: Text) -> Message:
        """Return what is wrong with the image of that name."""
        return self._problem.filled(image=image, **self._values)


def damaged(reason: Message) -> Refused:
    return Refused(
        "image-damaged",
        N_("{image} is damaged: {reason}."),
        N_("Copy or download it again, or open it in an image editor and save it as PNG or JPEG."),
        reason=reason,
    )


def too_many_pixels(problem: Message, **values: object) -> Refused:
    return Refused(
        "image-too-many-pixels",
        problem,
        N_("Scale it down in an image editor. Models see far fewer pixels anyway."),
        **values,
    )


def animated() -> Refused:
    return Refused(
        "image-animated",
        N_("{image} is animated, but models see only still images."),
        N_("Save the frame you want as PNG or JPEG."),
    )


def of_type(problem: Message, hint: Message, **values: object) -> Refused:
    return Refused("image-type", problem, hint, **values)
