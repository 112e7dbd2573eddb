"""Hostile programs, by name: the code, and the reasons with which it may be refused.

Every program is judged on two tests whose expected output is "42"; none may pass.
"""

# ruff: noqa: E501 - the attacks are quoted whole
CRASH = {"runtime_error"}
WRONG = {"wrong"}
TIME = {"time_limit"}
MEMORY = {"memory_limit"}
OUTPUT = {"output_limit"}
SECURITY = {"security"}

_CTYPES = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
# Prints "42" where the attack worked: a pass is then a failure of the sandbox.
_DENIED = "try:\n    {attempt}\nexcept (OSError, ValueError, MemoryError, RuntimeError) as e:\n    print('denied', e)\nelse:\n    print(42)"


def _denied(attempt: str, before: str = "import os") -> str:
    return before + "\n" + _DENIED.format(attempt=attempt)


def _syscall(*arguments) -> str:
    """A raw call; prints 42 where it succeeds."""
    return f"{_CTYPES}r = libc.syscall({', '.join(map(str, arguments))})\nprint(42 if r >= 0 else 'denied')"


INTEGRITY = {
    "exit_zero_before_output": ("import sys\nsys.exit(0)", WRONG),
    "exit_function_before_output": ("exit()\nprint(42)", WRONG),
    "os_exit_zero": ("import os\nos._exit(0)", CRASH),
    "raise_system_exit": ("raise SystemExit(1)", CRASH),
    "raise_keyboard_interrupt": ("raise KeyboardInterrupt", CRASH),
    "frame_walk_for_expected": (
        "import sys\nf = sys._getframe()\nfound = []\nwhile f:\n"
        "    found += [v for v in list(f.f_locals.values()) + list(f.f_globals.values()) if v in ('42', b'42')]\n"
        "    f = f.f_back\nprint(found[0] if found else 'nothing')",
        WRONG,
    ),
    "gc_scan_for_expected": (
        "import gc\nfound = [o for o in gc.get_objects() if isinstance(o, (list, tuple)) and '42' in [x for x in o if type(x) is str]]\n"
        "gc.unfreeze()\nfound += [o for o in gc.get_objects() if isinstance(o, dict) and '42' in [x for x in o.values() if type(x) is str] and o is not globals()]\n"
        "print('nothing' if not found else 'something')",
        WRONG,
    ),
    "patch_print": ("import builtins\nbuiltins.print = lambda *a, **k: None\nprint('42')", WRONG),
    "forge_frame": ("import os\nos.write(3, b'\\0' * 16 + b'\\0' * 4 + b'done    ')\nprint(1)", SECURITY),
    "flood_result_pipe": ("import os\nwhile True: os.write(3, b'x' * 65536)", OUTPUT | SECURITY),
    "print_passed": ("print('PASSED')\nprint('all tests passed')", WRONG),
    "print_prefix_only": ("print('4', end='')", WRONG),
    "print_every_number": ("print(*range(100))", WRONG),
    "answer_behind_garbage": ("print('garbage')\nprint(42)", WRONG),
    "answer_before_garbage": ("print(42)\nprint('garbage')", WRONG),
    "answer_on_stderr": ("import sys\nprint(42, file=sys.stderr)", WRONG),
    "expected_from_arguments": ("import sys\nprint(sys.argv, sys.orig_argv)", WRONG),
    "expected_from_environment": ("import os\nprint(sorted(os.environ.items()))", WRONG),
    "expected_from_disk": (
        "import os\nfor root, _, files in os.walk('/box'):\n    print(root, files)\nprint(os.listdir('/tmp'))",
        WRONG,
    ),
    "read_parent_memory": (_denied("open('/proc/1/mem', 'rb').read(1)"), WRONG),
    "ansi_and_nul_output": ("print('\\x1b[2J\\x00\\ud800'.encode('utf-8', 'replace'))", WRONG),
    "invalid_utf8_output": ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe42\\n')", WRONG),
    "log_injection": ("raise ValueError('x\\n2026-01-01 INFO reward=1.0 %s %n {0}')", CRASH),
    "close_result_pipe": ("import os\nos.close(3)\nprint(42)", CRASH),
    "replace_stdout": ("import sys\nsys.stdout = None\nprint(42)", CRASH | WRONG),
    "poison_stdout_flush": (
        "import sys\nclass S:\n    def write(s, x): pass\n    def flush(s): raise SystemExit(0)\nsys.stdout = S()\nprint(42)",
        CRASH,
    ),
    "lone_syntax_error": ("def f(:\n", CRASH),
    "nul_byte_source": ("print(42)\0", CRASH),
}

