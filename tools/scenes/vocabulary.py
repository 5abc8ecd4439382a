"""What scenes are made of, and which combinations training never sees."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "moon")
"""Told apart at any aspect ratio, since engines squash a picture to a square."""

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "yellow": (245, 215, 45),
    "orange": (245, 135, 25),
    "purple": (130, 55, 180),
    "pink": (250, 145, 195),
    "brown": (130, 80, 45),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
}
COLOR_NAMES = tuple(COLORS)

BACKGROUNDS = {
    "white": ((250, 250, 250), (255, 255, 255)),
    "gray": ((210, 210, 213), (160, 162, 166)),
    "black": ((14, 14, 16), (32, 32, 36)),
    "blue": ((198, 222, 250), (18, 28, 78)),
    "yellow": ((255, 248, 200), (252, 244, 205)),
    "green": ((205, 238, 205), (14, 62, 34)),
}
"""Each name with the colours that go by it."""
BACKGROUND_NAMES = tuple(BACKGROUNDS)

SIZES = {"small": (0.075, 0.092), "medium": (0.112, 0.135), "large": (0.165, 0.205)}
"""Radius as a share of the picture's side."""
SIZE_NAMES = tuple(SIZES)

PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
"""The nine thirds of the picture, row by row."""

_WORDS = """
cat dog sun car tree fish bird book door milk rain snow wind fire ship road hand foot head nose apple
bread chair table house water light night green stone river cloud horse mouse sheep tiger lemon grape
peach plant happy music dance smile dream heart world earth ocean beach train plane truck clock phone
paper pencil hello yes no go stop open exit sale cafe bus taxi hotel park city home left right up down
hot cold big red blue tea cup egg pie jam ham hat bag box key map pen toy zoo bee cow pig fox owl bear
lion wolf frog duck goat king queen moon star gold ice sky sea lake hill farm shop bank post gate wall
roof lamp desk bed sofa
"""
WORDS = tuple(_WORDS.split())
HELD_OUT_WORDS = frozenset(
    (
        "dog", "milk", "fire", "apple", "river", "lemon", "clock",
        "hotel", "cold", "cup", "fox", "king", "lake", "gate",
    )
)  # fmt: skip

MAX_DIGITS = 3
MAX_THINGS = 6
MAX_WORD = max(len(word) for word in WORDS)

GLYPHS = "abcdefghijklmnopqrstuvwxyz0123456789"


def is_held_out_pair(color: str, shape: str) -> bool:
    """Ten of the eighty pairs, one for each colour: never drawn nor asked for in training."""
    return SHAPES.index(shape) == (3 * COLOR_NAMES.index(color) + 1) % len(SHAPES)


def is_held_out_number(text: str) -> bool:
    """A seventh of all numbers of two and three digits."""
    return len(text) > 1 and int(text) % 7 == 3
