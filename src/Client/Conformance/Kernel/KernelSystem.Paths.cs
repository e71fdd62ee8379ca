using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using FramePin.Conformance.Native;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Backing;

namespace FramePin.Conformance.Kernel;

/// <summary>The steps that go by io_uring, pipes, pagemap and userfaultfd.</summary>
public sealed partial class KernelSystem
{
    /// <summary>0, or the negative errno of io_uring_setup.</summary>
    private long EnsureRing(int process, Tracee tracee)
    {
        if (_rings.ContainsKey(process)) return 0;
        tracee.WriteScratch(new byte[120], 0);
        var result = tracee.Call(SystemCall.IoUringSetup, 4, tracee.Scratch);
        if (result < 0) return result;
        var fd = (ulong)result;
        var parameters = new byte[120];
        tracee.ReadScratch(parameters, 0);
        _rings[process] = new Ring(tracee.Pid, fd, parameters);
        return 0;
    }

    private string Register(int process, Tracee tracee, ulong address, ulong length)
    {
        const ulong registerBuffers = 0;
        Span<byte> vector = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(vector, address);
        BinaryPrimitives.WriteUInt64LittleEndian(vector[8..], length);
        tracee.WriteScratch(vector, 0);
        var result = tracee.Call(
            SystemCall.IoUringRegister, _rings[process].RemoteFd, registerBuffers, tracee.Scratch, 1);
        if (result == 0) _registered[process] = (address, length);
        return Text(result);
    }

    private string Unregister(int process, Tracee tracee)
    {
        const ulong unregisterBuffers = 1;
        if (!_registered.Remove(process)) return "-ENXIO";
        return Text(tracee.Call(SystemCall.IoUringRegister, _rings[process].RemoteFd, unregisterBuffers));
    }

    private string RegisteredCopy(int process, ulong offset, byte? value)
    {
        if (!_registered.TryGetValue(process, out var buffer) || offset >= buffer.Length) return "none";
        // FramePin's side starts at the page; io_uring takes addresses inside the buffer.
        var address = Math.Max(buffer.Address, (buffer.Address & ~(Page - 1)) + offset);
        var copied = _rings[process].Copy(address, value, out var result);
        return result < 0 ? Text(result) : value is null ? Byte(copied) : "ok";
    }

    private string Vmsplice(Tracee tracee, ulong address, ulong length)
    {
        if (_pipeHeld > 0) return "pipe full";
        const ulong nonBlock = 2;
        length = Math.Min(length, PipePages * Page);
        Span<byte> vector = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(vector, address);
        BinaryPrimitives.WriteUInt64LittleEndian(vector[8..], length);
        tracee.WriteScratch(vector, 0);
        var result = tracee.Call(SystemCall.Vmsplice, _pipeWrite, tracee.Scratch, 1, nonBlock);
        if (result > 0) _pipeHeld = (int)((result + (long)Page - 1) / (long)Page);
        return Text(result);
    }

    private string Drain()
    {
        if (_pipeHeld == 0) return "empty";
        var text = "";
        for (; _pipeHeld > 0; _pipeHeld--)
        {
            var done = FileRead(_pipeFd, _buffer.AsSpan(0, (int)Page));
            text += " " + (done > 0 ? Byte(_buffer[0]) : Text(done));
        }

        return text.TrimStart();
    }

    private void Empty(int fd)
    {
        while (FileRead(fd, _buffer) > 0)
        {
        }
    }

    private static long FileRead(int fd, Span<byte> buffer) => LibC.ReadNext(fd, buffer);

    private string Pagemap(Tracee tracee, ulong address, ulong length)
    {
        var entries = _entries.AsSpan(0, (int)(length / Page));
        if (LibC.Read(tracee.PagemapFd, MemoryMarshal.AsBytes(entries), address / Page * 8) <= 0) return "EOF";
        var text = new List<string>();
        for (var page = 0; page < entries.Length; page++)
        {
            var entry = entries[page];
            text.Add(SnapshotWriter.Letters(entry, page, () => _host.MapCount(entry & SnapshotWriter.PfnMask)));
        }

        return string.Join(' ', text);
    }

