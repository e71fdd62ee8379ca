using System.Buffers.Binary;
using System.ComponentModel;
using System.Runtime.InteropServices;

namespace FramePin.Conformance.Native;

/// <summary>
/// A tracee's io_uring, reached by a copy of its descriptor: moves single bytes through its registered buffer, as a
/// device would, without the tracee mapping anything.
/// </summary>
internal sealed unsafe class Ring : IDisposable
{
    private const int Length = 4096;
    private const ulong OffsetSubmissions = 0x1000_0000;
    private const byte ReadFixed = 4;
    private const byte WriteFixed = 5;
    private const int GetEvents = 1;

    private readonly int _fd;
    private readonly int _file;
    private readonly byte* _ring;
    private readonly byte* _submissions;
    private readonly uint _tail, _mask, _array, _completionHead, _completionMask, _completions;

    /// <summary>
    /// Opens ring <paramref name="fd"/> of process <paramref name="pid"/>; <paramref name="parameters"/> as
    /// io_uring_setup left them.
    /// </summary>
    public Ring(int pid, ulong fd, ReadOnlySpan<byte> parameters)
    {
        RemoteFd = fd;
        var process = LibC.pidfd_open(pid, 0);
        _fd = LibC.pidfd_getfd(process, (int)fd, 0);
        var error = Marshal.GetLastPInvokeError();
        _ = LibC.close(process);
        if (_fd < 0) throw new Win32Exception(error, "pidfd_getfd");
        // struct io_sqring_offsets at 40, io_cqring_offsets at 80.
        _tail = Word(parameters, 44);
        _mask = Word(parameters, 48);
        _array = Word(parameters, 64);
        _completionHead = Word(parameters, 80);
        _completionMask = Word(parameters, 88);
        _completions = Word(parameters, 100);
        _ring = Map(0);
        _submissions = Map(OffsetSubmissions);
        fixed (byte* name = "ring\0"u8) _file = LibC.memfd_create(name, 0);
        LibC.Write(_file, stackalloc byte[1], 0);
    }

    /// <summary>The descriptor's number in the tracee.</summary>
    public ulong RemoteFd { get; }

    /// <summary>
    /// Reads the byte at <paramref name="address"/> of the registered buffer, or writes <paramref name="value"/>.
    /// </summary>
    public byte Copy(ulong address, byte? value, out int result)
    {
        Span<byte> one = [value ?? 0];
        if (value is not null) LibC.Write(_file, one, 0);
        var tail = *(uint*)(_ring + _tail);
        var index = tail & *(uint*)(_ring + _mask);
        // SAFETY: both areas were mapped above and the index is masked by the ring's own size (64 bytes an entry).
        var entry = new Span<byte>(_submissions + (index * 64), 64);
        entry.Clear();
        entry[0] = value is null ? WriteFixed : ReadFixed;
        BinaryPrimitives.WriteInt32LittleEndian(entry[4..], _file);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[16..], address);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[24..], 1);
        ((uint*)(_ring + _array))[index] = index;
        Volatile.Write(ref *(uint*)(_ring + _tail), tail + 1);
        var done = LibC.syscall_enter(426, _fd, 1, 1, GetEvents, null, 0);
        if (done < 0) throw new Win32Exception(Marshal.GetLastPInvokeError(), "io_uring_enter");
        var head = *(uint*)(_ring + _completionHead);
        var completion = _ring + _completions + ((head & *(uint*)(_ring + _completionMask)) * 16);
        result = *(int*)(completion + 8);
        Volatile.Write(ref *(uint*)(_ring + _completionHead), head + 1);
        if (value is null) LibC.Read(_file, one, 0);
        return one[0];
    }

    public void Dispose()
    {
        _ = LibC.munmap(_ring, Length);
        _ = LibC.munmap(_submissions, Length);
        _ = LibC.close(_fd);
        _ = LibC.close(_file);
    }

    private byte* Map(ulong offset)
    {
        const int readWrite = 3;
        const int sharedPopulate = 0x8001;
        var address = LibC.mmap(null, Length, readWrite, sharedPopulate, _fd, offset);
        return (nint)address != -1
            ? (byte*)address
            : throw new Win32Exception(Marshal.GetLastPInvokeError(), "mapping a ring");
    }

    private static uint Word(ReadOnlySpan<byte> parameters, int at) =>
        BinaryPrimitives.ReadUInt32LittleEndian(parameters[at..]);
}
