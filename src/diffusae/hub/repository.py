"""Repositories of autoencoders: on a hub, through huggingface_hub, or in a local directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from diffusae.errors import UserError
from diffusae.hub.contents import RemoteFile
from diffusae.masking import masked
from diffusae.sources import is_inside

_NETWORK = ("httpx", "httpx2", "requests", "urllib3")
"""Libraries whose errors mean that the hub was not reached; which one is used depends on
huggingface_hub's version."""


class HubUnreachable(UserError):
    """The hub gave no answer within the time."""


class HubRepository:
    """One model repository on a hub.

    Args:
        repo: `owner/name`.
        token: of the user; None: nothing but reading what is public.
        timeout_s: for the first question, which finds out whether the hub can be reached.
        endpoint: of another hub; None: that of HF_ENDPOINT, or huggingface.co.
    """

    def __init__(
        self,
        repo: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        timeout_s: float = 20.0,
        endpoint: str | None = None,
    ) -> None:
        from huggingface_hub import HfApi

        self.repo, self.revision, self.timeout_s = repo, revision, timeout_s
        self.token = token
        self.api = HfApi(endpoint=endpoint, token=token or False, library_name="diffusae")

    def commit(self) -> str:
        """The commit that the revision stands for.

        Raises:
            HubUnreachable: no answer. UserError: no such repository or revision, or no access to
                it.
        """
        with self._explained():
            info = self.api.repo_info(self.repo, revision=self.revision, timeout=self.timeout_s)
            return str(info.sha)

    def files(self, commit: str) -> list[RemoteFile]:
        """Every file of a commit."""
        from huggingface_hub import RepoFile

        with self._explained():
            entries = list(self.api.list_repo_tree(self.repo, recursive=True, revision=commit))
        return [
            RemoteFile(
                entry.path,
                entry.size,
                sha256=entry.lfs.sha256 if entry.lfs else None,
                git_oid=None if entry.lfs else entry.blob_id,
            )
            for entry in entries
            if isinstance(entry, RepoFile)  # or a folder
        ]

    def fetch(self, file: RemoteFile, directory: Path, commit: str) -> Path:
        """Download one file below `directory`; where it is now."""
        with self._explained():
            return Path(
                self.api.hf_hub_download(self.repo, file.path, revision=commit, local_dir=directory)
            )

    def push(self, files: Mapping[str, Path | bytes], *, message: str, private: bool) -> str:
        """Commit files (path in the repository -> contents) at once, in a repository that is made
        where there is none.

        Returns:
            The commit's address.

        Raises:
            HubUnreachable: no answer. UserError: no token, or one that may not write there.
        """
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import RepositoryNotFoundError

        if self.token is None:
            raise UserError(
                "pushing needs a token of the hub and there is none; set HF_TOKEN or run `hf auth"
                " login`; dry_run=true shows what would go without one"
            )
        operations = [CommitOperationAdd(path, contents) for path, contents in files.items()]
        with self._explained():
            try:
                self.api.repo_info(self.repo, timeout=self.timeout_s)
            except RepositoryNotFoundError:
                self.api.create_repo(self.repo, private=private, exist_ok=True)
            made = self.api.create_commit(
                self.repo, operations, commit_message=message, revision=self.revision
            )
        return str(made.commit_url)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from huggingface_hub import errors

        name = f"{self.repo}" + (f" at {self.revision}" if self.revision else "")
        try:
            yield
        except errors.GatedRepoError as error:
            raise UserError(
                f"{name} is gated: ask for access on its page and set HF_TOKEN"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(
                f"{self.repo} has no revision {self.revision!r}; leave revision out, or name"
                " another"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"there is no repository {self.repo} on the hub, or this token may not see it; mend"
                " repo=OWNER/NAME, or set HF_TOKEN"
            ) from error
        except errors.HFValidationError as error:
            raise UserError(f"repo={self.repo} must be OWNER/NAME: {error}") from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise UserError(
                    f"the hub refuses this token for {name} ({status}); set HF_TOKEN to one that"
                    " may, with the right to write for a push"
                ) from error
            if status >= 500 or status == 429:
                raise HubUnreachable(
                    f"the hub cannot answer now ({status}); run the same command later"
                ) from error
            raise UserError(f"the hub answers {status} for {name}: {error}") from error
        except Exception as error:
            if (
                not isinstance(error, OSError)
                and type(error).__module__.partition(".")[0] not in _NETWORK
            ):
                raise
            raise HubUnreachable(
                f"the hub cannot be reached for {name} ({type(error).__name__}:"
                f" {masked(str(error))})"
            ) from error


class LocalRepository:
    """The same of a directory, for autoencoders that came by another way."""

    def __init__(self, directory: Path) -> None:
        self.repo = str(directory)
        self.directory = directory

    def commit(self) -> str:
        """A directory has no commits."""
        return ""

    def files(self, commit: str) -> list[RemoteFile]:
        """Every file below the directory."""
        paths = sorted(path for path in self.directory.rglob("*") if path.is_file())
        return [
            RemoteFile(path.relative_to(self.directory).as_posix(), path.stat().st_size)
            for path in paths
        ]

    def fetch(self, file: RemoteFile, directory: Path, commit: str) -> Path:
        """A copy below `directory`. Raises `UserError` for a link to somewhere else: what it leads
        to is nobody's SAE."""
        target, source = directory / file.path, self.directory / file.path
        if not is_inside(source, self.directory):
            raise UserError(
                f"{source} is a link that leads out of {self.directory}, to {source.resolve()};"
                " copy the file there"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return target