    /// <summary>userfaultfd on the range, then UFFDIO_POISON.</summary>
    private static string Poison(Tracee tracee, ulong address, ulong length)
    {
        const ulong ioctl = 16;
        const ulong userfaultfd = 323;
        const ulong api = 0xc018_aa3f;
        const ulong register = 0xc020_aa00;
        const ulong poison = 0xc020_aa08;
        const ulong featurePoison = 1 << 14;
        var fd = tracee.Call(userfaultfd, 0);
        if (fd < 0) return Text(fd);
        foreach (var (request, words) in ((ulong, ulong[])[])[
            (api, [0xaa, featurePoison, 0]), (register, [address, length, 1, 0]), (poison, [address, length, 0, 0])])
        {
            tracee.WriteScratch(MemoryMarshal.AsBytes<ulong>(words), 0);
            var result = tracee.Call(ioctl, (ulong)fd, request, tracee.Scratch);
            if (result < 0) return Text(result);
        }

        return "0x0";
    }

    /// <summary>A userfaultfd of the process whose faults end in SIGBUS, and one ioctl on it.</summary>
    private string Uffd(Tracee tracee, Step step)
    {
        const ulong ioctl = 16;
        const ulong userfaultfd = 323;
        const ulong api = 0xc018_aa3f;
        const ulong featureSigBus = 1 << 7;
        const ulong register = 0xc020_aa00, unregister = 0x8010_aa01, copy = 0xc028_aa03, zero = 0xc020_aa04,
        protect = 0xc018_aa06;
        if (!_uffds.TryGetValue(step.Process, out var fd))
        {
            var made = tracee.Call(userfaultfd, 0);
            if (made < 0) return Text(made);
            fd = (ulong)made;
            tracee.WriteScratch(MemoryMarshal.AsBytes<ulong>([0xaa, featureSigBus, 0]), 0);
            Must(tracee.Call(ioctl, fd, api, tracee.Scratch), "UFFDIO_API");
            _uffds[step.Process] = fd;
        }

        const int arguments = 64;
        var (request, words, resultAt) = step.Kind switch
        {
            StepKind.UffdRegister => (register, (ulong[])[step.A, step.B, step.C, 0], -1),
            StepKind.UffdUnregister => (unregister, [step.A, step.B], -1),
            StepKind.UffdCopy => (copy, [step.A, tracee.Source, Page, 0, 0], 4),
            StepKind.UffdZero => (zero, [step.A, Page, 0, 0], 3),
            _ => (protect, [step.A, step.B, step.C], -1),
        };
        if (step.Kind == StepKind.UffdCopy) tracee.WriteSource(Filled(Page, step.B));
        tracee.WriteScratch(MemoryMarshal.AsBytes<ulong>(words), arguments);
        var result = tracee.Call(ioctl, fd, request, tracee.Scratch + arguments);
        // The last word holds the bytes copied or the errno. The call itself says only that a part was not copied.
        if (resultAt < 0 || result is < 0 and not -(long)Errno.EAGAIN) return Text(result);
        Span<byte> done = stackalloc byte[8];
        tracee.ReadScratch(done, arguments + (resultAt * 8));
        return Text(BinaryPrimitives.ReadInt64LittleEndian(done));
    }

    private static string MovePages(Tracee tracee, ulong address, ulong length)
    {
        var pages = (int)(length / Page);
        var arguments = new byte[pages * 12];
        for (var i = 0; i < pages; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(arguments.AsSpan(i * 8), address + ((ulong)i * Page));
        tracee.WriteScratch(arguments, 0);
        var result = tracee.Call(
            SystemCall.MovePages, 0, (ulong)pages, tracee.Scratch, 0, tracee.Scratch + (ulong)(pages * 8), 0);
        if (result != 0) return Text(result);
        tracee.ReadScratch(arguments, 0);
        return string.Join(' ', Enumerable.Range(0, pages).Select(i =>
        {
            var status = BinaryPrimitives.ReadInt32LittleEndian(arguments.AsSpan((pages * 8) + (i * 4)));
            return status >= 0 ? $"n{status}" : $"{(Errno)(-status)}";
        }));
    }
}
