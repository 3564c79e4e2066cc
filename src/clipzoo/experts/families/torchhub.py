"""Families of models of torch.hub."""

from clipzoo.experts.base import Family

FAMILIES: tuple[Family, ...] = (
    Family(
        "DSINE", "normals", "frame x-left,y-up,z-toward: negated vectors of (right, down, front)",
        "github.com/baegwangbin/DSINE: README, 'About the coordinate system', and issues 8 and 12: axes are (right, "
        "down, front), yet a wall that faces the camera is (0, 0, 1)",
    ),
    Family(
        "Omnidata, normals", "normals", "frame x-right,y-down,z-forward, after multiply=2 and add=-1",
        "github.com/EPFL-VILAB/omnidata issue 13: the authors' transform into PyTorch3D's (left, up, forward) negates "
        "only x and y; their comment says z toward the viewer, and rooms measured in github.com/maturk/dn-splatter "
        "issue 9 contradict it: check a picture of a wall first",
    ),
    Family(
        "Omnidata, depth", "depth", "kind affine-depth, along z",
        "github.com/EPFL-VILAB/omnidata: omnidata_tools/torch/demo.py inverts the output for display; in its "
        "train_depth.py the truth is depth_zbuffer, up to scale and shift",
    ),
    Family(
        "Metric3D, normals", "normals", "frame x-right,y-down,z-forward",
        "github.com/YvanYin/Metric3D: training/mono/model/losses/depth_to_normal.py orients normals of points (right, "
        "down, forward) against the line of sight",
    ),
    Family(
        "Metric3D, depth", "depth", "kind affine-depth, along z: meters after multiplication by focal length / 1000, "
        "which differs between pictures", "github.com/YvanYin/Metric3D: hubconf.py, canonical_to_real_scale",
    ),
)  # fmt: skip