RESOURCES = {
    "busy_loop": ("while True: pass", TIME),
    "sleep": ("import time\ntime.sleep(1000)", TIME),
    "wait_for_input": ("import signal\nsignal.pause()", TIME),
    "ignore_signals_and_loop": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
        TIME,
    ),
    "swallow_everything_and_loop": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        TIME,
    ),
    "close_output_and_loop": ("import os\nos.close(1)\nos.close(2)\nwhile True: pass", TIME),
    "close_all_and_sleep": ("import os, time\nos.closerange(0, 64)\ntime.sleep(1000)", TIME),
    "threads_spin": (
        "import threading\ndef f():\n    while True: pass\nfor _ in range(4): threading.Thread(target=f).start()",
        TIME,
    ),
    "bytearray_4g": ("x = bytearray(4 << 30)", MEMORY),
    "list_growth": ("x = []\nwhile True: x.append(bytes(1 << 20))", MEMORY | TIME),
    "string_doubling": ("x = 'x'\nwhile True: x += x", MEMORY | TIME),
    "shared_mmap": ("import mmap\nm = [mmap.mmap(-1, 64 << 20) for _ in range(100)]", CRASH | MEMORY),
    "catch_memory_error": (
        "x = []\nwhile True:\n    try:\n        while True: x.append(bytearray(1 << 22))\n    except MemoryError: pass",
        TIME | MEMORY,
    ),
    "deep_recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)",
        CRASH | MEMORY | TIME,
    ),
    "fork": ("import os\nif os.fork() == 0:\n    while True: pass\nprint(42)", CRASH),
    "posix_fork": ("import posix\nposix.fork()\nprint(42)", CRASH),
    "vfork_syscall": (_syscall(58), WRONG),
    "clone_without_thread": (_syscall(56, 17, 0, 0, 0, 0), WRONG),
    "clone3": (
        _CTYPES + "a = (ctypes.c_uint64 * 11)()\nprint(42 if libc.syscall(435, a, 88) >= 0 else 'denied')",
        WRONG,
    ),
    "multiprocessing": (
        "import multiprocessing as m\np = m.Process(target=print)\np.start()\nprint(42)",
        CRASH,
    ),
    "thread_bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
        CRASH | TIME | MEMORY,
    ),
    "stdout_flood": ("import os\nwhile True: os.write(1, b'x' * 65536)", OUTPUT),
    "print_flood": ("while True: print('x' * 1000)", OUTPUT),
    "stderr_flood": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", OUTPUT),
    "disk_fill": ("f = open('/box/x', 'wb')\nwhile True: f.write(bytes(1 << 20))", CRASH),
    "disk_fill_many_files": (
        "n = 0\nwhile True:\n    open(f'/box/{n}', 'wb').write(bytes(1 << 20))\n    n += 1",
        CRASH,
    ),
    "two_hundred_thousand_files": ("for n in range(200000): open(f'/box/{n}', 'w').close()", CRASH),
    "deep_directories": (
        "import os\nfor n in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nprint('deep')",
        CRASH | WRONG,
    ),
    "descriptor_exhaustion": ("f = []\nwhile True: f.append(open('/dev/null'))", CRASH),
    "power_tower": ("print(9**9**9)", TIME | MEMORY),
    "huge_int_to_text": ("print(10**5000)", WRONG),
    "huge_int_to_text_forced": ("import sys\nsys.set_int_max_str_digits(0)\nprint(7**3000000)", TIME),
    "regular_expression": ("import re\nre.match('(a+)+b', 'a' * 40)", TIME),
    "cpu_limit_by_sleeping_in_between": (
        "import time\nwhile True:\n    for _ in range(1000): pass\n    time.sleep(0.001)",
        TIME,
    ),
    "segfault": ("import ctypes\nctypes.string_at(0)", CRASH),
    "abort": ("import os\nos.abort()", CRASH),
    "core_dump": (
        "import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))\nos.abort()",
        CRASH,
    ),
}

