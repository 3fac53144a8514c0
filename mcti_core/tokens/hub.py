"""Save and load token sets in folders and on the Hugging Face Hub, with the methods of ``ModelHubMixin``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, TokenError

if TYPE_CHECKING:
    from .token_set import TokenSet

__all__ = ["HubMethods"]

_FILE = "tokens.safetensors"


class HubMethods:
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of a ``TokenSet``.

    Only ``push_to_hub``, and ``from_pretrained`` with a repository's name, use the network; they require huggingface_hub.
    """

    def save_pretrained(
        self: Any, save_directory: str | Path, *, license: str = "unknown", figures: Mapping[str, str] | None = None,
        repo_id: str | None = None, push_to_hub: bool = False, **push_to_hub_kwargs: Any,
    ) -> str:  # fmt: skip
        """Write ``tokens.safetensors``, ``embeddings/`` and the model card README.md.

        Args:
            license: licence identifier for the model card, as used by Hugging Face.
            figures: measurements for the model card, by name.
            repo_id: repository for ``push_to_hub``, by default the folder's name.
            push_to_hub: whether to upload the set too, with the other arguments.

        Returns:
            The path of ``tokens.safetensors``; with ``push_to_hub``, the URL of the commit.

        Raises:
            TokenError, FileError: a file cannot be written, or a foreign file is there.
        """
        from ..files.provenance import library_versions, write_text
        from .io import export_embeddings, save_tokens
        from .model_card import model_card

        folder = Path(save_directory)
        card = model_card(self, library_versions(), license=license, figures=figures)
        path = save_tokens(self, folder / _FILE)
        export_embeddings(self, folder / "embeddings")
        write_text(card, folder / "README.md")
        if push_to_hub:
            return str(self.push_to_hub(repo_id or folder.name, license=license, **push_to_hub_kwargs))
        return str(path)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> TokenSet:
        """Load ``tokens.safetensors`` from a folder or a repository on the Hub; no other file is read.

        Args:
            pretrained_model_name_or_path: a folder written by ``save_pretrained`` or ``mcti train``, or a repository such as ``me/my-things``.
            download: arguments of ``huggingface_hub.hf_hub_download``: ``revision``, ``token``, ``cache_dir``, ``force_download``,
                ``local_files_only``.

        Raises:
            TokenError: the file is missing, cannot be downloaded, or is invalid (see ``load_tokens``).
            ConfigError: huggingface_hub is required but not installed.
        """
        from .io import load_tokens

        name = pretrained_model_name_or_path
        if os.path.isdir(name):  # unlike its own method, not an error for a name that no system takes
            return load_tokens(Path(name) / _FILE)
        hub = _hub()
        try:
            return load_tokens(hub.hf_hub_download(str(name), _FILE, **download))
        except (OSError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            what = f"there is no folder {name!s:.200}, and no token set of this name could be downloaded"
            raise TokenError(f"{what} ({reason:.500})") from error

    def push_to_hub(
        self: Any, repo_id: str, *, commit_message: str = "Push tokens using huggingface_hub.", private: bool | None = None,
        token: str | None = None, branch: str | None = None, create_pr: bool | None = None, license: str = "unknown",
    ) -> str:  # fmt: skip
        """Upload the files of ``save_pretrained``: labels, vectors, settings and the examples' image features, but no images.

        Args:
            repo_id: the repository; created if it does not exist.
            license: licence identifier for the model card.
            others: as for ``huggingface_hub.ModelHubMixin.push_to_hub``.

        Returns:
            The URL of the commit.

        Raises:
            ConfigError: huggingface_hub is not installed. Errors of huggingface_hub are not caught.
        """
        api = _hub().HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, license=license)
            options = {"commit_message": commit_message, "revision": branch, "create_pr": create_pr}
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ConfigError("the Hub needs the package huggingface_hub; install it, or give a folder") from error
    return huggingface_hub
