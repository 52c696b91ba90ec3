"""The image's entry: decide which user owns /data, drop root, find the agent, and become the server.

`docker exec CONTAINER strandline ...` passes through here too (`bin/strandline`), so that it runs as the server's user,
in the server's folder and with its settings, and leaves no files of root beside the journal.

Where root is an ordinary user of the host (rootless Docker or Podman) and /data belongs to it, the server stays that
user: no file changes its owner, and all rights of root are dropped.

It passes on what only root had: root's files in /data, and AWS credentials mounted in root's home.

Invariants: no code of the user (the agent, its modules, the environment's Python settings) runs before root is dropped
for good; the server replaces this process, so it is the container's first process and gets its signals; every failure
to start ends with exit status 2 and one paragraph that says what to type.

It uses only the standard library (`python -I -S`), and knows only Strandline's command line.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

DATA: Final = Path("/data")
AGENT: Final = Path("/app/agent.py")
DEMO: Final = "strandline._demo.agent"
NAME: Final = "strandline"
COMMAND: Final = f"/opt/venv/bin/{NAME}"
OWN_USER: Final = "strandline"
OWN_ID: Final = 10001
"""Uid and gid of the image's user, the new owner of a /data that belongs to root."""
EXIT_SETUP: Final = 2
UID_MAP: Final = Path("/proc/self/uid_map")
"""The mapping of user ids to the host: first id inside, first id outside, count."""
AWS: Final = Path("/root/.aws")
"""Where credentials are mounted for a container that runs as root."""
COPIES: Final = Path("/tmp")
"""Where credentials are copied if only root may read them; gone with the container."""
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
CAPABILITIES_VERSION: Final = 0x20080522
"""For `capset`, from <linux/capability.h>: effective, permitted and inheritable sets of two words each."""
MOST_CREDENTIALS: Final = 4 * 1024 * 1024
"""The most bytes of credentials to read; caches of tools may be beside them."""

NOTHING_TO_SERVE: Final = (
    "There is no agent to serve: put a Strands agent into a file agent.py that defines make_agent(session_id), and "
    'mount its folder at /app, as in docker run -p 127.0.0.1:8080:8080 -v "$PWD:/app:ro" -v strandline-data:/data '
    "IMAGE (or add -e STRANDLINE_DEMO_MODEL=scripted to see it work without an agent of yours, or with a model of a "
    "provider -e STRANDLINE_DEMO_MODEL=openai:gpt-4o-mini -e OPENAI_API_KEY)."
)


class CannotStart(Exception):
    """The container cannot start with these options; the message says what to change."""


class Identity(NamedTuple):
    """The user to become."""

    uid: int
    gid: int


def main(arguments: Sequence[str]) -> NoReturn:
    """Become the server, or the command that `arguments` name if the first of them is not an option."""
    try:
        credentials = _read_credentials()
        if os.getuid() == 0:
            if DATA.stat().st_uid == 0 and _is_a_person():
                _give_up_rights()
            else:
                _become(_owner_of_data())
        workspace = _workspace()
        environment = _with_credentials(_environment(os.environ, workspace), credentials)
        is_command = bool(arguments) and not arguments[0].startswith("-")
        command = _given(arguments) if is_command else _server(arguments, environment)
        if not is_command or os.getcwd() == "/":  # (otherwise the folder was chosen, with `-w`)
            os.chdir(workspace)
    except CannotStart as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(EXIT_SETUP)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)


# -- who ----------------------------------------------------------------------------------------------


def _owner_of_data() -> Identity:
    """Return the owner of /data, or the image's user if that is root; root's files in /data change to that owner."""
    owner = DATA.stat()
    # Root's group would keep a right of root.
    user = Identity(owner.st_uid, owner.st_gid or OWN_ID) if owner.st_uid != 0 else Identity(OWN_ID, OWN_ID)
    try:
        for path in _roots_files(DATA):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    except OSError as error:
        if _is_read_only():
            raise _not_writable(DATA, error.strerror or "read-only") from error
        what = "/data belongs to root" if owner.st_uid == 0 else f"{error.filename} belongs to root"
        raise CannotStart(
            f"{what} and cannot be given to user {user.uid}, who runs this container ({error.strerror}). Change its "
            f"owner on the host, chown -R {user.uid}:{user.gid} FOLDER, where FOLDER is what you mount at /data; or "
            f"let the container do it, --cap-add CHOWN --cap-add SETUID --cap-add SETGID; or run it as yourself with a "
            f'folder of yours: docker run --user "$(id -u):$(id -g)" ...'
        ) from error
    return user


