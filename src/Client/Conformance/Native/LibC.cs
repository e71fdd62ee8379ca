using System.Runtime.InteropServices;

namespace FramePin.Conformance.Native;

/// <summary>The registers of a traced x86-64 thread (struct user_regs_struct, 27 words).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct UserRegisters
{
    public ulong R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8, Rax, Rcx, Rdx, Rsi, Rdi, OrigRax, Rip, Cs, Flags, Rsp,
    Ss,
        FsBase, GsBase, Ds, Es, Fs, Gs;
}

/// <summary>The start of siginfo_t for a fault: signal, errno, code, address.</summary>
[StructLayout(LayoutKind.Sequential, Size = 128)]
internal struct SignalInfo
{
    public int Signal, Error, Code, Padding;
    public ulong Address;
}

/// <summary>struct iovec.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct IoVector
{
    public ulong Base, Length;
}

/// <summary>The host calls that tracing another process needs. No other room of the client calls libc.</summary>
internal static unsafe partial class LibC
{
    internal const long PtracePeekUser = 3;
    internal const long PtraceContinue = 7;
    internal const long PtraceGetRegisters = 12;
    internal const long PtraceSetRegisters = 13;
    internal const long PtraceGetEventMessage = 0x4201;
    internal const long PtraceGetSignalInfo = 0x4202;
    internal const long PtraceSeize = 0x4206;
    internal const long PtraceInterrupt = 0x4207;

    internal const ulong OptionFork = 0x2;
    internal const ulong OptionExec = 0x10;
    internal const ulong OptionExitKill = 0x10_0000;

    /// <summary>__WALL: children of every kind.</summary>
    internal const int WaitAll = 0x4000_0000;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long ptrace(long request, long pid, ulong address, ulong data);

    [LibraryImport("libc", EntryPoint = "ptrace", SetLastError = true)]
    internal static partial long ptrace_registers(long request, long pid, ulong address, ref UserRegisters data);

    [LibraryImport("libc", EntryPoint = "ptrace", SetLastError = true)]
    internal static partial long ptrace_signal(long request, long pid, ulong address, ref SignalInfo data);

    [LibraryImport("libc", EntryPoint = "ptrace", SetLastError = true)]
    internal static partial long ptrace_message(long request, long pid, ulong address, ref ulong data);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int waitpid(int pid, ref int status, int options);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int kill(int pid, int signal);

    [LibraryImport("libc")]
    internal static partial int sched_getcpu();

    [LibraryImport("libc")]
    internal static partial uint geteuid();

    [LibraryImport("libc")]
    private static partial int prctl(int option, ulong value, ulong b, ulong c, ulong d);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long syscall(long number, long a, long b, long c);

    /// <summary>
    /// Makes the calling thread alone an ordinary user (the raw calls change one thread; glibc's would change all).
    /// There is no way back.
    /// </summary>
    internal static void BecomeUser(int user)
    {
        const long setGroups = 116, setResUid = 117, setResGid = 119;
        const int setDumpable = 4;
        if (syscall(setGroups, 0, 0, 0) < 0 || syscall(setResGid, user, user, user) < 0
            || syscall(setResUid, user, user, user) < 0)
            throw new System.ComponentModel.Win32Exception(Marshal.GetLastPInvokeError(), $"becoming user {user}");
        // A change of user takes /proc/self away from the process; what it holds is no secret.
        _ = prctl(setDumpable, 1, 0, 0, 0);
    }

