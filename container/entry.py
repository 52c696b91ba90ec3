"""The image's entry: settle who owns /data, stop being root, find what to serve, and become the server.

`docker exec CONTAINER strandline ...` comes through here too (`bin/strandline`), so that it is done by the server's
user, in the server's folder and with its settings, and leaves nothing of root's beside the journal.

Where root is an ordinary user of the host (rootless Docker or Podman) and /data is root's, so that user's, the server
stays that user: nothing is given away, and every right of root's is given up all the same.

It hands on what only root had: files of root's in /data, and AWS credentials that are mounted where root has its home.

Invariants: nothing of the user's (agent, modules beside it, their environment's Python settings) runs before root
was given up for good; the server replaces this process, so that it is the container's first process and gets its
signals; every way in which it cannot start ends with exit status 2 and one paragraph that says what to type.

Runs on the standard library alone (`python -I -S`) and knows nothing of Strandline but its command line.
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
"""Uid and gid of the image's user, who gets a /data that belongs to root."""
EXIT_SETUP: Final = 2
UID_MAP: Final = Path("/proc/self/uid_map")
"""Who the users of this container are outside of it: first id, what that is outside, how many follow."""
AWS: Final = Path("/root/.aws")
"""Where credentials are mounted for a container that stays root."""
COPIES: Final = Path("/tmp")
"""Where they are copied to if only root may read them: gone with the container."""
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
CAPABILITIES_VERSION: Final = 0x20080522
"""Of `capset`, as in <linux/capability.h>: effective, permitted and inheritable in two words each."""
MOST_CREDENTIALS: Final = 4 * 1024 * 1024
"""How many bytes of them are read; caches of tools may lie beside them."""

NOTHING_TO_SERVE: Final = (
    "There is no agent to serve: put a Strands agent into a file agent.py that defines make_agent(session_id), and "
    'mount its folder to /app, as in docker run -p 127.0.0.1:8080:8080 -v "$PWD:/app:ro" -v strandline-data:/data '
    "IMAGE (or add -e STRANDLINE_DEMO_MODEL=scripted to see it work without an agent of yours, or with a model of a "
    "provider -e STRANDLINE_DEMO_MODEL=openai:gpt-4o-mini -e OPENAI_API_KEY)."
)


class CannotStart(Exception):
    """The container cannot start as it was run; the message says what to change."""


class Identity(NamedTuple):
    """Whom to be."""

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
        if not is_command or os.getcwd() == "/":  # (else somebody has gone where they are)
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
    """Return who owns /data, the image's own user if that was root; files of root's in there are that user's then."""
    owner = DATA.stat()
    # Root's group would be a rest of root.
    user = Identity(owner.st_uid, owner.st_gid or OWN_ID) if owner.st_uid != 0 else Identity(OWN_ID, OWN_ID)
    try:
        for path in _roots_files(DATA):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    except OSError as error:
        if _is_read_only():
            raise _not_writable(DATA, error.strerror or "read-only") from error
        what = "/data belongs to root" if owner.st_uid == 0 else f"{error.filename} belongs to root"
        raise CannotStart(
            f"{what} and cannot be given to user {user.uid}, whom this container runs as ({error.strerror}). Give it "
            f"away on the host, chown -R {user.uid}:{user.gid} FOLDER, where FOLDER is what you mount to /data; or let "
            f"the container do it, --cap-add CHOWN --cap-add SETUID --cap-add SETGID; or run it as yourself with a "
            f'folder of yours: docker run --user "$(id -u):$(id -g)" ...'
        ) from error
    return user


def _roots_files(top: Path) -> Iterator[str]:
    """Yield whatever below `top` belongs to root, and at last `top`; links are not followed, other disks not entered.

    A folder comes after what is in it: once it is given away, a root without capabilities may not enter it any more,
    and as long as `top` is root's, a start that was interrupted here is done again.
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
                # A second name of a file of root's may stand anywhere: that file is not given away.
                yield entry.path


def _entries(path: str, *, is_roots: bool) -> list["os.DirEntry[str]"]:
    """Return what is in a folder; nothing if it is another user's and a root without capabilities may not look."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except PermissionError:
        if is_roots:
            raise
        return []


def _is_a_person() -> bool:
    """Tell whether root in here is one user of the host alone, who is not root there: whoever runs a rootless engine.

    With `userns-remap`, or user namespaces of Kubernetes, root is the first of a range of ids that are nobody's.
    """
    try:
        inside, outside, count = UID_MAP.read_text().splitlines()[0].split()
    except (OSError, IndexError, ValueError):
        return False
    return inside == "0" and outside != "0" and count == "1"


