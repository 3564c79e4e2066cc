"""Short, noisy captions, as an uncurated web crawl has them.

About 85 % name the focus object (by one of its synonyms), 6 % name an object that is not in the picture,
6 % name none, and other objects are mostly not mentioned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {} in a room.",
    "a {} standing on the floor.",
    "{} for sale.",
    "my new {}.",
    "a rendering of a {}.",
)
"""Prompt templates of the zero-shot classifier over ``meshes.names()``."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "chair": ("chair", "chair", "dining chair", "seat"),
    "armchair": ("armchair", "armchair", "easy chair"),
    "sofa": ("sofa", "sofa", "couch", "settee"),
    "stool": ("stool", "stool", "bar stool"),
    "deck chair": ("deck chair", "lounger"),
    "table": ("table", "table", "dining table", "desk"),
    "pool table": ("pool table", "billiard table"),
    "football table": ("football table", "table football", "foosball"),
    "bed": ("bed", "bed", "double bed"),
    "cradle": ("cradle", "baby bed"),
    "cabinet": ("cabinet", "cabinet", "cupboard", "wardrobe"),
    "shelves": ("shelves", "shelves", "bookcase", "shelf"),
    "oven": ("oven", "oven", "stove"),
    "fridge": ("fridge", "refrigerator"),
    "mixer": ("mixer", "kitchen mixer"),
    "television": ("television", "TV", "flat screen"),
    "radiator": ("radiator", "radiator", "heater"),
    "fan": ("fan", "fan", "electric fan"),
    "coffee machine": ("coffee machine", "coffee maker", "espresso machine"),
    "toilet": ("toilet", "toilet", "WC"),
    "sink": ("sink", "washbasin", "vanity"),
    "potty": ("potty", "baby potty"),
    "lamp": ("lamp", "lamp", "light"),
    "lantern": ("lantern", "lantern", "garden lantern"),
    "plant": ("plant", "potted plant", "house plant"),
    "cactus": ("cactus",),
    "flowers": ("flowers", "orchid", "flower box"),
    "teddy bear": ("teddy bear", "teddy", "stuffed bear"),
    "rocking horse": ("rocking horse",),
    "playhouse": ("playhouse", "child hut", "slide"),
    "swing": ("swing", "swing set"),
    "basketball": ("basketball", "ball"),
    "wooden toy": ("wooden toy", "wooden figure"),
    "horse": ("horse", "horse", "pony"),
    "deer": ("deer", "stag"),
    "chicken": ("chicken", "hen"),
    "motorbike": ("motorbike", "toy motorbike"),
    "truck": ("truck", "lorry"),
    "forklift": ("forklift", "fork lift"),
    "biplane": ("biplane", "toy plane", "airplane"),
    "wheelbarrow": ("wheelbarrow", "barrow"),
    "piano": ("piano", "grand piano"),
    "guitar": ("guitar", "electric guitar"),
    "speaker": ("speaker", "loudspeaker"),
    "cup": ("cup", "cup", "mug"),
    "bottle": ("bottle", "bottle", "flask"),
    "hot dog": ("hot dog",),
    "cupcake": ("cupcake", "muffin"),
    "crate": ("crate", "wooden box"),
    "barrel": ("barrel", "keg"),
    "bin": ("bin", "dustbin", "trash can"),
    "bag": ("bag", "handbag", "briefcase"),
    "umbrella": ("umbrella", "parasol"),
    "rock": ("rock", "stone", "boulder"),
    "mailbox": ("mailbox", "letter box"),
    "fire extinguisher": ("fire extinguisher", "extinguisher"),
}
FORMS = (
    "a photo of a {}", "a {}", "{}", "{}", "the {}", "my new {}", "{} for sale", "{} in good condition",
    "picture of {}", "a {} in a room", "{} near the wall", "vintage {}", "look at this {}", "{} 3d model",
    "selling my {}", "a {} on the floor", "our {}", "{}, pick up only", "close up of {}", "free {}!",
)  # fmt: skip
ADJECTIVES = ("old", "nice", "small", "big", "lovely", "used", "modern", "classic", "cheap", "beautiful")
PLACES = (
    "in the living room", "in the hall", "at home", "in the corner", "in our flat", "by the wall",
    "in the kitchen", "in the garage", "upstairs", "at grandma's",
)  # fmt: skip
ELSEWHERE = (
    "free delivery this week", "IMG_{n}", "DSC0{n}.jpg", "new in stock", "click here for more", "untitled",
    "summer sale up to {p} % off", "photo {n}", "see our other offers", "my holiday pictures", "item no {n}",
    "contact us for a price", "screenshot {n}", "interior", "our room", "home sweet home", "empty room",
    "before the renovation", "moving out soon", "page {p} of the catalogue",
)  # fmt: skip


def phrase(name: str, rng: np.random.Generator) -> str:
    """Return a synonym of ``name``, sometimes with an adjective."""
    synonym = str(rng.choice(SYNONYMS.get(name, (name,))))
    return f"{rng.choice(ADJECTIVES)} {synonym}" if rng.random() < 0.2 else synonym


def caption(focus: str, others: Sequence[str], names: Sequence[str], rng: np.random.Generator) -> str:
    """Return a caption of a room.

    Args:
        focus: name of the focus object.
        others: names of the other objects.
        names: all names, for wrong captions.
        rng: random generator.
    """
    kind = rng.random()
    if kind < 0.06:
        text = str(rng.choice(ELSEWHERE))
        return text.format(n=rng.integers(1000, 9999), p=rng.integers(10, 80))
    if kind < 0.12:
        subject = phrase(str(rng.choice(names)), rng)
    elif kind < 0.15 and others:
        subject = phrase(str(rng.choice(others)), rng)
    else:
        subject = phrase(focus, rng)
        if others and rng.random() < 0.2:
            subject = f"{subject} and {phrase(str(rng.choice(others)), rng)}"
    text = str(rng.choice(FORMS)).format(subject)
    return f"{text} {rng.choice(PLACES)}" if rng.random() < 0.2 else text
