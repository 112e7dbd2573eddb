"""The seccomp filter of a candidate: what it may ask of the kernel. Everything else fails.

The default is EPERM, so that a library that probes for a call finds a refusal and goes on; what no
honest program tries kills the process, and is reported as an attack.
"""

# ruff: noqa: SIM905 - long word lists read better as words
import errno
import os

ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev close fstat newfstatat stat lstat statx lseek
mmap munmap mremap mprotect brk madvise mincore membarrier
rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack rt_sigpending rt_sigtimedwait pause restart_syscall
access faccessat faccessat2 open openat mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
truncate ftruncate fallocate fsync fdatasync getdents getdents64 readlink readlinkat umask
chmod fchmod fchmodat
utimensat utime utimes getcwd chdir fchdir statfs fstatfs fadvise64 copy_file_range sendfile
pipe pipe2 select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2
dup dup2 dup3 nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
alarm setitimer getitimer timerfd_create timerfd_settime timerfd_gettime
getpid getppid gettid getuid geteuid getgid getegid getgroups getresuid getresgid getpgrp getpgid getsid
sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max
sched_get_priority_min getpriority getrandom futex set_robust_list get_robust_list rseq set_tid_address
exit exit_group getrlimit getrusage sysinfo uname getcpu arch_prctl capget
""".split()

KILLED = """
ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd pidfd_send_signal
mount umount2 pivot_root chroot unshare setns move_mount open_tree fsopen fsconfig fsmount fspick
mount_setattr bpf io_uring_setup io_uring_enter io_uring_register perf_event_open userfaultfd
init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
""".split()

REFUSED = """
socket socketpair execve execveat memfd_create memfd_secret keyctl add_key request_key open_by_handle_at
name_to_handle_at shmget shmat msgget semget mq_open fork vfork
""".split()

_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032)  # DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC, GETPIPE_SZ
_IOCTL_COMMANDS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX
_CLONE_THREAD = 0x00010000
_SIGABRT = 6


def compile_filter(may_exec: bool = False) -> bytes:
    """The filter as BPF, for SeccompProgram; may_exec: for a child that becomes another program.

    Raises ImportError or OSError without libseccomp.
    """
    import pyseccomp as seccomp

    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    # i386 and x32 calls have other numbers for the same names: nothing of theirs is allowed.
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)

    def add(action, name, *conditions):
        # A name that this architecture lacks (open, on aarch64) needs no rule.
        if seccomp.resolve_syscall(seccomp.system_arch(), name) >= 0:
            rules.add_rule(action, name, *conditions)

    rules.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)  # a tree instead of a list of comparisons
    for name in ALLOWED:
        add(seccomp.ALLOW, name)
    for name in KILLED:
        add(seccomp.KILL_PROCESS, name)
    if may_exec:
        add(seccomp.ALLOW, "execve")
    for name in REFUSED:
        if may_exec and name == "execve":
            continue
        add(seccomp.ERRNO(errno.EACCES), name)
    # Threads, never processes. glibc asks clone3 first, whose flags a filter cannot read.
    add(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    add(seccomp.ERRNO(errno.ENOSYS), "clone3")
    # Limits may be read, not set.
    add(seccomp.ALLOW, "prlimit64", seccomp.Arg(0, seccomp.EQ, 0), seccomp.Arg(2, seccomp.EQ, 0))
    # abort() signals itself; any other target is outside the process's own namespace.
    add(seccomp.ALLOW, "tgkill", seccomp.Arg(2, seccomp.EQ, _SIGABRT))
    for command in _FCNTL_COMMANDS:
        add(seccomp.ALLOW, "fcntl", seccomp.Arg(1, seccomp.EQ, command))
    for command in _IOCTL_COMMANDS:
        add(seccomp.ALLOW, "ioctl", seccomp.Arg(1, seccomp.EQ, command))
    with open(os.memfd_create("filter"), "w+b") as file:  # in memory: the disk may be full
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
