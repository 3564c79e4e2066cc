"""Uploading an exported student to the Hugging Face hub (huggingface_hub 2.4), in one commit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from clipzoo.errors import CheckpointError, RemoteError, brief
from clipzoo.export._decoding import DECODERS as TASKS
from clipzoo.export.base import PARITY

MODEL = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
WRITTEN = {
    "open_clip": (
        "open_clip_config.json", "open_clip_model.safetensors", "clipzoo_heads.json", "clipzoo_heads.safetensors",
        *TOKENIZER,
    ),
    "hf": (
        *MODEL, "processor_config.json", "preprocessor_config.json", "logits.json", *TOKENIZER,
        *(f"image/{name}" for name in MODEL), *(f"text/{name}" for name in (*MODEL, *TOKENIZER)),
    ),
    "timm": MODEL,
    "onnx": (
        "image.onnx", "text.onnx", "tokenizer.json", "preprocess.json", *(f"head-{task}-*.onnx" for task in TASKS),
    ),
    "all": ("refused.json",),
}  # fmt: skip
"""Target -> patterns of the files that it writes, besides the README and the parity."""

STALE = [
    *dict.fromkeys((PARITY, *(name for names in WRITTEN.values() for name in names))),
    *(f"{to}/{name}" for to, names in WRITTEN.items() if to != "all" for name in ("README.md", PARITY, *names)),
]
"""Patterns of an export's files: those of an earlier export are deleted, so that no weights remain with a new card."""

UNREACHABLE = HfHubHTTPError.__bases__
"""Errors of the HTTP client, which differs between versions of huggingface_hub: requests, httpx, httpx2."""

LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write to this repository"
FIXES = {
    401: LOGIN,
    403: LOGIN,
    404: "Check the name of the user or organization, and that the token may write to it",
    413: "A file is too large for the hub: export without --heads, or another target",
    429: "The hub limits requests: wait, and rerun the command",
}


def check_repository(repository: str) -> None:
    """Raise `CheckpointError` unless the name is ORG/NAME."""
    try:
        validate_repo_id(repository)
        valid = repository.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise CheckpointError(
            f"{repository!r} is not a repository of the Hugging Face hub. Give ORG/NAME, such as my-name/my-clip"
        )


def check_login() -> None:
    """Raise `RemoteError` if no token is known."""
    if not get_token():
        raise RemoteError(f"no token of the Hugging Face hub was found, and uploading needs one. {LOGIN}")


def upload(folder: Path, repository: str, private: bool | None, message: str) -> str:
    """Create a model repository if it does not exist, and upload a folder in one commit. Returns the commit's URL.

    Args:
        folder: of an export.
        repository: ORG/NAME.
        private: visibility of a new repository; None is the default of the hub or of the organization.
        message: of the commit.

    Raises:
        RemoteError: the hub cannot be reached, or refuses.
    """
    with _hub_errors(repository):
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="clipzoo")
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, delete_patterns=STALE
        )
        return str(commit.commit_url)


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        fix = FIXES.get(status, "Rerun the command later")
        raise RemoteError(f"the hub refuses the upload to {repository} ({status}: {brief(error)}). {fix}") from error
    except (*UNREACHABLE, OSError, RuntimeError) as error:  # uploads of large files wrap it in a RuntimeError
        raise RemoteError(
            f"the hub cannot be reached for {repository} ({type(error).__name__}: {brief(error)}). Check the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE, and rerun the command"
        ) from error
    except ValueError as error:  # an answer in another form, or a README that the hub does not accept
        raise RemoteError(f"the hub does not accept the upload to {repository}: {brief(error)}") from error