def _give_up_rights() -> None:
    """Stay who this is, without any right of root's; there is no way back, neither by what is executed."""
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
            f"The container may not give up the rights of root ({os.strerror(ctypes.get_errno())}). Start it as who it "
            f"shall be: docker run --user {OWN_ID}:{OWN_ID} ..., with a named volume at /data."
        )


def _become(identity: Identity) -> None:
    """Stop being root; there is no way back."""
    try:
        os.setgroups([])
        os.setgid(identity.gid)
        os.setuid(identity.uid)
    except OSError as error:
        raise CannotStart(
            f"The container was started as root and may not become another user ({error.strerror}). Allow it, "
            f"--cap-add SETUID --cap-add SETGID (and --cap-add CHOWN for a /data that is root's), or start it as who "
            f"it shall be: docker run --user {identity.uid}:{identity.gid} ..."
        ) from error


# -- where --------------------------------------------------------------------------------------------


def _workspace() -> Path:
    """Return the folder to work in, made if it is not there. What is needed of /data is writable on return."""
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
        return CannotStart(f"{path}: {reason}. Make room on the disk that is mounted to /data, then start it again.")
    if uid == 0:
        return CannotStart(
            f"{path}: {reason} for you, whom this container runs as (root in a rootless engine). Give it to yourself: "
            f"docker run --rm --user 0 --entrypoint chown -v FOLDER:/data IMAGE -R 0:0 /data, where FOLDER is what you "
            f"mount to /data; or mount a named volume."
        )
    return CannotStart(
        f"{path}: {reason} for user {uid}, whom this container runs as. Mend it on the host: "
        f"chown -R {uid}:{gid} FOLDER, where FOLDER is what you mount to /data (for a named volume: docker run --rm "
        f"--user 0 --entrypoint chown -v VOLUME:/data IMAGE -R {uid}:{gid} /data); or mount one that is that user's."
    )


def _is_read_only() -> bool:
    return bool(os.statvfs(DATA).f_flag & os.ST_RDONLY)


def _environment(given: Mapping[str, str], workspace: Path) -> dict[str, str]:
    """Return the server's environment: HOME is a folder that it may write to, as many libraries expect."""
    home = given.get("HOME", "/")
    if not os.access(home, os.W_OK):
        home = str(workspace)
    return {**given, "HOME": home, "USER": given.get("USER", OWN_USER)}


# -- credentials of AWS ---------------------------------------------------------------------------------


Files = dict[str, bytes]


def _read_credentials() -> Files:
    """Return what is mounted at /root/.aws, as far as this user may read it, by its path in there."""
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
    """Return the environment with the credentials that are mounted for root where the server's user finds them.

    They are used where they are if that user may read them, so that what is renewed on the host counts at once. Else
    they are copied to a folder in memory or in the container, never to /data. Where neither can be, that is told.
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
            f"AWS credentials are mounted at {AWS}, but user {os.getuid()}, whom this container runs as, cannot have "
            f"them ({error.strerror}: {error.filename}): make them readable for that user on the host, or give them as "
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
    """Tell whether this user may read all that root could, or whoever it was; and something, if there is anything."""
    names = [os.path.relpath(Path(folder, name), AWS) for folder, _, names in os.walk(AWS) for name in names]
    if not {*names} >= found.keys() or not os.access(AWS, os.R_OK | os.X_OK):
        return False
    return all(os.access(AWS / name, os.R_OK) for name in names)


def _copied(found: Files) -> Path:
    """Return a folder with copies of files, which nobody else may read."""
    if not found:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(AWS))
    place = COPIES / f"aws-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    status = place.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(errno.EACCES, "it is somebody else's", str(place))
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
    """Have `~/.aws` lead there: tokens of a single sign-on are looked for nowhere else. One that is there stays."""
    try:
        if link.is_symlink() and (os.readlink(link) == str(AWS) or os.readlink(link).startswith(f"{COPIES}/aws-")):
            link.unlink()
        link.symlink_to(place)
    except OSError:
        return


# -- what ---------------------------------------------------------------------------------------------


def _given(arguments: Sequence[str]) -> list[str]:
    """Return the command that was given; ours by its path, since PATH leads to this entry under its name."""
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
        f"User {os.getuid()}, whom this container runs as, may not read {path}. Mend it on the host, chmod -R a+rX "
        f"FOLDER, where FOLDER is what you mount to /app; or mount a folder of yours to /data: the container runs as "
        f"its owner."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
