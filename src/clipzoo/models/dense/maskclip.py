"""MaskCLIP (arXiv 2112.01071): each token keeps its own value in the last attention.

ViT: the block's residual connections and its MLP are kept, as in the authors' code for mmsegmentation. Attention pools
of ResNets and SigLIP: each position goes through the value and output projections alone.
"""

from clipzoo.models.dense.base import Variant

VARIANT = Variant("maskclip", None)
