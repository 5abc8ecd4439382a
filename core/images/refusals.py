"""Why an image is not taken, before the words for a person are complete."""


class Refused(Exception):
    """Internal to this room; `sanitise` turns it into an InputError that names the image.

    `problem` continues the image's name, such as "is empty.".
    """

    def __init__(self, code: str, problem: str, hint: str) -> None:
        super().__init__(code, problem, hint)
        self.code = code
        self.problem = problem
        self.hint = hint


def damaged(reason: str) -> Refused:
    return Refused(
        "image-damaged",
        f"is damaged: {reason}.",
        "Copy or download it again, or open it in an image program and save it as PNG or JPEG.",
    )


def too_many_pixels(problem: str) -> Refused:
    return Refused(
        "image-too-many-pixels",
        problem,
        "Scale it down in an image program; models see far fewer pixels anyway.",
    )


def animated() -> Refused:
    return Refused(
        "image-animated",
        "is animated, and models look at one still image.",
        "Save the frame that you mean as PNG or JPEG.",
    )


def of_type(what: str, hint: str) -> Refused:
    return Refused("image-type", f"is {what}.", hint)
