"""Families of models of torchvision."""

from clipzoo.experts.base import Family

_VOC_SPACE = (
    "Pascal VOC's 20 classes and background, which is class 0: all that is none of the 20, other things of COCO "
    "included; void in training (where masks overlap) is not predicted"
)
_COCO_SPACE = (
    "COCO's 80 classes; boxes xyxy in pixels of the image. Ids run to 90: 0 is background, which no box has, and 10 "
    "are not used (N/A): these are removed, the others count from 0"
)
FAMILIES: tuple[Family, ...] = (
    Family("FCN", "segmentation", _VOC_SPACE, "torchvision: models/segmentation/fcn.py, _COMMON_META"),
    Family("DeepLabV3", "segmentation", _VOC_SPACE, "torchvision: models/segmentation/deeplabv3.py, _COMMON_META"),
    Family("LR-ASPP", "segmentation", _VOC_SPACE, "torchvision: models/segmentation/lraspp.py, weights' _docs"),
    Family("Faster R-CNN", "detection", _COCO_SPACE, "torchvision: models/detection/faster_rcnn.py, models/_meta.py"),
    Family("FCOS", "detection", _COCO_SPACE, "torchvision: models/detection/fcos.py, models/_meta.py"),
    Family("RetinaNet", "detection", _COCO_SPACE, "torchvision: models/detection/retinanet.py, models/_meta.py"),
    Family("SSD", "detection", _COCO_SPACE, "torchvision: models/detection/ssd.py, models/_meta.py"),
    Family("SSDlite", "detection", _COCO_SPACE, "torchvision: models/detection/ssdlite.py, models/_meta.py"),
    Family(
        "Mask R-CNN", "detection", f"{_COCO_SPACE}; a mask of the whole image each, its probabilities cut at 0.5",
        "torchvision: models/detection/mask_rcnn.py, models/_meta.py",
    ),
    Family(
        "Keypoint R-CNN", "detection", "boxes of persons, one class; keypoints are left out",
        "torchvision: models/detection/keypoint_rcnn.py, models/_meta.py",
    ),
)  # fmt: skip
