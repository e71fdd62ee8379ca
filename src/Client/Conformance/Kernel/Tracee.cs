using System.ComponentModel;
using System.Runtime.InteropServices;
using FramePin.Conformance.Native;
using FramePin.Core.Abi;

namespace FramePin.Conformance.Kernel;

/// <summary>
/// A stopped process whose registers the tracer sets: it runs one system call, one load or one store and stops again.
/// </summary>
/// <remarks>
/// All calls on one thread: ptrace belongs to the thread that seized. The kernel kills every tracee when the tracer
/// ends.
/// </remarks>
internal sealed class Tracee : IDisposable
{
    private const int SigKill = 9;
    private const int SigTrap = 5;
    private const int SigSegv = 11;
    private const int SigBus = 7;
    private const int EventFork = 1;
    private const int EventExec = 4;
    private const int EventStop = 128;
    private const ulong SignalChild = 17;
    private const ulong SysRead = 0;
    private const ulong SysExit = 231;
    private const ulong SysFork = 57;
    private const ulong SysExecve = 59;
    private const ulong SysPersonality = 135;
    private const ulong SysSigAction = 13;
    private const ulong NoRandomize = 0x004_0000;

    private static readonly string Room = "ROOM=" + new string('x', 12 << 10);

    private UserRegisters _registers;
    private int _mapsFd = -1, _smapsFd = -1, _pagemapFd = -1, _memFd = -1;

    private Tracee(int pid) => Pid = pid;

    public int Pid { get; }

    /// <summary>A page at the top of the stack that the tracer may use for arguments.</summary>
    public ulong Scratch { get; private set; }

    /// <summary>The page above it, in the string that made the room: the source of a copy.</summary>
    public ulong Source => Scratch + 0x1000;

    /// <summary>The status with which the process ended; null while it lives.</summary>
    public int? Ended { get; private set; }

    public int MapsFd => _mapsFd >= 0 ? _mapsFd : _mapsFd = OpenProc("maps");

    public int SmapsFd => _smapsFd >= 0 ? _smapsFd : _smapsFd = OpenProc("smaps");

    public int PagemapFd => _pagemapFd >= 0 ? _pagemapFd : _pagemapFd = OpenProc("pagemap");

    public int MemFd => _memFd >= 0 ? _memFd : _memFd = OpenProc("mem", 2);

    /// <summary>Starts the executor and seizes it. It serves as the template that <see cref="Spawn"/> forks.</summary>
    public static Tracee Start(string executor)
    {
        // The string makes room at the top of the stack for arguments that the tracer writes.
        var pid = LibC.Spawn(executor, Room);
        if (pid < 0) throw new Win32Exception(-pid, "starting the executor");
        var tracee = new Tracee(pid);
        const ulong options = LibC.OptionFork | LibC.OptionExec | LibC.OptionExitKill;
        Check(LibC.ptrace(LibC.PtraceSeize, tracee.Pid, 0, options), "PTRACE_SEIZE");
        Check(LibC.ptrace(LibC.PtraceInterrupt, tracee.Pid, 0, 0), "PTRACE_INTERRUPT");
        tracee.WaitStop();
        Check(LibC.ptrace_registers(LibC.PtraceGetRegisters, tracee.Pid, 0, ref tracee._registers), "PTRACE_GETREGS");
        tracee._registers.OrigRax = ulong.MaxValue;
        tracee.Scratch = tracee._registers.Rsp & ~0xfffUL;
        // The first call may be lost to the system call that the interrupt ended.
        const ulong query = 0xffff_ffff;
        for (var attempt = 0; tracee.Call(SysPersonality, query) != (long)NoRandomize; attempt++)
        {
            if (attempt == 3)
                throw new InvalidOperationException("the executor could not switch address randomisation off");
            tracee.Call(SysPersonality, NoRandomize);
        }

        // Ignored, so that ended children leave no zombie: struct kernel_sigaction with SIG_IGN.
        Span<byte> action = stackalloc byte[32];
        action.Clear();
        action[0] = 1;
        tracee.WriteScratch(action, 0);
        tracee.Call(SysSigAction, SignalChild, tracee.Scratch, 0, 8);
        return tracee;
    }