def _roots_files(top: Path) -> Iterator[str]:
    """Yield all paths below `top` that belong to root, and `top` last; skips links and other disks.

    A folder comes after its content: a root without capabilities cannot enter it once its owner has changed, and an
    interrupted start is repeated because `top` still belongs to root.
    """
    device = top.stat().st_dev
    pending = [(str(top), top.stat().st_uid == 0, False)]
    while pending:
        path, is_roots, is_done = pending.pop()
        if is_done:
            yield path
            continue
        if is_roots:
            pending.append((path, True, True))
        for entry in _entries(path, is_roots=is_roots):
            status = entry.stat(follow_symlinks=False)
            if status.st_dev != device:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append((entry.path, status.st_uid == 0, False))
            elif status.st_uid == 0 and (status.st_nlink == 1 or not entry.is_file(follow_symlinks=False)):
                # A hard link of the file may be anywhere: its owner stays.
                yield entry.path


def _entries(path: str, *, is_roots: bool) -> list["os.DirEntry[str]"]:
    """Return a folder's entries; none if it belongs to another user and this root may not read it."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except PermissionError:
        if is_roots:
            raise
        return []


def _is_a_person() -> bool:
    """Return whether root in here is one ordinary user of the host: the user of a rootless engine.

    With `userns-remap`, or user namespaces of Kubernetes, root is the first of a range of unused ids.
    """
    try:
        inside, outside, count = UID_MAP.read_text().splitlines()[0].split()
    except (OSError, IndexError, ValueError):
        return False
    return inside == "0" and outside != "0" and count == "1"


def _give_up_rights() -> None:
    """Stay this user, but drop all rights of root for good, also for executed programs."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_ulong(0)
    header, none_of_all = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    if (
        libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), nothing, nothing, nothing)
        or libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), nothing, nothing, nothing)
        or libc.capset(header, none_of_all)
    ):
        raise CannotStart(
            f"The container may not drop the rights of root ({os.strerror(ctypes.get_errno())}). Start it as the right "
            f"user: docker run --user {OWN_ID}:{OWN_ID} ..., with a named volume at /data."
        )


def _become(identity: Identity) -> None:
    """Become another user for good."""
    try:
        os.setgroups([])
        os.setgid(identity.gid)
        os.setuid(identity.uid)
    except OSError as error:
        raise CannotStart(
            f"The container was started as root and may not become another user ({error.strerror}). Allow it, "
            f"--cap-add SETUID --cap-add SETGID (and --cap-add CHOWN for a /data of root), or start it as that "
            f"user: docker run --user {identity.uid}:{identity.gid} ..."
        ) from error


# -- where --------------------------------------------------------------------------------------------


def _workspace() -> Path:
    """Return the working folder, created if missing. The needed parts of /data are writable on return."""
    workspace = DATA / "workspace"
    try:
        workspace.mkdir(exist_ok=True)
    except OSError as error:
        raise _not_writable(DATA, error.strerror or "not writable") from error
    for path in (DATA, workspace, *DATA.glob("journal.db*")):
        if not os.access(path, os.W_OK):
            raise _not_writable(path, "not writable")
    return workspace


def _not_writable(path: Path, reason: str) -> CannotStart:
    uid, gid = os.getuid(), os.getgid()
    if _is_read_only():
        return CannotStart(f"{path}: {reason}. /data is mounted read-only: leave out the :ro of its -v.")
    if reason == os.strerror(errno.ENOSPC):
        return CannotStart(f"{path}: {reason}. Free space on the disk mounted at /data, then start it again.")
    if uid == 0:
        return CannotStart(
            f"{path}: {reason} for you, who run this container (root in a rootless engine). Make it yours: "
            f"docker run --rm --user 0 --entrypoint chown -v FOLDER:/data IMAGE -R 0:0 /data, where FOLDER is what you "
            f"mount at /data; or mount a named volume."
        )
    return CannotStart(
        f"{path}: {reason} for user {uid}, who runs this container. Fix it on the host: "
        f"chown -R {uid}:{gid} FOLDER, where FOLDER is what you mount at /data (for a named volume: docker run --rm "
        f"--user 0 --entrypoint chown -v VOLUME:/data IMAGE -R {uid}:{gid} /data); or mount one that belongs to that "
        f"user."
    )


