"""Run one program inside the sandbox, in its own namespaces, and grade it by its tests. sandbox.py starts this.

Input: one line of JSON on stdin, {"before", "program", "tests": sources, "seconds", "memory"}. Output: one line of
JSON,

    {"ok": false, "how": "failed: AssertionError"}     or {"cannot": "unshare: Operation not permitted"}

Two processes. The keeper makes the namespaces and a new root with Python's library, read-only, and an empty /tmp; no
/proc, no /dev, no home folder. Then it starts the second, which becomes the user nobody, drops its remaining privileges
and runs the program. The keeper kills it when it is done, out of time, or the parent has gone.

This script imports only the standard library: it runs without site-packages and without an environment.
"""

import builtins
import ctypes
import json
import os
import select
import signal
import struct
import sys
import types
from typing import Any

PASSED = "passed the tests"
LATE = "ran out of time"
SCRATCH = 64 << 20  # bytes in /tmp, and the maximum file size

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOBODY = 65534
_PATIENCE = 3  # wall-clock seconds per second of CPU time: the machine may be busy
_MESSAGE_BYTES = 300  # of a program's error message
_NEW_USER, _NEW_NET, _NEW_MOUNT, _NEW_PID, _NEW_IPC = 0x10000000, 0x40000000, 0x20000, 0x20000000, 0x08000000


def main() -> None:
    """Read the job, run it, and print the outcome."""
    job = json.loads(sys.stdin.buffer.readline())
    try:
        enter_namespaces()
        enter_root()
        outcome = watched(job)
    except OSError as error:
        outcome = {"cannot": f"{error.filename}: {error.strerror}"}
    print(json.dumps(outcome), flush=True)


def call(name: str, *arguments: Any) -> None:
    """Call a C library function that Python does not wrap; an error names it."""
    if getattr(_LIBC, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


# --- the keeper: namespaces and a root --------------------------------------------------------------------------------


def enter_namespaces() -> None:
    """Enter new user, network, mount, process and IPC namespaces; the next child is the first process in them."""
    uid, gid = os.geteuid(), os.getegid()
    everything = _NEW_USER | _NEW_NET | _NEW_MOUNT | _NEW_PID | _NEW_IPC
    if uid != 0:  # an ordinary user may map only one id, so map itself to nobody
        call("unshare", everything)
        _write_maps("self", {"setgroups": "deny", "uid_map": f"{_NOBODY} {uid} 1", "gid_map": f"{_NOBODY} {gid} 1"})
        return
    reader, writer = os.pipe()
    helper = os.fork()  # root also maps nobody, which only a process outside can do
    if helper == 0:
        os.close(writer)
        maps = {"uid_map": f"0 {uid} 1\n{_NOBODY} {_NOBODY} 1", "gid_map": f"0 {gid} 1\n{_NOBODY} {_NOBODY} 1"}
        try:
            if os.read(reader, 1):
                _write_maps(str(os.getppid()), maps)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    call("unshare", everything)
    os.write(writer, b".")
    if failed := os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]):
        raise OSError(failed, os.strerror(failed), "uid_map")


def _write_maps(process: str, maps: dict[str, str]) -> None:
    for name, text in maps.items():
        descriptor = os.open(f"/proc/{process}/{name}", os.O_WRONLY)
        os.write(descriptor, text.encode())  # in one write: the kernel accepts no second
        os.close(descriptor)


def enter_root() -> None:
    """Enter a file system with only Python's library, read-only, and an empty /tmp."""
    shown = {path: os.path.realpath(path) for path in _library()}
    _mount(None, "/", None, 0x44000)  # recursive, private: invisible outside
    _mount("none", "/tmp", "tmpfs", 0, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    call("pivot_root", b"/tmp", b"/tmp/old")
    os.chdir("/")
    os.mkdir("/tmp")
    _mount("none", "/tmp", "tmpfs", 0, f"size={SCRATCH},nr_inodes=1000,mode=777")
    for path, place in shown.items():
        os.makedirs(path, exist_ok=True)
        _mount(f"/old{place}", path, None, 0x5000)  # bind, recursive
    call("umount2", b"/old", 2)  # detach
    os.rmdir("/old")
    _set("/", _READ_ONLY | _NO_SUID | _NO_DEVICES, recursive=True)
    _set("/tmp", _NO_EXEC, clear=_READ_ONLY)
    os.chdir("/tmp")


def _library() -> list[str]:
    """List the folders that Python imports from, without those inside another of them."""
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]  # its extension modules are linked against these
    folders = {path for path in [*system, f"{sys.base_prefix}/lib", *sys.path] if os.path.isdir(path)}
    return sorted(path for path in folders if not any(path.startswith(f"{other}/") for other in folders))


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [text and os.fsencode(text) for text in (source, target, kind, options)]
    call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8


def _set(path: str, flags: int, *, clear: int = 0, recursive: bool = False) -> None:
    attributes = (ctypes.c_uint64 * 4)(flags, clear)
    mount_setattr = ctypes.c_long(442)
    call("syscall", mount_setattr, -100, path.encode(), 0x8000 * recursive, attributes, ctypes.c_size_t(32))


# --- the keeper: one program ------------------------------------------------------------------------------------------


