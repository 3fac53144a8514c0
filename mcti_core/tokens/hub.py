"""Token sets in folders and on the Hugging Face Hub, with the methods of huggingface_hub's ``ModelHubMixin``."""

from __future__ import annotations

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

    Only ``push_to_hub``, and ``from_pretrained`` with a repository's name, use the network, through huggingface_hub, which
    they need installed.
    """

    def save_pretrained(
        self: Any, save_directory: str | Path, *, license: str = "unknown", figures: Mapping[str, str] | None = None,
        repo_id: str | None = None, push_to_hub: bool = False, **push_to_hub_kwargs: Any,
    ) -> str:  # fmt: skip
        """Write ``tokens.safetensors``, ``embeddings/`` and the model card README.md.

        Args:
            save_directory: the folder.
            license: of the model card, an identifier of Hugging Face.
            figures: of the model card, what was measured.
            push_to_hub: also call ``push_to_hub`` with ``repo_id``, by default the folder's name, and the other arguments.

        Returns:
            The path of ``tokens.safetensors``; with ``push_to_hub``, the commit's address.

        Raises:
            TokenError, FileError: a file cannot be written, or another program's file is in the way.
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
        """Read ``tokens.safetensors``, and nothing else, of a folder or of a repository on the Hub.

        Args:
            pretrained_model_name_or_path: a folder of ``save_pretrained`` or ``mcti train``, or a repository's name such as ``me/my-things``.
            download: for ``huggingface_hub.hf_hub_download``: ``revision``, ``token``, ``cache_dir``, ``force_download``,
                ``local_files_only``.

        Raises:
            TokenError: the file is missing or cannot be downloaded, or as ``load_tokens``.
            ConfigError: huggingface_hub is needed and not installed.
        """
        from .io import load_tokens

        name = pretrained_model_name_or_path
        if Path(name).is_dir():
            return load_tokens(Path(name) / _FILE)
        hub = _hub()
        try:
            return load_tokens(hub.hf_hub_download(str(name), _FILE, **download))
        except (OSError, ValueError) as error:
            raise TokenError(
                f"there is no folder {name}, and no token set of this name could be downloaded ({str(error).splitlines()[0]})"
            ) from error

    def push_to_hub(
        self: Any, repo_id: str, *, commit_message: str = "Push tokens using huggingface_hub.", private: bool | None = None,
        token: str | None = None, branch: str | None = None, create_pr: bool | None = None, license: str = "unknown",
    ) -> str:  # fmt: skip
        """Upload the files of ``save_pretrained``: labels, vectors, settings and the examples' image features, but no images.

        Args:
            repo_id: the repository, created if it is missing.
            license: of the model card.
            others: as for ``huggingface_hub.ModelHubMixin.push_to_hub``.

        Returns:
            The commit's address.

        Raises:
            ConfigError: huggingface_hub is not installed. Its own errors pass through.
        """
        api = _hub().HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, license=license)
            return str(
                api.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=branch, create_pr=create_pr
                )
            )  # fmt: skip


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ConfigError("the Hub needs the package huggingface_hub; install it, or give a folder") from error
    return huggingface_hub
