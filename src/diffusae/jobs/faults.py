"""Errors that the user can repair, in words: what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import os
import re

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffusae.errors import UserError
from diffusae.masking import masked
from diffusae.memory import is_out_of_memory

_FREE_SPACE = "what is finished is kept: free some space and run the same command again"
_DISK = (
    "the disk, or the network that it is reached by, does not answer as it should; run the same"
    " command again when it does"
)
_OTHER_PLACE = "choose another directory with paths.outputs"
_SHORTER = "a name is too long for this disk: shorten name, sae.tag or paths.outputs"
_OPEN_FILES = "too many open files: raise the limit (ulimit -n 65536) or lower activations.workers"
REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "this disk takes no file of that size: " + _OTHER_PLACE,
    errno.EROFS: _OTHER_PLACE,
    errno.EACCES: "allow this user to read it, and to write below paths.outputs",
    errno.EPERM: "allow this user to read it, and to write below paths.outputs",
    errno.EISDIR: "a file belongs there: move the directory away",
    errno.ENOTDIR: "a directory belongs there: move the file away",
    errno.ENOTEMPTY: "other files lie there: move the directory away",
    errno.ENAMETOOLONG: _SHORTER,
    errno.ELOOP: "the link leads to itself: remove it",
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.EAGAIN: (
        "the machine takes no further process, or a lock is held: raise the limit (ulimit -u), or"
        " wait"
    ),
    errno.EBUSY: "another program uses it: end that, and run the same command again",
    errno.ETXTBSY: "another program uses it: end that, and run the same command again",
    errno.EIO: _DISK,
    errno.ETIMEDOUT: _DISK,
    errno.ESTALE: _DISK,
    errno.ENODEV: _DISK,
    errno.ENXIO: _DISK,
    errno.ENOTCONN: _DISK,
    errno.EHOSTDOWN: _DISK,
    errno.EHOSTUNREACH: _DISK,
    getattr(errno, "EREMOTEIO", errno.EIO): _DISK,
}
"""Error number -> what the user can do."""

USERS = (UserError, HydraException, OmegaConfBaseException)
"""Errors whose own message is written for the user."""


def explained(error: BaseException) -> str | None:
    """The message of an error that the user can repair; None for an error of the program."""
    if isinstance(error, USERS):
        return str(error)
    if str(error).startswith("Unknown plugin class"):
        return (
            "this launcher is not installed; pip install 'diffusae[cluster]' has joblib's and"
            " submitit's"
        )
    if is_out_of_memory(error):
        return (
            "out of memory; lower activations.batch_size, model.batch_size or sae.d_sae, or use a"
            " larger machine"
        )
    if isinstance(error, FileNotFoundError) and "usable temporary directory" in str(error):
        return (
            "no directory for temporary files is writable; set the variable TMPDIR to one that is"
        )
    cause: BaseException | None = error
    while cause is not None:
        if message := _of_the_system(cause):
            return message
        cause = cause.__cause__
    return None


def is_users(error: BaseException) -> bool:
    """Whether the user can repair it, so that a traceback would not help."""
    return explained(error) is not None


def reason(error: BaseException) -> str:
    """An error in one line, with its type where the user cannot repair it."""
    text = masked(" ".join((explained(error) or str(error)).split()))
    return text if is_users(error) else f"{type(error).__name__}: {text}"


def _of_the_system(error: BaseException) -> str | None:
    """The message of a file error. Libraries in other languages give its number only in text."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"(?:os error |\[[Ee]rrno )(\d+)", str(error))):
        number = int(match[1])
    if number is None or number not in REMEDIES:
        return None
    path = None
    if isinstance(error, OSError):
        path = error.filename2 or error.filename  # of a rename, the new name
    where = "" if path is None else f"{path if len(str(path)) < 300 else f'{str(path)[:280]}...'}: "
    return f"{where}{os.strerror(number)}; {REMEDIES[number]}"