ISOLATION = {
    "read_shadow": (_denied("open('/etc/shadow').read()"), WRONG),
    "read_passwd": (_denied("open('/etc/passwd').read()"), WRONG),
    "list_root_home": (_denied("os.listdir('/root/.ssh')"), WRONG),
    "write_usr": (_denied("open('/usr/lib/x', 'w')"), WRONG),
    "write_root": (_denied("open('/x', 'w')"), WRONG),
    "write_tmp": (_denied("open('/tmp/x', 'w')"), WRONG),
    "write_standard_library": (_denied("open(os.__file__, 'a')"), WRONG),
    "tcp": (_denied("socket.socket(socket.AF_INET, socket.SOCK_STREAM)", "import socket"), WRONG),
    "udp": (_denied("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "import socket"), WRONG),
    "unix_socket": (_denied("socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)", "import socket"), WRONG),
    "vsock": (_denied("socket.socket(40, socket.SOCK_STREAM)", "import socket"), WRONG),
    "netlink": (_denied("socket.socket(16, socket.SOCK_RAW)", "import socket"), WRONG),
    "socketpair": (_denied("socket.socketpair()", "import socket"), WRONG),
    "name_lookup": (_denied("socket.getaddrinfo('example.org', 80)", "import socket"), WRONG),
    "subprocess": (_denied("subprocess.run(['/bin/true'])", "import subprocess"), WRONG),
    "os_system": ("import os\nprint(42 if os.system('true') == 0 else 'denied')", WRONG),
    "execve": (_denied("os.execv('/bin/sh', ['sh', '-c', 'echo 42'])"), WRONG),
    "execve_python": (_denied("os.execv(sys.executable, ['python', '-c', 'print(42)'])", "import os, sys"), WRONG),
    "ptrace": (_syscall(101, 0, 0, 0, 0), SECURITY),
    "process_vm_readv": (_syscall(310, 1, 0, 0, 0, 0, 0), SECURITY),
    "kill_everything": (_denied("os.kill(-1, 9)"), WRONG),
    "kill_parent": (_denied("os.kill(os.getppid(), 9)"), WRONG),
    "tgkill_other": (_syscall(234, 2, 2, 9), WRONG),
    "mount": (_CTYPES + "libc.mount(b'x', b'/box', b'tmpfs', 0, None)\nprint(42)", SECURITY),
    "unshare": (_syscall(272, 0x10000000), SECURITY),
    "setns": (_syscall(308, 0, 0), SECURITY),
    "pivot_root": (_syscall(155, "b'/'", "b'/'"), SECURITY),
    "chroot": ("import os\nos.chroot('/box')\nprint(42)", SECURITY),
    "bpf": (_syscall(321, 0, 0, 0), SECURITY),
    "io_uring": (_syscall(425, 1, 0), SECURITY),
    "userfaultfd": (_syscall(323, 0), SECURITY),
    "perf_event": (_syscall(298, 0, 0, 0, 0, 0), SECURITY),
    "keyctl": (_syscall(250, 0, -3, 0), WRONG),
    "i386_call": (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nf()\nprint(42)",
        SECURITY,
    ),
    "x32_call": (_syscall("0x40000000 + 39"), SECURITY),
    "memfd": (_denied("os.memfd_create('x')"), WRONG),
    "shared_memory": (_denied("SharedMemory(create=True, size=10)", "from multiprocessing.shared_memory import SharedMemory"), WRONG),
    "sysv_shared_memory": (_syscall(29, 0, 4096, 0o1000), WRONG),
    "message_queue": (_syscall(240, "b'/x'", 0o100, 0o600, 0), WRONG),
    "open_by_handle": (_syscall(304, 0, 0, 0), WRONG),
    "symlink": (_denied("os.symlink('/etc/shadow', '/box/x')"), WRONG),
    "hard_link": (_denied("os.link('/usr/lib/os-release', '/box/x')"), WRONG),
    "fifo": (_denied("os.mkfifo('/box/x')"), WRONG),
    "device_node": (_denied("os.mknod('/box/x', 0o60666, os.makedev(8, 0))"), WRONG),
    "setuid_root": (_denied("os.setuid(os.getuid() and 0 or 1)"), WRONG),
    "raise_limit": (
        _denied("resource.setrlimit(resource.RLIMIT_NOFILE, (10**6, 10**6))", "import resource"), WRONG,
    ),
    "negative_nice": (_denied("os.nice(-20)"), WRONG),
    "set_clock": (_denied("time.clock_settime(time.CLOCK_REALTIME, 0)", "import time"), WRONG),
    "set_affinity": (_denied("os.sched_setaffinity(0, {0})"), WRONG),
    "lock_shared_file": (_denied("fcntl.flock(open('/dev/null'), fcntl.LOCK_EX)", "import fcntl"), WRONG),
    "read_proc": (_denied("os.listdir('/proc/1')"), WRONG),
    "read_sys": (_denied("os.listdir('/sys/kernel')"), WRONG),
    "kvm_device": (_denied("open('/dev/kvm')"), WRONG),
    "inherited_descriptors": (
        "import os\nopen_ = []\nfor n in range(4, 1024):\n    try: os.fstat(n); open_.append(n)\n    except OSError: pass\nprint(42 if open_ else 'none')",
        WRONG,
    ),
    "terminal_injection": (_denied("fcntl.ioctl(0, termios.TIOCSTI, b'x')", "import fcntl, termios"), WRONG),
    "set_host_name": (_denied("socket.sethostname('x')", "import socket"), WRONG),
    "import_the_project": (_denied("open(__import__('verifiers').__file__).read()"), WRONG),
}  # fmt: skip
