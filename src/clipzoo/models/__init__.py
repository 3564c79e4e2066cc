"""The student: an OpenCLIP model with heads, for training and for use."""

from clipzoo.models._folder import disk_errors, read_heads
from clipzoo.models._open_clip import ModelConfig, check_model, weights_are_local
from clipzoo.models._preprocessing import uncertain as uncertain_preprocessing
from clipzoo.models._sizes import interpolate as interpolate_positions
from clipzoo.models.head_spec import HeadSpec
from clipzoo.models.interpolation import interpolated
from clipzoo.models.loaded import Loaded, load
from clipzoo.models.segments import Segments, segment
from clipzoo.models.student import Outputs, Student, check_layers

__all__ = [
    "HeadSpec", "Loaded", "ModelConfig", "Outputs", "Segments", "Student", "check_layers", "check_model", "disk_errors",
    "interpolate_positions", "interpolated", "load", "read_heads", "segment", "uncertain_preprocessing",
    "weights_are_local",
]  # fmt: skip
