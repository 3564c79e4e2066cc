"""The classes of COCO-Stuff (Caesar et al., arXiv 1612.03716): labels.txt and README of nightrome/cocostuff.

A pixel of ``stuffthingmaps`` is the number of its class minus 1, so 0 to 181; 255 is unknown. 11 of the 91 things have
no pixel in any picture, so that 171 classes remain, as in published results.
"""

NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat,
    backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
    baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife,
    spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
    potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell
    phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair
    drier, toothbrush, hair brush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard,
    carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
    door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other,
    fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss,
    mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing,
    railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other,
    stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
    wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind,
    window-other, wood
"""
"""The classes 1 to 182, with commas between them."""

WITHOUT_PIXELS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
"""The numbers of things without pixels, from street sign (12) to hair brush (91)."""

_CLASSES = {
    number: " ".join(name.split()) for number, name in enumerate(NAMES.split(","), 1) if number not in WITHOUT_PIXELS
}
CLASSES = tuple(_CLASSES.values())
CODES = {number - 1: i for i, number in enumerate(_CLASSES)}
"""Number in the files -> class id."""

FOLDERS = ("stuffthingmaps/{split}", "stuffthingmaps_trainval2017/{split}", "annotations/{split}")
"""Folders that users unpack the maps to, as the README of COCO-Stuff and mmsegmentation do."""
