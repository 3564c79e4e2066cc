"""The embedded default: rooms with CC0 furniture, a tiny CLIP, tiny experts; and where they are found.

Locations, wherever a recipe takes a dataset or a model:

    demo:<split>                    packaged pictures (captioned, probe, validation, test, heldout)
    rooms:<split>?count=N           N pictures of a split, rendered here
    demo:clip                       the packaged start, as a student's model
"""

from clipzoo.demo.locate import (
    check,
    locate,
    locate_beside,
    locate_data,
    locate_model,
    looked_at,
    meanings,
    shared,
    to_render,
)

__all__ = [
    "check", "locate", "locate_beside", "locate_data", "locate_model", "looked_at", "meanings", "shared", "to_render",
]  # fmt: skip