    /// <summary>Number of a file in its file system; 0 where it may not be looked at.</summary>
    internal static ulong InodeOf(string path)
    {
        const int atCurrentFolder = -100, sizeOfStatx = 256, inodeAt = 32;
        const uint inodeAsked = 0x100;
        Span<byte> found = stackalloc byte[sizeOfStatx];
        // SAFETY: the kernel writes one struct statx.
        fixed (byte* into = found)
            if (statx(atCurrentFolder, path, 0, inodeAsked, into) != 0) return 0;
        return BitConverter.ToUInt64(found[inodeAt..]);
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int statx(int folder, string path, int flags, uint mask, byte* found);

    /// <summary>Makes a user and the group of the same number the owners of a file.</summary>
    internal static void GiveTo(string path, int user)
    {
        if (chown(path, user, user) < 0)
            throw new System.ComponentModel.Win32Exception(Marshal.GetLastPInvokeError(), $"chown {user} {path}");
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int chown(string path, int user, int group);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int sched_setaffinity(int pid, nuint size, ref ulong mask);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint process_vm_readv(
        int pid, IoVector* local, ulong localCount, IoVector* remote, ulong remoteCount, ulong flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint process_vm_writev(
        int pid, IoVector* local, ulong localCount, IoVector* remote, ulong remoteCount, ulong flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint pread(int fd, byte* buffer, nuint count, ulong offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint pwrite(int fd, byte* buffer, nuint count, ulong offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint read(int fd, byte* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int open(byte* path, int flags, int mode);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int close(int fd);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int pidfd_open(int pid, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int pidfd_getfd(int pidfd, int target, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int memfd_create(byte* name, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial void* mmap(void* address, nuint length, int prot, int flags, int fd, ulong offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int munmap(void* address, nuint length);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static partial long syscall_enter(
        long number, int fd, uint submit, uint complete, uint flags, void* argument, nuint size);

    [LibraryImport("libc")]
    private static partial int posix_spawn(
        int* pid, byte* path, void* actions, void* attributes, byte** arguments, byte** environment);

    /// <summary>
    /// Starts a program with one environment string; its process number or a negative errno. Not by Process.Start,
    /// whose watcher waits for its children and would take a tracee's stops from the tracer.
    /// </summary>
    internal static int Spawn(string path, string environment)
    {
        var pathText = System.Text.Encoding.UTF8.GetBytes(path + '\0');
        var room = System.Text.Encoding.UTF8.GetBytes(environment + '\0');
        // SAFETY: both arrays are pinned for the call and end with a zero byte; the lists end with a null pointer.
        fixed (byte* program = pathText, variable = room)
        {
            var arguments = stackalloc byte*[2] { program, null };
            var variables = stackalloc byte*[2] { variable, null };
            int pid;
            var error = posix_spawn(&pid, program, null, null, arguments, variables);
            return error == 0 ? pid : -error;
        }
    }

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int swapon(string path, int flags);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int swapoff(string path);

    /// <summary>swapon(2); 0 or the errno.</summary>
    internal static int SwapOn(string path) => swapon(path, 0) == 0 ? 0 : Marshal.GetLastPInvokeError();

    /// <summary>swapoff(2), which reads everything back; 0 or the errno.</summary>
    internal static int SwapOff(string path) => swapoff(path) == 0 ? 0 : Marshal.GetLastPInvokeError();

    [LibraryImport("libc", SetLastError = true)]
    private static partial int madvise(void* address, nuint length, int advice);

    private static readonly void* DrainPage = mmap(null, 4096, 3, 0x22, -1, 0);

    /// <summary>
    /// Empties this processor's batches of pages on their way to the LRU lists, as MADV_COLD does first: a page in a
    /// batch has one more reference, and a write copies it.
    /// </summary>
    internal static void DrainBatches()
    {
        const int cold = 20;
        if (madvise(DrainPage, 4096, cold) != 0)
            throw new System.ComponentModel.Win32Exception(Marshal.GetLastPInvokeError(), "MADV_COLD");
    }

    /// <summary>Keeps a thread (0: the calling one) on one processor.</summary>
    internal static void KeepOn(int pid, int processor)
    {
        var mask = 1UL << processor;
        if (sched_setaffinity(pid, sizeof(ulong), ref mask) != 0)
            throw new System.ComponentModel.Win32Exception(Marshal.GetLastPInvokeError(), "sched_setaffinity");
    }

    /// <summary>open by a text path; a negative errno on failure.</summary>
    internal static int Open(string path, int flags)
    {
        var text = System.Text.Encoding.UTF8.GetBytes(path + '\0');
        // SAFETY: the array is pinned for the call and ends with a zero byte.
        fixed (byte* start = text)
        {
            var fd = open(start, flags, 0);
            return fd >= 0 ? fd : -Marshal.GetLastPInvokeError();
        }
    }

    /// <summary>pread into a span; bytes or a negative errno.</summary>
    internal static long Read(int fd, Span<byte> buffer, ulong offset)
    {
        // SAFETY: the span is pinned for the call.
        fixed (byte* start = buffer)
        {
            var done = pread(fd, start, (nuint)buffer.Length, offset);
            return done >= 0 ? done : -Marshal.GetLastPInvokeError();
        }
    }

    /// <summary>read into a span; bytes or a negative errno.</summary>
    internal static long ReadNext(int fd, Span<byte> buffer)
    {
        // SAFETY: the span is pinned for the call.
        fixed (byte* start = buffer)
        {
            var done = read(fd, start, (nuint)buffer.Length);
            return done >= 0 ? done : -Marshal.GetLastPInvokeError();
        }
    }

    /// <summary>pwrite from a span; bytes or a negative errno.</summary>
    internal static long Write(int fd, ReadOnlySpan<byte> buffer, ulong offset)
    {
        // SAFETY: the span is pinned for the call.
        fixed (byte* start = buffer)
        {
            var done = pwrite(fd, start, (nuint)buffer.Length, offset);
            return done >= 0 ? done : -Marshal.GetLastPInvokeError();
        }
    }

    /// <summary>process_vm_readv or process_vm_writev of one range; bytes or a negative errno.</summary>
    internal static long CopyMemory(int pid, ulong address, Span<byte> buffer, bool isWrite)
    {
        // SAFETY: the span is pinned for the call; the remote address is the kernel's to check.
        fixed (byte* start = buffer)
        {
            var local = new IoVector { Base = (ulong)start, Length = (ulong)buffer.Length };
            var remote = new IoVector { Base = address, Length = (ulong)buffer.Length };
            var done = isWrite
                ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
                : process_vm_readv(pid, &local, 1, &remote, 1, 0);
            return done >= 0 ? done : -Marshal.GetLastPInvokeError();
        }
    }
}
