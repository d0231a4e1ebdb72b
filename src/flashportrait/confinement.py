"""A process that takes away its own rights before it touches a stranger's file: memory, time, files, network.

What the system offers for that differs. Limits of memory and time are POSIX; which files may be touched, and which
signals sent, is Linux's Landlock (5.13); no network is a network namespace of its own, or Landlock from Linux 6.7 on,
which stops TCP alone. :func:`confine` says which of them hold.
"""

from __future__ import annotations

import ctypes
import os
import site
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROTECTIONS = ("memory", "time", "files", "network")
"""What can be taken away, in words."""

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls, the same on all architectures."""
QUERY_VERSION, RULE_PATH_BENEATH, NO_NEW_PRIVILEGES = 1, 1, 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FILE_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many of the rights on files, lowest bit first, a version of Landlock knows."""
TRUNCATE, DEVICE_CALLS = 1 << 14, 1 << 15
RIGHTS_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | DEVICE_CALLS
"""Rights that a rule about a file may hold; the others are of folders."""
TCP_RIGHTS, TCP_VERSION = 0b11, 4
SCOPES, SCOPES_VERSION = 0b11, 6
"""Abstract sockets and signals of others."""

NEW_USERS, NEW_NETWORK = 0x10000000, 0x40000000

SYSTEM_FILES = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/opt", "/proc", "/sys", "/dev/urandom")


@dataclass(frozen=True)
class Confinement:
    """What a process may still do."""

    memory: int | None = None
    """Bytes of its own that it may hold."""
    cpu_seconds: int | None = None
    """CPU time, after which it is killed."""
    writable: tuple[Path, ...] = ()
    """Folders below which it may write, made if they are missing; its temporary files go to the first one's ``tmp``."""
    readable: tuple[Path, ...] | None = None
    """Files and folders that it may read beside those and the program's own; None for all."""
    devices: tuple[Path, ...] = ()
    """Device files that it may use, such as :func:`gpu_devices`."""
    network: bool = False
    """Whether it may speak to others."""


class _RulesetAttributes(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class _PathAttributes(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def confine(limits: Confinement) -> tuple[str, ...]:
    """Take the rights away that ``limits`` doesn't leave, from this process for good, and from those that it starts.

    Call it while the process has one thread: a network namespace and Landlock are a thread's own at first.

    Returns:
        Those of ``PROTECTIONS`` that hold. What the system doesn't offer is left out; nothing raises for that.
    """
    held = []
    if limits.writable:
        scratch = limits.writable[0] / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    if limits.memory is not None and _limit("RLIMIT_DATA", limits.memory):
        held.append("memory")
    if limits.cpu_seconds is not None and _limit("RLIMIT_CPU", limits.cpu_seconds):
        held.append("time")
    no_network = limits.network or _leave_network()
    version = _landlock_version()
    if version and _restrict_files(limits, version):
        held.append("files")
        no_network = no_network or version >= TCP_VERSION
    if no_network and not limits.network:
        held.append("network")
    return tuple(held)


def _limit(name: str, most: int) -> bool:
    """Lower a limit of this process."""
    try:
        import resource

        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (most, most))
    except (ImportError, AttributeError, ValueError, OSError):
        return False
    return True


def _leave_network() -> bool:
    """Go to a network of one's own in which there is nothing, with the rights that this needs or without."""
    unshare = _function("unshare")
    if unshare is None:
        return False
    if unshare(NEW_NETWORK) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if unshare(NEW_USERS | NEW_NETWORK) != 0:
        return False
    try:  # or else the process would find itself to be nobody
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        pass
    return True


def _landlock_version() -> int:
    """Of the system's Landlock; 0 where there is none."""
    call = _function("syscall")
    return max(0, call(CREATE_RULESET, None, ctypes.c_size_t(0), QUERY_VERSION)) if call is not None else 0


def _restrict_files(limits: Confinement, version: int) -> bool:
    """Leave only what may be read and written."""
    syscall, prctl = _function("syscall"), _function("prctl")
    if syscall is None or prctl is None:
        return False
    known = max(count for since, count in FILE_RIGHTS_OF_VERSION.items() if since <= version)
    every = (1 << known) - 1
    attributes = _RulesetAttributes(
        files=every,
        network=0 if limits.network or version < TCP_VERSION else TCP_RIGHTS,
        scopes=SCOPES if version >= SCOPES_VERSION else 0,
    )
    size = 24 if version >= SCOPES_VERSION else 16 if version >= TCP_VERSION else 8
    ruleset = syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        reading = EXECUTE | READ_FILE | READ_DIR
        readable = (Path("/"),) if limits.readable is None else (*program_files(), *limits.readable)
        for folder in limits.writable:
            folder.mkdir(parents=True, exist_ok=True)
        rules = [(path, reading) for path in readable] + [(path, every) for path in limits.writable]
        using = READ_DIR | READ_FILE | WRITE_FILE | DEVICE_CALLS
        rules += [(path, using) for path in (Path(os.devnull), *limits.devices)]
        for path, rights in rules:
            _allow(syscall, ruleset, path, rights & every)
        return prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and syscall(RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(syscall: Callable[..., int], ruleset: int, path: Path, rights: int) -> None:
    """Add a rule for what is there; what isn't can't be touched anyway."""
    try:
        parent = os.open(path, getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return
    try:
        allowed = rights if path.is_dir() else rights & RIGHTS_OF_FILES
        rule = _PathAttributes(allowed=allowed, parent=parent)
        syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def gpu_devices() -> tuple[Path, ...]:
    """Device files of this machine's NVIDIA and AMD compute drivers; none where there is no such GPU."""
    found = sorted(Path("/dev").glob("nvidia*"))
    if Path("/dev/kfd").exists():
        found += [Path("/dev/kfd"), Path("/dev/dri")]
    return tuple(found)


def program_files() -> Iterable[Path]:
    """Where the interpreter, the system's libraries, this package and others that it may import lie."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages(), site.getusersitepackages()}
    package = Path(__file__).resolve().parent
    return [package, *(Path(each) for each in sorted(prefixes)), *(Path(each) for each in SYSTEM_FILES)]


def _function(name: str) -> Callable[..., int] | None:
    """A function of Linux's C library; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)