    /// <summary>
    /// A fresh process of the executor: a fork of this one that calls execve, without address randomisation.
    /// </summary>
    public Tracee Spawn(string executor)
    {
        var child = Fork(out var error) ?? throw new Win32Exception((int)error, "fork");
        var path = System.Text.Encoding.UTF8.GetBytes(executor + '\0');
        var room = System.Text.Encoding.ASCII.GetBytes(Room + '\0');
        var arguments = new byte[40];
        var strings = child.Scratch + 64;
        BitConverter.TryWriteBytes(arguments.AsSpan(0), strings);
        BitConverter.TryWriteBytes(arguments.AsSpan(16), strings + (ulong)path.Length);
        child.WriteScratch(arguments, 0);
        child.WriteScratch(path, 64);
        child.WriteScratch(room, 64 + path.Length);
        var scratch = child.Scratch;
        child._registers.Rax = SysExecve;
        child._registers.Rdi = strings;
        child._registers.Rsi = scratch;
        child._registers.Rdx = scratch + 16;
        child._registers.Rip = Executor.Syscall;
        child.SetRegisters();
        child.Resume();
        var status = child.WaitStop();
        if (status >> 16 != EventExec)
            throw new InvalidOperationException($"execve of the executor: status {status:x}");
        Check(LibC.ptrace_registers(LibC.PtraceGetRegisters, child.Pid, 0, ref child._registers), "PTRACE_GETREGS");
        child._registers.OrigRax = ulong.MaxValue;
        child.Scratch = child._registers.Rsp & ~0xfffUL;
        child.CloseFiles();
        // execve is still on its way out and writes its result over the number of the first call: this one is for that.
        child.Call(SysRead);
        return child;
    }

    /// <summary>
    /// Keeps the process on one processor, so that per-processor caches of the kernel answer the same each time.
    /// </summary>
    public void KeepOn(int processor) => LibC.KeepOn(Pid, processor);

    /// <summary>Runs a system call; the raw return value, negative errno included.</summary>
    public long Call(ulong number, ulong a = 0, ulong b = 0, ulong c = 0, ulong d = 0, ulong e = 0, ulong f = 0)
    {
        Begin(number, a, b, c, d, e, f);
        var status = WaitStop();
        if (Ended is not null) return 0;
        Expect(status, SigTrap);
        return (long)ReadResult();
    }

    /// <summary>fork; null with the errno.</summary>
    public Tracee? Fork(out Errno error)
    {
        error = Errno.None;
        Begin(SysFork, 0, 0, 0, 0, 0, 0);
        var status = WaitStop();
        if (status >> 16 != EventFork)
        {
            Expect(status, SigTrap);
            error = (Errno)(-(long)ReadResult());
            return null;
        }

        var message = 0UL;
        Check(LibC.ptrace_message(LibC.PtraceGetEventMessage, Pid, 0, ref message), "PTRACE_GETEVENTMSG");
        var child = new Tracee((int)message) { Scratch = Scratch, _registers = _registers };
        var stop = child.WaitStop();
        if (stop >> 16 != EventStop) throw new InvalidOperationException($"a forked child stopped with {stop:x}");
        Resume();
        Expect(WaitStop(), SigTrap);
        Check(LibC.ptrace_registers(LibC.PtraceGetRegisters, child.Pid, 0, ref child._registers), "PTRACE_GETREGS");
        child._registers.OrigRax = ulong.MaxValue;
        return child;
    }

    /// <summary>Loads one byte, or stores <paramref name="value"/>; the signal says why not.</summary>
    public UserSignal Touch(ulong address, byte? value, out byte loaded)
    {
        _registers.Rdi = address;
        _registers.Rsi = value ?? 0;
        _registers.Rip = value is null ? Executor.Load : Executor.Store;
        SetRegisters();
        Resume();
        var status = WaitStop();
        loaded = 0;
        if (Ended is not null) return UserSignal.OutOfMemory;
        var signal = (status >> 8) & 0xff;
        if (signal == SigTrap)
        {
            if (value is null) loaded = (byte)ReadResult();
            return UserSignal.None;
        }

        var info = new SignalInfo();
        Check(LibC.ptrace_signal(LibC.PtraceGetSignalInfo, Pid, 0, ref info), "PTRACE_GETSIGINFO");
        return (signal, info.Code) switch
        {
            (SigSegv, 1) => UserSignal.SigSegvMapErr,
            (SigSegv, 2) => UserSignal.SigSegvAccErr,
            (SigSegv, 4) => UserSignal.SigSegvKey,
            (SigSegv, 128) => UserSignal.SigSegvNonCanonical,
            (SigBus, 4 or 5) => UserSignal.SigBusPoison,
            (SigBus, _) => UserSignal.SigBus,
            _ => throw new InvalidOperationException($"a touch ended with signal {signal}, code {info.Code}"),
        };
    }