def watched(job: dict[str, Any]) -> dict[str, Any]:
    """Run the program in a separate process within its time limit, and return the outcome."""
    _end_with_reader(1)
    token = os.urandom(16)  # without it an outcome cannot be forged
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            inmate(job, token, writer)
        finally:
            os._exit(1)
    os.close(writer)
    ended, _, _ = select.select([os.pidfd_open(pid)], [], [], _PATIENCE * job["seconds"])
    os.kill(pid, signal.SIGKILL)  # killing the namespace's first process kills all others in it
    _, status, usage = os.wait4(pid, 0)
    report = os.read(reader, 4096)
    if report.startswith(token):
        how = report[len(token) :].decode("utf-8", "replace")
        return {"cannot": how.removeprefix(_CANNOT)} if how.startswith(_CANNOT) else {"ok": how == PASSED, "how": how}
    code = os.waitstatus_to_exitcode(status)
    # The kernel counts the limit in ticks and the usage exactly, and the two may differ on a busy machine.
    if not ended or code == -signal.SIGKILL and usage.ru_utime + usage.ru_stime > job["seconds"] / 2:
        return {"ok": False, "how": LATE}
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else "ended before its tests had passed"
    return {"ok": False, "how": f"failed: {how}"}


def _end_with_reader(out: int) -> None:
    """End when the parent, the reader of `out`, ends; at once if it ended before the kernel was told."""
    _control(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; lost by later changes of user or capabilities
    pipe = select.poll()
    pipe.register(out, 0)
    if pipe.poll(0):  # the reader is gone
        os._exit(1)


# --- the program ------------------------------------------------------------------------------------------------------

_CANNOT = "cannot "


def inmate(job: dict[str, Any], token: bytes, out: int) -> None:
    """Drop privileges, run the program and its tests, report the outcome, and end.

    Functions that the program might replace are saved before: it can put its own `exec` or `abs` among the builtins,
    and the tests still get the real ones. But it shares a process with its tests. Code that walks up the stack for the
    token, or returns objects that equal everything, can pass; the only thing it fools is its own test.
    """
    write, leave, execute, real = os.write, os._exit, exec, dict(vars(builtins))
    try:
        _give_up(job, out)
    except OSError as error:
        write(out, token + f"{_CANNOT}{error.filename or 'setrlimit'}: {error.strerror}".encode())
        leave(1)
    sys.argv[:] = [""]
    module = sys.modules["program"] = types.ModuleType("program")
    try:
        before, program, tests = (
            compile(job[part], f"<{part}>", "exec", dont_inherit=True) for part in ("before", "program", "tests")
        )
        execute(before, vars(module))
        execute(program, vars(module))
        execute(tests, {**vars(module), "__builtins__": real})
        how = PASSED
    except BaseException as error:
        how = f"failed: {type(error).__name__}"
        try:
            how = f"{how}: {error}".removesuffix(": ")
        except BaseException:
            how = f"{how}: unprintable"
    write(out, token + how.encode("utf-8", "replace")[:_MESSAGE_BYTES])
    leave(0)


def _give_up(job: dict[str, Any], out: int) -> None:
    """Drop files, session, limits, identity, capabilities and system calls, in an order that allows each step."""
    import resource

    os.dup2(2, 0)  # the keeper's stderr is /dev/null
    os.dup2(2, 1)
    os.setsid()  # so that it can signal only itself as a group
    seconds, memory = job["seconds"], job["memory"]
    limits = {"CPU": seconds, "AS": memory, "FSIZE": SCRATCH, "NOFILE": 32, "NPROC": 1}
    for name, most in {**limits, "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if os.getuid() != _NOBODY:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    no_capabilities = (ctypes.c_uint32 * 6)()
    call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), no_capabilities)
    _end_with_reader(out)
    _control(38, 1)  # PR_SET_NO_NEW_PRIVS
    code = _filter()
    block = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(block))
    _control(22, 2, ctypes.addressof(program))  # PR_SET_SECCOMP, a filter


def _control(*arguments: int) -> None:
    call("prctl", *(ctypes.c_ulong(number) for number in (*arguments, 0, 0, 0, 0)[:5]))


# System calls that Python functions do not need, by their numbers on x86-64 and arm64. No new processes or threads, so
# that none need to be counted; no sockets, because not all kinds respect a network namespace; no memory outside the
# limits; no way into further namespaces, to other processes or to the kernel's keys.
_REFUSED = {
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # our column, the kernel's constant


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _filter() -> bytes:
    """Build the seccomp filter: _REFUSED fail with "Operation not permitted", calls of other architectures kill."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise OSError(0, f"there is no table of system calls for {machine}, only for {', '.join(_MACHINES)}", "seccomp")
    column, architecture = _MACHINES[machine]
    load, equal, at_least, leave = 0x20, 0x15, 0x35, 0x06
    allow, refuse, end = 0x7FFF0000, 0x00050001, 0x80000000
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (leave, 0, 0, end), (load, 0, 0, 0)]
    lines += [(at_least, 0, 1, 0x40000000), (leave, 0, 0, end)]  # x32's numbers
    for numbers in _REFUSED.values():
        if (number := numbers[column]) is not None:
            lines += [(equal, 0, 1, number), (leave, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *line) for line in [*lines, (leave, 0, 0, allow)])


if __name__ == "__main__":
    main()