def _is_read_only() -> bool:
    return bool(os.statvfs(DATA).f_flag & os.ST_RDONLY)


def _environment(given: Mapping[str, str], workspace: Path) -> dict[str, str]:
    """Return the server's environment; HOME is writable, as many libraries expect."""
    home = given.get("HOME", "/")
    if not os.access(home, os.W_OK):
        home = str(workspace)
    return {**given, "HOME": home, "USER": given.get("USER", OWN_USER)}


# -- credentials of AWS ---------------------------------------------------------------------------------


Files = dict[str, bytes]


def _read_credentials() -> Files:
    """Return the readable files below /root/.aws, by relative path."""
    found: Files = {}
    size = 0
    for folder, _, names in os.walk(AWS):
        for name in names:
            path = Path(folder, name)
            try:
                if path.is_file() and size + path.stat().st_size <= MOST_CREDENTIALS:
                    found[str(path.relative_to(AWS))] = path.read_bytes()
                    size += path.stat().st_size
            except OSError:
                continue
    return found


def _with_credentials(environment: dict[str, str], found: Files) -> dict[str, str]:
    """Return the environment with the mounted credentials where the server's user finds them.

    If that user may read them they are used in place, so that renewals on the host count at once. Otherwise they are
    copied to a folder in memory or in the container, never to /data. If neither is possible, a message says so.
    """
    try:
        if not AWS.is_dir():
            return environment
    except PermissionError:
        return environment
    try:
        place = AWS if _may_read(found) else _copied(found)
    except OSError as error:
        sys.stderr.write(
            f"AWS credentials are mounted at {AWS}, but user {os.getuid()}, who runs this container, cannot use "
            f"them ({error.strerror}: {error.filename}): make them readable for that user on the host, or pass them as "
            f"variables (AWS_ACCESS_KEY_ID, ...).\n"
        )
        return environment
    given = {
        "AWS_SHARED_CREDENTIALS_FILE": str(place / "credentials"),
        "AWS_CONFIG_FILE": str(place / "config"),
    }
    _link_home(Path(environment["HOME"]) / AWS.name, place)
    return given | environment


def _may_read(found: Files) -> bool:
    """Return whether this user may read all files that the starting user could read, and the folder itself."""
    names = [os.path.relpath(Path(folder, name), AWS) for folder, _, names in os.walk(AWS) for name in names]
    if not {*names} >= found.keys() or not os.access(AWS, os.R_OK | os.X_OK):
        return False
    return all(os.access(AWS / name, os.R_OK) for name in names)


def _copied(found: Files) -> Path:
    """Return a private folder with copies of files."""
    if not found:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(AWS))
    place = COPIES / f"aws-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    status = place.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(errno.EACCES, "it belongs to another user", str(place))
    place.chmod(0o700)
    for name, data in found.items():
        file = place / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            written.write(data)
        new.replace(file)
    return place


def _link_home(link: Path, place: Path) -> None:
    """Link `~/.aws` there, where single sign-on looks for its tokens. An existing one stays."""
    try:
        if link.is_symlink() and (os.readlink(link) == str(AWS) or os.readlink(link).startswith(f"{COPIES}/aws-")):
            link.unlink()
        link.symlink_to(place)
    except OSError:
        return


# -- what ---------------------------------------------------------------------------------------------


def _given(arguments: Sequence[str]) -> list[str]:
    """Return the given command; `strandline` by its path, since in PATH its name means this entry."""
    return [COMMAND if arguments[0] == NAME else arguments[0], *arguments[1:]]


def _server(options: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    return [COMMAND, "serve", _target(environment), *options]


def _target(environment: Mapping[str, str]) -> str:
    try:
        AGENT.stat()
    except PermissionError as error:
        raise _unreadable(AGENT.parent) from error
    except OSError:
        if environment.get("STRANDLINE_DEMO_MODEL", "local") not in ("", "local"):
            return DEMO
        raise CannotStart(NOTHING_TO_SERVE) from None
    if not os.access(AGENT, os.R_OK):
        raise _unreadable(AGENT)
    return str(AGENT)


def _unreadable(path: Path) -> CannotStart:
    return CannotStart(
        f"User {os.getuid()}, who runs this container, may not read {path}. Fix it on the host, chmod -R a+rX "
        f"FOLDER, where FOLDER is what you mount at /app; or mount a folder of yours at /data: the container runs as "
        f"its owner."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