    public void WriteScratch(ReadOnlySpan<byte> bytes, int offset)
    {
        // Through /proc/PID/mem, which takes plain references: process_vm_writev would count as pins.
        var done = LibC.Write(MemFd, bytes, Scratch + (ulong)offset);
        if (done != bytes.Length) throw new Win32Exception((int)-done, "writing the tracee's scratch page");
    }

    public void WriteSource(ReadOnlySpan<byte> page) => WriteScratch(page, (int)(Source - Scratch));

    public void ReadScratch(Span<byte> bytes, int offset)
    {
        var done = LibC.Read(MemFd, bytes, Scratch + (ulong)offset);
        if (done != bytes.Length) throw new Win32Exception((int)-done, "reading the tracee's scratch page");
    }

    /// <summary>Ends the process and waits until it is gone.</summary>
    public void Exit()
    {
        if (Ended is not null) return;
        Begin(SysExit, 0, 0, 0, 0, 0, 0);
        WaitStop();
        if (Ended is null) throw new InvalidOperationException("a tracee did not exit");
        CloseFiles();
    }

    public void Dispose()
    {
        if (Ended is null)
        {
            LibC.kill(Pid, SigKill);
            while (Ended is null) WaitStop();
        }

        CloseFiles();
    }

    private void Begin(ulong number, ulong a, ulong b, ulong c, ulong d, ulong e, ulong f)
    {
        _registers.Rax = number;
        _registers.Rdi = a;
        _registers.Rsi = b;
        _registers.Rdx = c;
        _registers.R10 = d;
        _registers.R8 = e;
        _registers.R9 = f;
        _registers.Rip = Executor.Syscall;
        SetRegisters();
        Resume();
    }

    private void SetRegisters() =>
        Check(LibC.ptrace_registers(LibC.PtraceSetRegisters, Pid, 0, ref _registers), "PTRACE_SETREGS");

    private void Resume() => Check(LibC.ptrace(LibC.PtraceContinue, Pid, 0, 0), "PTRACE_CONT");

    private ulong ReadResult()
    {
        const ulong offsetOfRax = 80;
        // The raw call stores the word through its last argument; glibc returns it.
        Marshal.SetLastPInvokeError(0);
        return (ulong)LibC.ptrace(LibC.PtracePeekUser, Pid, offsetOfRax, 0);
    }

    /// <summary>Waits until the process stops or ends; its status.</summary>
    private int WaitStop()
    {
        var status = 0;
        int result;
        do
        {
            result = LibC.waitpid(Pid, ref status, LibC.WaitAll);
        }
        while (result < 0 && Marshal.GetLastPInvokeError() == 4);
        if (result < 0)
        {
            Ended = -1;
            return -1;
        }

        var isStopped = (status & 0xff) == 0x7f;
        if (!isStopped) Ended = status;
        return status;
    }

    private static void Expect(int status, int signal)
    {
        if (((status >> 8) & 0xff) != signal)
            throw new InvalidOperationException($"a tracee stopped with status {status:x}");
    }

    private int OpenProc(string name, int flags = 0)
    {
        var fd = LibC.Open($"/proc/{Pid}/{name}", flags);
        return fd >= 0 ? fd : throw new Win32Exception(-fd, $"opening /proc/{Pid}/{name}");
    }

    private void CloseFiles()
    {
        foreach (var fd in (int[])[_mapsFd, _smapsFd, _pagemapFd, _memFd])
            if (fd >= 0) _ = LibC.close(fd);
        _mapsFd = _smapsFd = _pagemapFd = _memFd = -1;
    }

    private static void Check(long result, string what)
    {
        if (result == -1) throw new Win32Exception(Marshal.GetLastPInvokeError(), what);
    }
}
