using System.Globalization;
using System.Text;

namespace FramePin.Conformance.Scripts;

/// <summary>What a step does. The comment names its arguments, in order.</summary>
public enum StepKind
{
    /// <summary>address, length, prot, flags, file (0 none, else index + 1), offset.</summary>
    Mmap,
    /// <summary>address, length.</summary>
    Munmap,
    /// <summary>address, length, prot.</summary>
    Mprotect,
    /// <summary>address, old length, new length, flags, new address.</summary>
    Mremap,
    /// <summary>address, length, advice.</summary>
    Madvise,
    /// <summary>address, length, flags.</summary>
    Mlock,
    /// <summary>address, length.</summary>
    Munlock,
    /// <summary>flags.</summary>
    MlockAll,
    MunlockAll,
    /// <summary>bytes above the start of the heap.</summary>
    Brk,
    /// <summary>address, length.</summary>
    Mseal,
    /// <summary>address, length, flags.</summary>
    Msync,
    /// <summary>address, length: one digit a page.</summary>
    Mincore,
    /// <summary>address: one byte.</summary>
    Load,
    /// <summary>address, value: one byte.</summary>
    Store,
    /// <summary>A child, the next process number.</summary>
    Fork,
    Exit,
    /// <summary>file, size.</summary>
    Truncate,
    /// <summary>file, offset, length.</summary>
    PunchHole,
    /// <summary>file, offset, value: one byte.</summary>
    FileWrite,
    /// <summary>file, offset: one byte.</summary>
    FileRead,
    /// <summary>file: F_SEAL_WRITE.</summary>
    Seal,
    /// <summary>address, length: io_uring REGISTER_BUFFERS (PIN, WRITE, LONGTERM), kept.</summary>
    Register,
    /// <summary>offset: one byte of the registered buffer, as the device sees it.</summary>
    RegisteredRead,
    /// <summary>offset, value.</summary>
    RegisteredWrite,
    Unregister,
    /// <summary>address, length: vmsplice into a pipe (GET), kept.</summary>
    Vmsplice,
    /// <summary>Reads the pipe dry: first byte of each page.</summary>
    Drain,
    /// <summary>address, length: process_vm_readv (PIN, remote).</summary>
    ProcessRead,
    /// <summary>address, length, value: process_vm_writev.</summary>
    ProcessWrite,
    /// <summary>address, length: /proc/PID/mem (GET, remote, FORCE).</summary>
    MemRead,
    /// <summary>address, length, value.</summary>
    MemWrite,
    /// <summary>address, length: user memory to a disk file with O_DIRECT (PIN).</summary>
    DirectWrite,
    /// <summary>address, length: a disk file into user memory with O_DIRECT (PIN, WRITE).</summary>
    DirectRead,
    /// <summary>address, length: write to a pipe (copy_from_user).</summary>
    CopyFrom,
    /// <summary>address, length: read of /dev/zero (clear_user).</summary>
    Clear,
    /// <summary>address: FUTEX_WAKE of a shared futex (GET fast, WRITE, then read).</summary>
    Futex,
    /// <summary>address: FUTEX_WAKE_OP of private futexes (fixup_user_fault where the page is not writable).</summary>
    FutexOp,
    /// <summary>address, length: what /proc/PID/pagemap and the map counts say of each page.</summary>
    Pagemap,
    /// <summary>address, length: UFFDIO_POISON.</summary>
    Poison,
    /// <summary>
    /// address, length, modes: UFFDIO_REGISTER with a userfaultfd of the process that answers by SIGBUS.
    /// </summary>
    UffdRegister,
    /// <summary>address, length.</summary>
    UffdUnregister,
    /// <summary>address, value: UFFDIO_COPY of a page filled with the value.</summary>
    UffdCopy,
    /// <summary>address: UFFDIO_ZEROPAGE of a page.</summary>
    UffdZero,
    /// <summary>address, length, on: UFFDIO_WRITEPROTECT.</summary>
    UffdProtect,
    /// <summary>resource, bytes: the soft limit of setrlimit; all ones for unlimited.</summary>
    Limit,
    /// <summary>The process becomes an ordinary user: setresuid.</summary>
    DropRights,
    /// <summary>flags: prctl(PR_SET_MDWE).</summary>
    Mdwe,
    /// <summary>address, length: move_pages without a target: 1 a page on node 0, else its errno.</summary>
    MovePages,
}

