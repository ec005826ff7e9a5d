"""Repositories of autoencoders: on a hub, through huggingface_hub, or in a local directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from diffusae.errors import UserError
from diffusae.hub.contents import MOST_FILES, RemoteFile
from diffusae.hub.settings import HubSettings
from diffusae.masking import masked
from diffusae.sources import is_inside

_NETWORK = ("httpx", "httpx2", "requests", "urllib3")
"""Libraries of huggingface_hub (by version) whose errors mean that the hub was not reached."""


class HubUnreachable(UserError):
    """The hub gave no answer in time."""


class HubRepository:
    """One model repository on a hub, with the user's own token. Without a token, only public
    repositories can be read.
    """

    def __init__(self, settings: HubSettings) -> None:
        from huggingface_hub import HfApi, get_token

        self.repo, self.revision = settings.repo, settings.revision
        self.timeout_s, self.token = settings.timeout_s, get_token()
        self.api = HfApi(
            endpoint=settings.endpoint, token=self.token or False, library_name="diffusae"
        )

    def commit(self) -> str:
        """The commit of the revision.

        Raises:
            HubUnreachable: the hub does not answer.
            UserError: the repository or revision does not exist, or access is denied.
        """
        with self._explained():
            info = self.api.repo_info(self.repo, revision=self.revision, timeout=self.timeout_s)
            return str(info.sha)

    def files(self, commit: str) -> list[RemoteFile]:
        """All files of a commit."""
        from huggingface_hub import RepoFile

        with self._explained():
            listed = self.api.list_repo_tree(self.repo, recursive=True, revision=commit)
            entries = list(islice(listed, MOST_FILES + 1))
        if len(entries) > MOST_FILES:
            raise UserError(f"{self.repo} has more than {MOST_FILES} files; name another")
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
        """Download one file below `directory`, and return its path."""
        place: Any = {"revision": commit, "local_dir": directory}
        with self._explained():
            return Path(self.api.hf_hub_download(self.repo, file.path, **place))

    def push(self, files: Mapping[str, Path | bytes], *, message: str, private: bool) -> str:
        """Commit files ({path in the repository: contents}) at once. A missing repository is
        created.

        Returns:
            The commit's address.

        Raises:
            HubUnreachable: the hub does not answer.
            UserError: the token is missing, or may not write there.
        """
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import RepositoryNotFoundError

        if self.token is None:
            raise UserError(
                "pushing needs a token of the hub, but there is none; set HF_TOKEN or run `hf auth "
                "login`; dry_run=true shows the files without a token"
            )
        operations = [CommitOperationAdd(path, contents) for path, contents in files.items()]
        with self._explained():
            try:
                self.api.repo_info(self.repo, timeout=self.timeout_s)
            except RepositoryNotFoundError:
                self.api.create_repo(self.repo, private=private, exist_ok=True)
            commit = self.api.create_commit(
                self.repo, operations, commit_message=message, revision=self.revision
            )
        return str(commit.commit_url)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from huggingface_hub import errors

        name = f"{self.repo}" + (f" at {self.revision}" if self.revision else "")
        try:
            yield
        except errors.GatedRepoError as error:
            what = f"{name} is gated: ask for access on its page and set HF_TOKEN"
            raise UserError(what) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(
                f"{self.repo} has no revision {self.revision!r}; leave revision out, or name "
                "another"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"there is no repository {self.repo} on the hub, or this token may not see it; "
                "mend repo=OWNER/NAME, or set HF_TOKEN"
            ) from error
        except errors.HFValidationError as error:
            raise UserError(f"repo={self.repo} must be OWNER/NAME: {error}") from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise UserError(
                    f"the hub refuses this token for {name} ({status}); set HF_TOKEN to one with "
                    "access (for a push: with the right to write)"
                ) from error
            if status >= 500 or status == 429:
                what = f"the hub cannot answer now ({status}); run the same command later"
                raise HubUnreachable(what) from error
            raise UserError(f"the hub answers {status} for {name}: {error}") from error
        except Exception as error:
            library = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError) and library not in _NETWORK:
                raise
            what = f"{type(error).__name__}: {masked(str(error))}"
            raise HubUnreachable(f"the hub cannot be reached for {name} ({what})") from error


class LocalRepository:
    """A local directory with the interface of `HubRepository`."""

    def __init__(self, directory: Path) -> None:
        self.repo = str(directory)
        self.directory = directory

    def commit(self) -> str:
        """An empty text: a directory has no commits."""
        return ""

    def files(self, commit: str) -> list[RemoteFile]:
        """All files below the directory."""
        paths = sorted(path for path in self.directory.rglob("*") if path.is_file())
        return [
            RemoteFile(path.relative_to(self.directory).as_posix(), path.stat().st_size)
            for path in paths
        ]

    def fetch(self, file: RemoteFile, directory: Path, commit: str) -> Path:
        """Copy one file below `directory`; `UserError` for a link that leads out of the
        repository."""
        target, source = directory / file.path, self.directory / file.path
        if not is_inside(source, self.directory):
            raise UserError(
                f"{source} is a link that leads out of {self.directory}, to {source.resolve()}; "
                "copy the file there"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return target


def small_file(
    repository: HubRepository | LocalRepository, file: RemoteFile, commit: str, *, most: int
) -> bytes:
    """The contents of one small file of a repository.

    Raises:
        UserError: it is larger than `most` bytes, or another than the repository lists.
    """
    if file.size > most:
        raise UserError(f"{repository.repo}: {file.path} has {file.size} bytes, at most {most}")
    with tempfile.TemporaryDirectory() as directory:
        path = repository.fetch(file, Path(directory), commit)
        if fault := file.fault(path):
            raise UserError(f"{repository.repo}: {fault}; ask again")
        return path.read_bytes()