/// <summary>
/// One step of a script: a call by one of the script's processes. Addresses, lengths and offsets in bytes.
/// </summary>
public sealed record Step(
    int Process, StepKind Kind, ulong A = 0, ulong B = 0, ulong C = 0, ulong D = 0, ulong E = 0, ulong F = 0)
{
    private static readonly Dictionary<StepKind, string[]> Names = new()
    {
        [StepKind.Mmap] = ["addr", "len", "prot", "flags", "file", "off"],
        [StepKind.Munmap] = ["addr", "len"],
        [StepKind.Mprotect] = ["addr", "len", "prot"],
        [StepKind.Mremap] = ["addr", "old", "new", "flags", "to"],
        [StepKind.Madvise] = ["addr", "len", "advice"],
        [StepKind.Mlock] = ["addr", "len", "flags"],
        [StepKind.Munlock] = ["addr", "len"],
        [StepKind.MlockAll] = ["flags"],
        [StepKind.MunlockAll] = [],
        [StepKind.Brk] = ["size"],
        [StepKind.Mseal] = ["addr", "len"],
        [StepKind.Msync] = ["addr", "len", "flags"],
        [StepKind.Mincore] = ["addr", "len"],
        [StepKind.Load] = ["addr"],
        [StepKind.Store] = ["addr", "value"],
        [StepKind.Fork] = [],
        [StepKind.Exit] = [],
        [StepKind.Truncate] = ["file", "size"],
        [StepKind.PunchHole] = ["file", "off", "len"],
        [StepKind.FileWrite] = ["file", "off", "value"],
        [StepKind.FileRead] = ["file", "off"],
        [StepKind.Seal] = ["file"],
        [StepKind.Register] = ["addr", "len"],
        [StepKind.RegisteredRead] = ["off"],
        [StepKind.RegisteredWrite] = ["off", "value"],
        [StepKind.Unregister] = [],
        [StepKind.Vmsplice] = ["addr", "len"],
        [StepKind.Drain] = [],
        [StepKind.ProcessRead] = ["addr", "len"],
        [StepKind.ProcessWrite] = ["addr", "len", "value"],
        [StepKind.MemRead] = ["addr", "len"],
        [StepKind.MemWrite] = ["addr", "len", "value"],
        [StepKind.DirectWrite] = ["addr", "len"],
        [StepKind.DirectRead] = ["addr", "len"],
        [StepKind.CopyFrom] = ["addr", "len"],
        [StepKind.Clear] = ["addr", "len"],
        [StepKind.Futex] = ["addr"],
        [StepKind.FutexOp] = ["addr"],
        [StepKind.MovePages] = ["addr", "len"],
        [StepKind.Limit] = ["resource", "bytes"],
        [StepKind.DropRights] = [],
        [StepKind.Mdwe] = ["flags"],
        [StepKind.Pagemap] = ["addr", "len"],
        [StepKind.Poison] = ["addr", "len"],
        [StepKind.UffdRegister] = ["addr", "len", "modes"],
        [StepKind.UffdUnregister] = ["addr", "len"],
        [StepKind.UffdCopy] = ["addr", "value"],
        [StepKind.UffdZero] = ["addr"],
        [StepKind.UffdProtect] = ["addr", "len", "on"],
    };

    /// <summary>The step as a line of a script file: <c>0 Mmap addr=0x10000000 len=0x4000 ...</c>.</summary>
    public override string ToString()
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"{Process} {Kind}");
        var names = Names[Kind];
        for (var i = 0; i < names.Length; i++)
            text.Append(CultureInfo.InvariantCulture, $" {names[i]}=0x{Argument(i):x}");
        return text.ToString();
    }

    /// <summary>
    /// Reads a line that <see cref="ToString"/> wrote. Throws <see cref="FormatException"/> with what is wrong.
    /// </summary>
    public static Step Parse(string line)
    {
        var parts = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        if (parts.Length < 2 || !int.TryParse(parts[0], CultureInfo.InvariantCulture, out var process)
            || !Enum.TryParse<StepKind>(parts[1], out var kind))
            throw new FormatException($"not a step: '{line}' (wanted: PROCESS KIND name=value ...)");
        var names = Names[kind];
        Span<ulong> values = stackalloc ulong[6];
        foreach (var part in parts[2..])
        {
            var (name, value) = part.Split('=', 2) is [var n, var v] ? (n, v) : (part, "");
            var at = Array.IndexOf(names, name);
            if (at < 0 || !value.StartsWith("0x", StringComparison.Ordinal)
                || !ulong.TryParse(
                    value.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out values[at]))
                throw new FormatException($"{kind} takes {string.Join(", ", names)} as name=0xVALUE, not '{part}'");
        }

        return new Step(process, kind, values[0], values[1], values[2], values[3], values[4], values[5]);
    }

    private ulong Argument(int index) => index switch { 0 => A, 1 => B, 2 => C, 3 => D, 4 => E, _ => F };
}
